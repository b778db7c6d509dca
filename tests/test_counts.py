"""What a delivery costs, in counts, which do not depend on the machine: no times here."""

import asyncio
import contextlib

import pytest
from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async
from django.contrib.auth import get_user_model
from django.db import connection, connections
from django.db.backends.signals import connection_created
from django.http import HttpResponse
from django.urls import include, path

from django_eventstream import feed as feed_module
from django_eventstream import hub, urls
from django_eventstream.event import Event
from django_eventstream.hub import deliver
from django_eventstream.messages import Published
from django_eventstream.storage import get_storage
from django_eventstream.views import events
from tests.test_streaming import Client, Manager

STREAMS = 200
EVENTS = 30


@pytest.fixture(autouse=True)
def project(settings):
    settings.EVENTSTREAM_STORAGE_CLASS = "tests.test_streaming.FlakyStorage"
    settings.EVENTSTREAM_CHANNELMANAGER_CLASS = "tests.test_streaming.Manager"
    settings.EVENTSTREAM_PADDING = 0
    Manager.denied, Manager.checks = set(), []


@contextlib.asynccontextmanager
async def waiting(count, *channels):
    """Open streams that have written all there is; yield what each of them waits for."""
    clients = [Client(*channels) for _ in range(count)]
    try:
        await asyncio.gather(*(client.next() for client in clients))
        yield clients, [anext(client.stream) for client in clients]
    finally:
        for client in clients:
            client.stream.leave()


def publish(channel, first, last):
    for event_id in range(first, last + 1):
        reliable_id = None if channel.startswith("loose") else event_id
        deliver(Published(Event(channel, "message", f"{event_id}", reliable_id)))


@pytest.fixture
def encoded(monkeypatch):
    """The data of all events that were encoded for streams."""
    texts = []

    def encode_data(data):
        texts.append(data)
        return f"data: {data}\n\n".encode()

    monkeypatch.setattr(feed_module, "encode_data", encode_data)
    return texts


@pytest.mark.parametrize("channel", ["a", "loose"])
async def test_event_is_encoded_once_for_all_streams(encoded, channel):
    async with waiting(STREAMS, channel) as (_, parts), waiting(20, channel, "b") as (_, others):
        publish(channel, 1, 1)
        alone = await asyncio.gather(*parts)
        await asyncio.gather(*others)
    assert encoded == ["1"]
    # Not copied either, whatever its size: all streams write the same object.
    assert len({id(part) for part in alone}) == 1


async def test_delivery_has_no_byte_too_many():
    async with waiting(1, "a") as (_, parts):
        publish("a", 1, 1)
        assert await parts[0] == b"event: message\nid: a:1\ndata: 1\n\n"


async def test_what_is_pending_is_one_part_and_joined_once(encoded):
    async with waiting(STREAMS, "a") as (clients, parts):
        publish("a", 1, EVENTS)
        written = await asyncio.gather(*parts)
        assert all(part.count(b"\n\n") == EVENTS for part in written)
        assert len({id(part) for part in written}) == 1
        assert not any(anext(client.stream).done() for client in clients)
    assert encoded == [str(number) for number in range(1, EVENTS + 1)]


async def test_burst_wakes_the_loop_once_and_each_stream_once(monkeypatch):
    loop = asyncio.get_running_loop()
    calls = []
    monkeypatch.setattr(
        loop, "call_soon_threadsafe", lambda *call: calls.append(call) or loop.call_soon(*call)
    )
    async with waiting(STREAMS, "a") as (clients, parts):
        wakes = []
        wake = type(clients[0].stream).wake
        monkeypatch.setattr(
            type(clients[0].stream), "wake", lambda stream: wakes.append(stream) or wake(stream)
        )
        calls.clear()
        publish("a", 1, EVENTS)
        await asyncio.gather(*parts)
        woken = [call[0] for call in calls if hasattr(call[0], "__self__")]  # not: a poll ends
        assert woken == [hub.get_hub()._take_messages]
        assert len(wakes) == STREAMS


