"""``path("events/", include(django_eventstream.urls), {"channels": ["test"]})``."""

from typing import Any

from django.urls import URLPattern
from django.urls.resolvers import RoutePattern

from .threads import is_in_asgi_request
from .views import aevents, events


class _Pattern(URLPattern):
    """A pattern whose view is asynchronous where Django is.

    A plain view takes a thread, which is a tenth of what opening a stream takes; an asynchronous
    one takes an event loop, which is not to be had on all WSGI servers, such as gevent's.
    """

    def resolve(self, path: str) -> Any:
        match = super().resolve(path)
        # Not in place of what a project has put around the view.
        if match is not None and match.func is events and is_in_asgi_request():
            marks = {name: mark for name, mark in vars(events).items() if name != "__wrapped__"}
            vars(aevents).update(marks)  # such as login_not_required()'s
            match.func = aevents
        return match


# Named like the package: "eventstream" might well be the name of a page of the project's.
NAME = "django_eventstream"
urlpatterns = [_Pattern(RoutePattern("", NAME, is_endpoint=True), events, None, NAME)]
