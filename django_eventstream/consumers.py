"""The endpoint, as a Channels consumer."""

from __future__ import annotations

import asyncio
import functools
import logging
from io import BytesIO
from typing import Any

from asgiref.sync import markcoroutinefunction
from channels.generic.http import AsyncHttpConsumer
from channels.sessions import InstanceSessionWrapper
from django.core.handlers.asgi import ASGIRequest

from . import threads, views
from .streaming import Stream

logger = logging.getLogger("django_eventstream")


class EventsConsumer(AsyncHttpConsumer):  # type: ignore[misc]
    """Serves the view ``events`` where no Django middleware runs.

    The user and the session are those of the scope, as ``AuthMiddlewareStack`` sets them; the
    view's keyword arguments those of the URL route.
    """

    @classmethod
    def as_asgi(cls, **initkwargs: Any) -> Any:
        """Return the ASGI application, made with ``initkwargs`` for each request.

        AsyncConsumer's is a coroutine around this one's, and holds the scope.
        """

        def application(scope: Any, receive: Any, send: Any) -> Any:
            return cls(**initkwargs)(scope, receive, send)

        functools.update_wrapper(application, cls, updated=())
        vars(application).update(consumer_class=cls, consumer_initkwargs=initkwargs)
        return markcoroutinefunction(application)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request.

        In place of the dispatch of AsyncConsumer, which hears of a disconnect only when
        ``handle`` has returned, and opens a channel on the channel layer for each consumer.
        """
        serving = asyncio.current_task()
        if serving is None:  # there are servers with coroutines of their own making
            await asyncio.ensure_future(self(scope, receive, send))
            return
        self.scope = scope
        self.base_send = send
        del scope
        if not await _receive_request(receive):
            return
        # What wakes at each event is a task of its own: the server's would do so through the
        # frames of all middleware. And the server's waits here, for a third would be a KB more.
        # (Nor is what waits divided into functions: each is 0.2 KB for as long as the stream.)
        self._listening: asyncio.Task[Any] | None = serving
        answering = asyncio.ensure_future(self._answer())
        answering.add_done_callback(self._stop_listening)
        try:
            # Until the client has gone, or the server cannot tell.
            while (await receive())["type"] != "http.disconnect":
                pass
        except asyncio.CancelledError:
            if not answering.done():
                raise  # by the server
            _uncancel(serving)
            if not answering.cancelled():  # as one is that was cut off, which is no error
                answering.result()
        except Exception:
            logger.debug("Taking a client for gone: the server does not tell", exc_info=True)
        finally:
            self._listening = None
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)

    def _stop_listening(self, answering: asyncio.Task[None]) -> None:
        if self._listening is not None:
            self._listening.cancel()

    async def _answer(self) -> None:
        stream = await self.handle(b"")
        # Whoever was cancelled meanwhile may have made nothing of it.
        if stream is None or self._listening is None:
            return
        del self.scope
        send = _past_sessions(self.base_send)
        try:
            while True:
                # Without a name, which would hold the last part until there is another.
                await send(
                    {
                        "type": "http.response.body",
                        "body": await stream.__anext__(),
                        "more_body": True,
                    }
                )
        except StopAsyncIteration:
            await self.send_body(b"")
        finally:
            stream.leave()

    async def handle(self, body: bytes) -> Stream | None:
        """Answer the request; return the stream whose parts are to follow the headers, if any."""
        request = self.get_request(body)
        kwargs = self.scope.get("url_route", {}).get("kwargs", {})
        response: Any
        if views.may_block(request):
            response = await threads.run_request(views.events, request, **kwargs)
        else:
            response = views.events(request, **kwargs)
        headers = [(name.encode(), value.encode("latin-1")) for name, value in response.items()]
        await self.send_headers(status=response.status_code, headers=headers)
        if isinstance(response, views.EventStreamResponse):
            assert isinstance(response.stream, Stream)
            # Without the request and the response: 6 KB, which it would hold for hours.
            return response.stream
        await self.send_body(response.content)
        response.close()
        return None

    def get_request(self, body: bytes) -> ASGIRequest:
        """Return Django's request for the scope."""
        request = ASGIRequest(self.scope, BytesIO(body))
        for name in ("user", "session"):
            if name in self.scope:
                setattr(request, name, self.scope[name])
        return request


def _past_sessions(send: Any) -> Any:
    """Return what Channels' session middleware passes on to.

    It only has something to do when headers are sent; but at each part it looks whether the
    session was modified, which takes half as long again as delivering an event.
    """
    owner: Any
    while type(owner := getattr(send, "__self__", None)) is InstanceSessionWrapper:
        send = owner.real_send
    return send


async def _receive_request(receive: Any) -> bool:
    """Take the whole request; return False if the client went away meanwhile.

    Its body is dropped: no request to the endpoint has one that matters.
    """
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return False
        if not message.get("more_body", False):
            return True


def _uncancel(task: asyncio.Task[Any]) -> None:
    """Take note that a task's cancellation has been dealt with, as Python 3.11 wants it."""
    if hasattr(task, "uncancel"):
        task.uncancel()
