"""The consumer with bare ASGI, where servers behave as few do."""

import asyncio
import tracemalloc

import pytest

from django_eventstream.consumers import EventsConsumer

SCOPE = {
    "type": "http",
    "method": "GET",
    "path": "/events/",
    "query_string": b"channel=loose-a",
    "headers": [],
    "url_route": {"kwargs": {}},
}


class Server:
    """Hands messages in, and takes what comes out."""

    def __init__(self, *messages):
        self._messages = asyncio.Queue()
        for message in messages:
            self.receive(message)
        self.sent = asyncio.Queue()

    def receive(self, message):
        self._messages.put_nowait(message)

    async def run(self, scope=SCOPE):
        await EventsConsumer.as_asgi()(scope, self._messages.get, self.sent.put)

    async def next(self):
        return await asyncio.wait_for(self.sent.get(), 10)


DISCONNECT = {"type": "http.disconnect"}


async def test_client_that_leaves_within_its_request_gets_nothing():
    server = Server({"type": "http.request", "body": b"x", "more_body": True}, DISCONNECT)
    await asyncio.wait_for(server.run(), 10)
    assert server.sent.empty()


async def test_stream_ends_when_the_client_leaves_and_leaves_nothing_behind():
    before = asyncio.all_tasks()
    server = Server({"type": "http.request", "body": b"", "more_body": False})
    running = asyncio.ensure_future(server.run())
    start = await server.next()
    assert start["status"] == 200
    assert (b"Content-Type", b"text/event-stream") in start["headers"]
    body = await server.next()
    assert body["more_body"]
    assert body["body"].endswith(b"event: stream-open\ndata:\n\n")
    server.receive({"type": "http.request"})  # no server should; it is passed over
    server.receive(DISCONNECT)
    await asyncio.wait_for(running, 10)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_cancelled_application_cancels_its_stream():
    before = asyncio.all_tasks()
    server = Server({"type": "http.request"})
    running = asyncio.ensure_future(server.run())
    await server.next()
    await server.next()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_body_is_read_to_its_end_and_not_kept():
    chunk = {"type": "http.request", "body": b"x" * 1_000_000, "more_body": True}
    server = Server(*[chunk] * 20, {"type": "http.request"})
    tracemalloc.start()
    await asyncio.wait_for(server.run({**SCOPE, "method": "POST"}), 10)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (await server.next())["status"] == 405
    assert peak < 5_000_000


async def test_what_the_project_raises_reaches_the_server(settings):
    settings.EVENTSTREAM_CHANNELMANAGER_CLASS = "tests.test_consumer.Failing"
    server = Server({"type": "http.request"})
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(server.run(), 10)


class Failing:
    """A channel manager with a bug."""

    def get_channels_for_request(self, request, view_kwargs):
        return ["a"]

    def can_read_channel(self, user, channel):
        return 1 / 0

    def is_channel_reliable(self, channel):
        return False
