"""Streams as views of Django REST framework.

    router.register("events", configure_events_view_set(channels=["news"]), basename="events")

The channels are fixed in the class or by ``configure_events_view_set``, or chosen by the
client: ``?channels=a,b`` or, below the list's own URL, ``/CHANNEL/``. Naming them in more than
one of these ways is answered with 400. ``messages_types``, fixed or ``?messages_types=a,b``,
are the event types that the browsable page listens to; streams carry all types.

Authentication, permissions and throttling of the framework apply when a stream opens. What
ends open streams is the channel manager's ``can_read_channel``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

# First, for its message when Django REST framework is missing.
from .renderers import BrowsableAPIEventStreamRenderer, SSEEventRenderer

# isort: split

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.decorators import classonlymethod
from rest_framework.decorators import action
from rest_framework.exceptions import NotAcceptable, ValidationError
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.settings import api_settings
from rest_framework.viewsets import ViewSet

from .cors import add_cors_headers
from .views import events, go_on, in_no_transaction


class _AsView(classonlymethod):  # type: ignore[type-arg]  # not generic at run time
    """``as_view``, also of an instance, which 5.3.4's README registers with a router."""

    def __get__(self, instance: Any, cls: Any = None) -> Any:
        if instance is not None:
            cls = _configure(cls, instance.channels, instance.messages_types)
        return super().__get__(None, cls)


class EventsViewSet(ViewSet):  # type: ignore[misc]
    """Streams the events of the selected channels as they are sent."""

    #: The channels to stream; empty: those that the client chooses.
    channels: Sequence[str] = ()
    #: The event types that the browsable page listens to; empty: the client's, or ``message``.
    messages_types: Sequence[str] = ()
    # The framework's own default serves no streams. See get_renderers().
    renderer_classes = (SSEEventRenderer, BrowsableAPIEventStreamRenderer)
    http_method_names = ("get", "options")

    def __init__(
        self,
        channels: Iterable[str] | None = None,
        messages_types: Iterable[str] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.channels = _names("channels", self.channels if channels is None else channels)
        self.messages_types = _names(
            "messages_types", self.messages_types if messages_types is None else messages_types
        )

    @_AsView  # type: ignore[arg-type]
    def as_view(cls, actions: dict[str, str] | None = None, **initkwargs: Any) -> Any:  # noqa: N805
        """Return the view, to which ATOMIC_REQUESTS does not apply."""
        return in_no_transaction(super().as_view(actions, **initkwargs))

    def get_renderers(self) -> list[BaseRenderer]:
        """Return the renderers; that of streams first, for clients that accept anything.

        Where neither a subclass nor the project says otherwise, there is the browsable page.
        A project that sets DEFAULT_RENDERER_CLASSES has it by naming its renderer there.
        """
        classes: Sequence[type[BaseRenderer]] = self.renderer_classes
        if (
            classes is EventsViewSet.renderer_classes
            and "DEFAULT_RENDERER_CLASSES" in api_settings.user_settings
        ):
            classes = [
                renderer_class
                for renderer_class in api_settings.DEFAULT_RENDERER_CLASSES
                if issubclass(renderer_class, classes)
            ]
            if not any(issubclass(renderer_class, SSEEventRenderer) for renderer_class in classes):
                classes = [SSEEventRenderer, *classes]
        renderers = [renderer_class() for renderer_class in classes]
        return sorted(renderers, key=lambda renderer: not isinstance(renderer, SSEEventRenderer))

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Answer a request."""
        if request.method == "OPTIONS":
            # A preflight carries no credentials: authentication would refuse it.
            return events(request)
        # Nor does what a proxy asks later, with a token.
        response = go_on(request)
        if response is not None:
            return response
        return super().dispatch(request, *args, **kwargs)

    def finalize_response(
        self, request: Request, response: HttpResponseBase, *args: Any, **kwargs: Any
    ) -> Any:
        """Give errors a format, and everything but pages for people the CORS headers."""
        response = super().finalize_response(request, response, *args, **kwargs)
        if isinstance(response, Response):
            if isinstance(response.accepted_renderer, SSEEventRenderer):
                response.accepted_renderer = JSONRenderer()
                response.accepted_media_type = JSONRenderer.media_type
            elif isinstance(response.accepted_renderer, BrowsableAPIEventStreamRenderer):
                return response
        add_cors_headers(response, request)
        return response

    # format: the suffix that the framework's DefaultRouter adds to each URL (/events.json).

    def list(self, request: Request, **kwargs: Any) -> Any:
        """Stream the channels that the class or the query names."""
        return self._respond(request, ())

    @action(detail=False, url_path="(?P<channel>[^/.]+)")  # type: ignore[untyped-decorator]
    def channel(self, request: Request, channel: str, **kwargs: Any) -> Any:
        """Stream the channel that the path names."""
        return self._respond(request, (channel,))

    def _respond(self, request: Request, path: Sequence[str]) -> Any:
        channels = _choose(
            "channels",
            {
                "the view": self.channels,
                "the path": path,
                "the query": _query(request, "channels"),
            },
        )
        types = _choose(
            "messages_types",
            {"the view": self.messages_types, "the query": _query(request, "messages_types")},
        )
        if isinstance(request.accepted_renderer, BrowsableAPIEventStreamRenderer):
            return Response({"channels": channels, "messages_types": types or ["message"]})
        if isinstance(request.accepted_renderer, SSEEventRenderer):
            return events(request, channels=channels)
        # That of a subclass: nothing but streams and their page can be had here.
        raise NotAcceptable


def configure_events_view_set(
    channels: Iterable[str] | None = None, messages_types: Iterable[str] | None = None
) -> type[EventsViewSet]:
    """Return an ``EventsViewSet`` with fixed channels, with fixed event types, or both."""
    return _configure(EventsViewSet, channels, messages_types)


def _configure(
    base: type[EventsViewSet],
    channels: Iterable[str] | None,
    messages_types: Iterable[str] | None,
) -> type[EventsViewSet]:
    attributes = {
        "__doc__": base.__doc__,  # the page's description
        "__module__": base.__module__,
        "channels": _names("channels", channels or ()),
        "messages_types": _names("messages_types", messages_types or ()),
    }
    return type(f"Configured{base.__name__}", (base,), attributes)


def _names(what: str, names: Iterable[str]) -> list[str]:
    if isinstance(names, str):
        raise TypeError(f"{what} must be a list of names, not the text {names!r}")
    return list(names)


def _query(request: Request, parameter: str) -> Sequence[str]:
    values: Sequence[str] = request.query_params.getlist(parameter)
    return [name for value in values for name in value.split(",") if name]


def _choose(what: str, sources: dict[str, Sequence[str]]) -> Sequence[str]:
    """Return the names of the one source that has any."""
    given = {source: names for source, names in sources.items() if names}
    if len(given) > 1:
        raise ValidationError(
            {"error": f"Conflicting {what}: given by {' and by '.join(given)}. Give them once."}
        )
    return list(*given.values())
