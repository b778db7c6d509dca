"""The endpoint for a Channels ``URLRouter``."""

from django.urls import path

from .consumers import EventsConsumer

urlpatterns = [path("", EventsConsumer.as_asgi())]
