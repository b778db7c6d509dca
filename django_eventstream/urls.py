"""``path("events/", include(django_eventstream.urls), {"channels": ["test"]})``."""

from django.urls import path

from .views import events

# Named like the package: "eventstream" might well be the name of a page of the project's.
urlpatterns = [path("", events, name="django_eventstream")]
