"""Renderers for Django REST framework."""

try:  # it is optional
    import rest_framework as _rest_framework
except ModuleNotFoundError as error:
    raise ImportError(
        "django_eventstream's renderers and viewsets need Django REST framework: "
        "pip install django-eventstream[drf]"
    ) from error

from .browsableapieventstreamrenderer import BrowsableAPIEventStreamRenderer
from .sserenderer import SSEEventRenderer

__all__ = ["BrowsableAPIEventStreamRenderer", "SSEEventRenderer"]

del _rest_framework
