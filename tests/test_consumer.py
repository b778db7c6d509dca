"""The consumer with bare ASGI, where servers behave as few do."""

import asyncio
import contextlib
import tracemalloc

import pytest
from asgiref.sync import iscoroutinefunction

from django_eventstream import hub
from django_eventstream.consumers import EventsConsumer
from tests.test_streaming import reached

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
    await reached(lambda: asyncio.all_tasks() == before)


async def test_cancelled_application_cancels_its_stream():
    before = asyncio.all_tasks()
    server = Server({"type": "http.request"})
    running = asyncio.ensure_future(server.run())
    await server.next()
    await server.next()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await reached(lambda: asyncio.all_tasks() == before)


async def test_client_that_left_is_no_cancellation_of_the_servers_task():
    server = Server({"type": "http.request"})

    async def serve():
        await server.run()
        task = asyncio.current_task()
        return task.cancelling() if hasattr(task, "cancelling") else 0

    running = asyncio.ensure_future(serve())
    await server.next()
    await server.next()
    server.receive(DISCONNECT)
    assert await asyncio.wait_for(running, 10) == 0


async def test_nothing_is_streamed_if_the_cancellation_was_swallowed_on_the_way():
    entered = asyncio.Event()

    class Stubborn(EventsConsumer):
        async def handle(self, body):
            entered.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            return await super().handle(body)

    server = Server({"type": "http.request"})
    application = Stubborn.as_asgi()
    running = asyncio.ensure_future(application(SCOPE, server._messages.get, server.sent.put))
    await entered.wait()
    server.receive(DISCONNECT)
    await asyncio.wait_for(running, 10)
    assert (await server.next())["type"] == "http.response.start"
    assert server.sent.empty()
    assert not hub.count_streams()


async def test_client_is_gone_when_the_server_cannot_tell():
    server = Server({"type": "http.request"})
    sent = asyncio.Event()

    async def receive():
        if server._messages.empty():
            await sent.wait()
            raise ConnectionError
        return server._messages.get_nowait()

    async def send(message):
        if message["type"] == "http.response.body":
            sent.set()

    await asyncio.wait_for(EventsConsumer.as_asgi()(SCOPE, receive, send), 10)


async def test_stream_that_is_cut_off_ends_without_an_error():
    blocked = asyncio.Event()

    async def send(message):
        if message["type"] == "http.response.body":
            blocked.set()
            await asyncio.Event().wait()

    server = Server({"type": "http.request"})
    receive = server._messages.get
    running = asyncio.ensure_future(EventsConsumer.as_asgi()(SCOPE, receive, send))
    await asyncio.wait_for(blocked.wait(), 10)
    hub.get_hub().call(lambda stream: stream.cut())
    await asyncio.wait_for(running, 10)


async def test_server_without_tasks_is_served_in_one():
    server = Server({"type": "http.request"}, DISCONNECT)
    done = asyncio.get_running_loop().create_future()
    coroutine = server.run()

    def step(_=None):
        # As a server does that makes its own coroutines run.
        try:
            future = coroutine.send(None)
        except StopIteration as result:
            done.set_result(result.value)
        else:
            future.add_done_callback(step) if future else loop.call_soon(step)

    loop = asyncio.get_running_loop()
    loop.call_soon(step)
    await asyncio.wait_for(done, 10)


def test_application_is_a_coroutine_function_that_tells_its_class():
    application = EventsConsumer.as_asgi()
    assert iscoroutinefunction(application)
    assert application.consumer_class is EventsConsumer


async def test_stream_has_one_task_beside_the_servers():
    server = Server({"type": "http.request"})
    another = Server({"type": "http.request"})
    running = [asyncio.ensure_future(another.run())]
    await another.next()
    await another.next()
    before = asyncio.all_tasks()
    running.append(asyncio.ensure_future(server.run()))
    await server.next()
    await server.next()
    assert len(asyncio.all_tasks() - before) == 2
    server.receive(DISCONNECT)
    another.receive(DISCONNECT)
    await asyncio.wait_for(asyncio.gather(*running), 10)


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
