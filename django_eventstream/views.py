"""The endpoint, as a Django view."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIRequest
from django.db import Error as DatabaseError
from django.db import transaction
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBadRequest,
    HttpResponseNotAllowed,
    StreamingHttpResponse,
)
from django.http.response import HttpResponseBase
from django.utils.module_loading import import_string
from django.views.decorators.csrf import csrf_exempt

from .brokers import get_brokers
from .cors import add_cors_headers
from .eventrequest import EventRequest
from .exceptions import InternalError, ResumeNotAllowed, StorageUnavailable, StreamError
from .sse import encode_error, encode_retry
from .streaming import Stream, SyncStream, retry_delay

logger = logging.getLogger("django_eventstream")

CONTENT_TYPE = "text/event-stream"


# A forged POST can do no harm where every POST gets a 405.
@csrf_exempt
@transaction.non_atomic_requests
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
            return EventStreamResponse(stream, content_type=CONTENT_TYPE)
        if _is_runserver(request):
            return EventStreamResponse(SyncStream(stream), content_type=CONTENT_TYPE)
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
