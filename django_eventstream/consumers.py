"""The endpoint, as a Channels consumer."""

from __future__ import annotations

import asyncio
from io import BytesIO
from typing import Any

from channels.generic.http import AsyncHttpConsumer
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse, StreamingHttpResponse

from . import threads, views


class EventsConsumer(AsyncHttpConsumer):  # type: ignore[misc]
    """Serves the view ``events`` where no Django middleware runs.

    The user and the session are those of the scope, as ``AuthMiddlewareStack`` sets them; the
    view's keyword arguments those of the URL route.
    """

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request.

        In place of the dispatch of AsyncConsumer, which hears of a disconnect only when
        ``handle`` has returned, and opens a channel on the channel layer for each consumer.
        """
        self.scope = scope
        self.base_send = send
        if not await _receive_request(receive):
            return
        handling = asyncio.ensure_future(self.handle(b""))
        listening = asyncio.ensure_future(_receive_disconnect(receive))
        try:
            await asyncio.wait({handling, listening}, return_when=asyncio.FIRST_COMPLETED)
            gone = listening.done() and not handling.done()
        finally:
            handling.cancel()
            listening.cancel()
            results = await asyncio.gather(handling, listening, return_exceptions=True)
        # A stream that was cut off has had itself cancelled, which is no error.
        if not gone and isinstance(results[0], Exception):
            raise results[0]

    async def handle(self, body: bytes) -> None:
        """Answer the request: headers, then the body as it comes."""
        request = self.get_request(body)
        kwargs = self.scope.get("url_route", {}).get("kwargs", {})
        response = await threads.run_request(views.events, request, **kwargs)
        headers = [(name.encode(), value.encode("latin-1")) for name, value in response.items()]
        await self.send_headers(status=response.status_code, headers=headers)
        try:
            if isinstance(response, StreamingHttpResponse):
                async for chunk in response:
                    await self.send_body(chunk, more_body=True)
                await self.send_body(b"")
            elif isinstance(response, HttpResponse):
                await self.send_body(response.content)
        finally:
            response.close()

    def get_request(self, body: bytes) -> ASGIRequest:
        """Return Django's request for the scope."""
        request = ASGIRequest(self.scope, BytesIO(body))
        for name in ("user", "session"):
            if name in self.scope:
                setattr(request, name, self.scope[name])
        return request


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


async def _receive_disconnect(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
