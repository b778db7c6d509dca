"""``path("events/", include(django_eventstream.urls), {"channels": ["test"]})``."""

from django.urls import path

from .views import events

urlpatterns = [path("", events)]
