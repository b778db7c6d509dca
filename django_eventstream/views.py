"""The endpoint, as a Django view."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeVar

from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIRequest
from django.db import Error as DatabaseError
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBadRequest,
    HttpResponseNotAllowed,
    StreamingHttpResponse,
)
from django.http.response import HttpResponseBase
from django.utils.functional import LazyObject, empty
from django.utils.module_loading import import_string
from django.views.decorators.csrf import csrf_exempt

from . import channelmanager
from .brokers import get_brokers
from .cors import add_cors_headers
from .eventrequest import EventRequest
from .exceptions import InternalError, ResumeNotAllowed, StorageUnavailable, StreamError
from .sse import encode_error, encode_retry
from .streaming import Stream, SyncStream, retry_delay

logger = logging.getLogger("django_eventstream")

F = TypeVar("F", bound=Callable[..., Any])

CONTENT_TYPE = "text/event-stream"


class _Every(set[str]):
    """Every database's alias."""

    def __contains__(self, alias: object) -> bool:
        return True


def in_no_transaction(view: F) -> F:
    """Mark a view as one for which ATOMIC_REQUESTS does not hold, whatever the database.

    Django's decorator takes one database, and where another has ATOMIC_REQUESTS it refuses to
    call an asynchronous view.
    """
    view._non_atomic_requests = _Every()  # type: ignore[attr-defined]
    return view


# A forged POST can do no harm where every POST gets a 405.
@csrf_exempt
@in_no_transaction
def events(request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
    """Answer with a stream of the channels that ``kwargs`` and the request select.

    A plain function, to be mounted, decorated, or called from other synchronous views and from
    Django REST framework's. ``kwargs`` are those of the URL pattern.
    """
    response = _respond(request, kwargs)
    try:
        add_cors_headers(response, request)
    except ImproperlyConfigured:
        response = _misconfigured()
    response["Cache-Control"] = "no-cache, no-transform"
    response["X-Accel-Buffering"] = "no"  # nginx would collect the stream
    return response


@csrf_exempt
@in_no_transaction
async def aevents(request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
    """Answer like ``events``, without a thread where nothing blocks.

    What has to ask somebody runs on the request's own thread, where synchronous middleware may
    have left something, such as a tenant's schema on the connection.
    """
    if _scope(request) is not None and not may_block(request):
        return events(request, **kwargs)
    response: HttpResponseBase = await sync_to_async(events)(request, **kwargs)
    return response


def may_block(request: HttpRequest) -> bool:
    """Return whether ``events`` may do I/O for a request: to load its user, or ask about it."""
    try:
        return (
            channelmanager.may_block()
            or any(broker.handoff for broker in get_brokers())
            or not _is_user_known(request)
        )
    except ImproperlyConfigured:
        return False  # it says so at once


def _is_user_known(request: HttpRequest) -> bool:
    user = getattr(request, "user", None)
    if not isinstance(user, LazyObject) or vars(user)["_wrapped"] is not empty:
        return True
    # Django's middleware would load it, but knows without asking that without a session it is
    # nobody. (It is not imported: it needs apps that a project may do without.)
    loads = getattr(vars(user).get("_setupfunc"), "__module__", None)
    key = getattr(getattr(request, "session", None), "session_key", "")
    return loads == "django.contrib.auth.middleware" and key is None


class _AsItIs(HttpResponseBase):
    """A response that middleware must leave as it is."""

    def has_header(self, header: str) -> bool:
        """Claim a Content-Encoding and an ETag, without sending them.

        GZipMiddleware would compress each chunk by itself, which some clients decode no further
        than the first, or, on synchronous servers, hold chunks back. ConditionalGetMiddleware
        would answer a refused client's next request with 304 and no body.
        """
        return header.lower() in ("content-encoding", "etag") or super().has_header(header)

    __contains__ = has_header


class EventStreamResponse(_AsItIs, StreamingHttpResponse):
    """A stream."""

    def __init__(self, stream: Stream | SyncStream) -> None:
        super().__init__(stream, content_type=CONTENT_TYPE)
        self.stream = stream

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Iterate over the stream itself, unless middleware has put something around it.

        Django's own way leads through two generators, which is a quarter of what it costs to
        deliver an event.
        """
        iterator: object = vars(self)["_iterator"]
        if iterator is self.stream and isinstance(self.stream, Stream):
            return self.stream
        return super().__aiter__()


class BriefResponse(_AsItIs, HttpResponse):
    """A stream that ends with its first block."""


def _respond(request: HttpRequest, kwargs: dict[str, Any]) -> HttpResponseBase:
    if request.method == "OPTIONS":
        return HttpResponse(headers={"Allow": "GET, OPTIONS"})
    if request.method != "GET":
        return HttpResponseNotAllowed(["GET", "OPTIONS"])
    try:
        if (response := _hand_over(request, kwargs)) is not None:
            return response
        event_request = EventRequest(request, view_kwargs=kwargs)
        channels = event_request.reliable_channels()
        event_request.check_permission()
        scope = _scope(request)
        stream = Stream(event_request, channels, scope)
        if scope is not None:
            return EventStreamResponse(stream)
        if _is_runserver(request):
            return EventStreamResponse(SyncStream(stream))
    except ResumeNotAllowed as error:
        return HttpResponseBadRequest(f"{error}\n", content_type="text/plain")
    except StreamError as error:
        return _error(error)
    except ImproperlyConfigured:
        return _misconfigured()
    except (DatabaseError, StorageUnavailable):
        # The client is to come back, which a 500 would keep an EventSource from doing.
        logger.exception("Cannot open a stream, the client is to come back")
        return BriefResponse(encode_retry(retry_delay()), content_type=CONTENT_TYPE)
    return _error(
        InternalError(
            "This server cannot stream: it runs Django under WSGI. "
            "Run it under an ASGI server: uvicorn, daphne, hypercorn or granian, or let clients "
            "come through a GRIP proxy such as Pushpin. (In tests, use AsyncClient.)"
        )
    )


def go_on(request: HttpRequest) -> HttpResponse | None:
    """Return the response to a proxy that asks for more of a stream it holds, None to others.

    A token in it says who reads what, and the user is loaded and asked for anew: it is for
    views that would otherwise want somebody logged in.
    """
    try:
        return _hand_over(request, None)
    except ImproperlyConfigured:
        return _misconfigured()


def _hand_over(request: HttpRequest, kwargs: dict[str, Any] | None) -> HttpResponse | None:
    """Return the response of a proxy's driver, if the request came through one."""
    for broker in get_brokers():
        if broker.handoff:
            response: HttpResponse | None = import_string(broker.handoff)(request, kwargs)
            if response is not None:
                return response
    return None


def _misconfigured() -> HttpResponse:
    logger.exception("Event streams are not configured correctly")  # which clients need not know
    return _error(InternalError("The server's event streams are not configured correctly."))


def _error(error: StreamError) -> HttpResponse:
    return BriefResponse(encode_error(error.members), content_type=CONTENT_TYPE)


def _scope(request: HttpRequest) -> Mapping[str, Any] | None:
    """Return the request's ASGI scope, None under WSGI."""
    # Django REST framework wraps the request.
    django_request = getattr(request, "_request", request)
    return django_request.scope if isinstance(django_request, ASGIRequest) else None


def _is_runserver(request: HttpRequest) -> bool:
    """Return whether Django's development server gave the request a thread of its own."""
    software = request.META.get("SERVER_SOFTWARE", "")
    # Without threads it serves from the one that it was started on: runserver --nothreading.
    starters = ("MainThread", "django-main-thread")
    return software.startswith("WSGIServer/") and threading.current_thread().name not in starters