@pytest.mark.parametrize("channels", [["a"], ["loose"], ["a", "b", "c"]])
async def test_stream_needs_no_task_and_no_timer_of_its_own(channels):
    async with waiting(1, *channels):
        tasks = len(asyncio.all_tasks())
        timers = count_timers()
        async with waiting(STREAMS, *channels):
            assert len(asyncio.all_tasks()) == tasks
            # Cancelled ones, of what has opened them, may still be among them.
            assert count_timers() <= timers + 2


def count_timers():
    return sum(not timer.cancelled() for timer in asyncio.get_running_loop()._scheduled)


async def test_storm_reads_the_log_once_for_each_channel():
    storage = get_storage()
    names = [f"storm-{number}" for number in range(10)]
    for name in names:
        for number in range(100):
            storage.append_event(name, "message", str(number))
    storage.reads.clear()
    clients = [Client(names[number % 10], **{names[number % 10]: 0}) for number in range(500)]
    try:
        found = await asyncio.gather(*(client.take(101) for client in clients))
    finally:
        for client in clients:
            client.stream.leave()
    for _, *rest in found:
        assert [event.data for event in rest] == [str(number) for number in range(100)]
    assert len(storage.reads) <= 30


async def bare(request):
    await request.auser()
    return HttpResponse()


@pytest.mark.parametrize("storage", ["", "django_eventstream.storage.DjangoModelStorage"])
@pytest.mark.parametrize("logged_in", [True, False])
@pytest.mark.django_db(transaction=True)
async def test_connect_takes_one_hop_and_one_query_more_than_loading_the_user_or_none(
    settings, monkeypatch, storage, logged_in, async_client
):
    settings.EVENTSTREAM_CHANNELMANAGER_CLASS = ""
    settings.EVENTSTREAM_STORAGE_CLASS = storage
    settings.EVENTSTREAM_POLL_INTERVAL = 60
    settings.ROOT_URLCONF = type(
        "urlconf", (), {"urlpatterns": [path("bare/", bare), path("", include(urls))]}
    )
    if logged_in:
        user = await get_user_model().objects.acreate_user("reader")
        await async_client.aforce_login(user)
    hops = []
    call = SyncToAsync.__call__
    monkeypatch.setattr(
        SyncToAsync,
        "__call__",
        lambda wrapper, *args, **options: (
            hops.append(wrapper.func) or call(wrapper, *args, **options)
        ),
    )

    async def count(url, *, opens):
        hops.clear()
        queries.clear()
        async with ThreadSensitiveContext():  # as Django's handler for ASGI
            response = await async_client.get(url)
            if opens:
                stream = aiter(response)
                assert b"stream-open" in await anext(stream)
                await stream.aclose()
            # To close what is no stream is a hop, too; Django's client does it at once.
            found = len(hops), len(queries)
            await sync_to_async(connections.close_all)()  # which the client has Django not do
        return found

    queries = []

    def note(execute, sql, parameters, many, context):
        queries.append(sql)
        return execute(sql, parameters, many, context)

    def watch(connection, **kwargs):
        if note not in connection.execute_wrappers:
            connection.execute_wrappers.append(note)

    connection_created.connect(watch)
    try:
        await sync_to_async(lambda: watch(connection))()
        await count("/bare/", opens=False)  # what is loaded at first
        bare_hops, bare_queries = await count("/bare/", opens=False)
        async with waiting(1, "another"):  # what the first stream of a process begins, is begun
            hops_here, queries_here = await count("/?channel=a", opens=True)
    finally:
        connection_created.disconnect(watch)
    assert bare_queries == (2 if logged_in else 0)  # session and user
    assert queries_here - bare_queries <= bool(storage), queries
    assert hops_here - bare_hops <= logged_in, hops
    assert (events in hops) == logged_in
