"""The driver and the hub, in one process, with storages that fail on demand."""

import asyncio
import contextlib
import contextvars
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.db import OperationalError

from django_eventstream import channel_permission_changed, hub, send_event, threads
from django_eventstream.channelmanager import DefaultChannelManager
from django_eventstream.event import Event
from django_eventstream.eventrequest import EventRequest
from django_eventstream.hub import deliver
from django_eventstream.messages import Gap, Published, Revoked
from django_eventstream.storage import get_storage
from django_eventstream.streaming import Stream
from tests.core.sseparser import SSEParser
from tests.storages import MemoryStorage

TIMEOUT = 10


class FlakyStorage(MemoryStorage):
    """A storage that counts its reads, waits at a gate, and fails while it is down."""

    def __init__(self):
        super().__init__()
        self.down = False
        self.gate = threading.Event()
        self.gate.set()
        self.asked = threading.Event()
        self.reads = []

    def get_events(self, channel, last_id, limit=100):
        self._read("events", channel)
        return super().get_events(channel, last_id, limit)

    def get_current_ids(self, channels):
        self._read("ids", *channels)
        return {channel: super(FlakyStorage, self).get_current_id(channel) for channel in channels}

    def poll(self, channels):
        if self.down:
            raise OperationalError("down")
        return {
            channel: super(FlakyStorage, self).get_current_id(channel) for channel in channels
        }, []

    def _read(self, *what):
        self.asked.set()
        assert self.gate.wait(TIMEOUT)
        self.reads.append(what)
        if self.down:
            raise OperationalError("down")


class Manager(DefaultChannelManager):
    """Forbids what is listed in ``denied``; channels that begin with loose are unreliable."""

    denied: ClassVar = set()
    checks: ClassVar = []

    def can_read_channel(self, user, channel):
        self.checks.append((user and user.pk, channel))
        return (user and user.pk, channel) not in self.denied

    def is_channel_reliable(self, channel):
        return not channel.startswith("loose")


@pytest.fixture(autouse=True)
def project(settings):
    settings.EVENTSTREAM_STORAGE_CLASS = "tests.test_streaming.FlakyStorage"
    settings.EVENTSTREAM_CHANNELMANAGER_CLASS = "tests.test_streaming.Manager"
    settings.EVENTSTREAM_POLL_INTERVAL = 0.05
    settings.EVENTSTREAM_PADDING = 0
    Manager.denied = set()
    Manager.checks = []


class Client:
    """Reads a stream as a server does."""

    def __init__(self, *channels, user=None, **positions):
        request = EventRequest()
        request.channels = sorted(channels)
        request.channel_last_ids = positions
        request.user = user
        request.check_permission()
        self.stream = Stream(request, request.reliable_channels())
        self.body = b""
        self._parser = SSEParser(strict=True)
        self._events = []

    async def pull(self):
        """Return the next bytes, b"" at the end."""
        data = await asyncio.wait_for(anext(self.stream, b""), TIMEOUT)
        self.body += data
        self._events += self._parser.feed(data)
        if not data:
            self._parser.close()
        return data

    async def next(self):
        while not self._events:
            if not await self.pull():
                return None
        return self._events.pop(0)

    async def take(self, count):
        return [await self.next() for _ in range(count)]

    @property
    def retries(self):
        return self._parser.retries


@contextlib.asynccontextmanager
async def connect(*channels, **options):
    client = Client(*channels, **options)
    try:
        yield client
    finally:
        client.stream.leave()


def data(events):
    return [json.loads(event.data) for event in events]


async def reached(condition):
    """Wait until a condition holds."""
    deadline = asyncio.get_running_loop().time() + TIMEOUT
    while not condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.005)


# The seam


async def test_events_sent_between_the_reading_of_the_log_and_going_live_arrive_once():
    storage = get_storage()
    for number in range(3):
        storage.append_event("a", "m", str(number))
    storage.gate.clear()
    async with connect("a", a=1) as client:
        opening = asyncio.ensure_future(client.next())
        await reached(storage.asked.is_set)
        for number in range(3, 6):
            send_event("a", "m", number)
        storage.gate.set()
        assert (await opening).type == "stream-open"
        assert data(await client.take(5)) == [1, 2, 3, 4, 5]


async def test_stream_starts_at_the_present():
    send_event("a", "m", 1)
    async with connect("a") as client:
        opened = await client.next()
        assert opened.last_event_id == "a:1"
        send_event("a", "m", 2)
        assert data([await client.next()]) == [2]


# Contexts

TENANT = contextvars.ContextVar("TENANT", default=None)


@pytest.mark.parametrize("cause", ["gap", "burst"])
async def test_permission_is_checked_again_in_the_context_of_the_request(
    cause, monkeypatch, settings
):
    class Noting(Manager):
        def can_read_channel(self, user, channel):
            tenants.append(TENANT.get())
            return True

    tenants = []
    monkeypatch.setattr(hub, "RECHECK_SPREAD", 0)
    monkeypatch.setattr("tests.test_streaming.Manager", Noting)
    settings.EVENTSTREAM_BURST_SIZE = 4
    get_storage().append_event("a", "m", "0")

    def send():
        TENANT.set("sender's")
        if cause == "gap":
            deliver(Gap())
        for number in range(20):
            send_event("a", "m", number)

    TENANT.set("reader's")
    async with connect("a") as client:
        await client.next()
        reading = asyncio.ensure_future(client.take(20))
        await asyncio.sleep(0)
        del tenants[:]
        contextvars.Context().run(send)
        assert data(await reading) == list(range(20))
        await reached(lambda: tenants)
        assert set(tenants) == {"reader's"}


# Hints


async def test_event_that_no_message_told_of_arrives_by_the_poll():
    async with connect("a") as client:
        await client.next()
        get_storage().append_event("a", "m", "1")
        assert data([await client.next()]) == [1]


async def test_messages_may_be_repeated_lost_and_out_of_order():
    async with connect("a") as client:
        await client.next()
        events = [get_storage().append_event("a", "m", str(number)) for number in range(6)]
        for index in (2, 0, 0, 2, 4, 1, 4):  # 3 and 5 are lost
            deliver(Published(events[index]))
        assert data(await client.take(6)) == [0, 1, 2, 3, 4, 5]


async def test_unordered_publication_costs_no_read_of_the_log():
    async with connect("a") as client:
        await client.next()
        get_storage().reads.clear()
        events = [get_storage().append_event("a", "m", str(number)) for number in range(3)]
        for event in reversed(events):
            deliver(Published(event))
        assert data(await client.take(3)) == [0, 1, 2]
        assert get_storage().reads == []


async def test_events_from_many_threads_arrive_once_in_order():
    async with connect("a", "loose") as client:
        await client.next()

        def send(number):
            for index in range(50):
                send_event("a", "m", [number, index])
                send_event("loose", "m", [number, index])

        with ThreadPoolExecutor(8) as threads:
            sending = [
                asyncio.get_running_loop().run_in_executor(threads, send, number)
                for number in range(8)
            ]
            events = await client.take(800)
            await asyncio.gather(*sending)
    for has_id in (True, False):
        received = []
        position = "a:0"
        for event in events:
            if (event.last_event_id != position) == has_id:
                received.append(json.loads(event.data))
            position = event.last_event_id
        assert len(received) == 400
        for number in range(8):
            assert [index for n, index in received if n == number] == list(range(50))


async def test_streams_on_two_loops_get_the_same_events():
    def other_loop(opened):
        async def read():
            async with connect("a") as client:
                await client.next()
                opened.set()
                return data(await client.take(2))

        return asyncio.run(read())

    opened = threading.Event()
    async with connect("a") as client:
        await client.next()
        other = asyncio.ensure_future(asyncio.to_thread(other_loop, opened))
        await reached(opened.is_set)
        send_event("a", "m", 1)
        send_event("a", "m", 2)
        assert data(await client.take(2)) == await other == [1, 2]


# More than fits


async def test_burst_beyond_the_ring_is_read_from_the_log(settings):
    settings.EVENTSTREAM_BURST_SIZE = 10
    async with connect("a") as client, connect("a") as other:
        await client.next()
        await other.next()
        for number in range(300):
            send_event("a", "m", number)
        assert data(await client.take(300)) == list(range(300))
        assert data(await other.take(300)) == list(range(300))


async def test_unreliable_burst_beyond_the_ring_is_a_reset(settings):
    settings.EVENTSTREAM_BURST_SIZE = 10
    async with connect("loose", "a") as client:
        await client.next()
        feed = client.stream.protocol.cursors[1].feed
        for number in range(300):
            send_event("loose", "m", number)
        await reached(lambda: feed.end == 300)
        reset = await client.next()
        assert (reset.type, reset.data) == ("stream-reset", '{"channels": ["loose"]}')
        assert reset.last_event_id == "a:0"
        send_event("loose", "m", "after")
        assert data([await client.next()]) == ["after"]


async def test_more_messages_than_the_loop_takes_become_a_gap():
    async with connect("loose") as loose, connect("a") as reliable:
        await loose.next()
        await reliable.next()
        for number in range(hub.INBOX_SIZE + 5):  # on the loop's own thread, which cannot wait
            send_event("loose", "m", number)
        send_event("a", "m", "last")
        types = []
        while "stream-reset" not in types:
            types.append((await loose.next()).type)
        assert data([await reliable.next()]) == ["last"]


async def test_reading_the_log_is_shared(settings):
    settings.EVENTSTREAM_PAGE_SIZE = 50
    for number in range(200):
        get_storage().append_event("a", "m", str(number))
    clients = [Client("a", a=number % 100) for number in range(60)]
    received = await asyncio.gather(
        *(client.take(201 - n % 100) for n, client in enumerate(clients))
    )
    for number, events in enumerate(received):
        assert data(events[1:]) == list(range(number % 100, 200))
    assert len(get_storage().reads) <= 12
    for client in clients:
        client.stream.leave()


# The log fails


async def test_stream_that_cannot_open_ends_with_retry():
    get_storage().down = True
    async with connect("a", a=1) as client:
        assert await client.next() is None
        assert client.body.startswith(b"retry: ")
        assert b"id" not in client.body
        assert 1000 <= client.retries[0] <= 5000


async def test_stream_that_waits_too_long_for_the_log_to_open_ends_with_retry(monkeypatch):
    monkeypatch.setattr("django_eventstream.streaming.OPEN_TIMEOUT", 0.05)
    storage = get_storage()
    storage.gate.clear()
    async with connect("a") as client:
        assert await client.next() is None
        assert client.body.startswith(b"retry: ")
    storage.gate.set()


async def test_open_stream_outlives_a_log_that_cannot_be_read(settings, caplog):
    settings.EVENTSTREAM_KEEP_ALIVE_INTERVAL = 0.05
    settings.EVENTSTREAM_BURST_SIZE = 5
    storage = get_storage()
    async with connect("a") as client:
        await client.next()
        storage.down = True
        for number in range(20):  # beyond the ring: the log must be read
            deliver(Published(storage.append_event("a", "m", str(number))))
        types = [(await client.next()).type for _ in range(3)]
        assert types == ["keep-alive"] * 3
        storage.down = False
        received = []
        while len(received) < 20:
            event = await client.next()
            if event.type == "m":
                received.append(json.loads(event.data))
        assert received == list(range(20))


async def test_open_stream_gives_up_in_the_end(settings):
    settings.EVENTSTREAM_READ_TIMEOUT = 0.2
    settings.EVENTSTREAM_BURST_SIZE = 5
    storage = get_storage()
    async with connect("a") as client:
        await client.next()
        storage.down = True
        for number in range(20):
            deliver(Published(storage.append_event("a", "m", str(number))))
        assert await client.next() is None
        assert client.retries
        assert client.body.endswith(b"\n\n")
        assert b"stream-error" not in client.body


async def test_log_that_gives_what_is_no_event_is_tried_again_with_pauses(settings, monkeypatch):
    settings.EVENTSTREAM_READ_TIMEOUT = 2
    settings.EVENTSTREAM_BUFFER_SIZE = 0
    storage = get_storage()
    for number in range(5):
        storage.append_event("a", "m", str(number))
    reads = []

    def get_events(channel, last_id, limit=100):
        reads.append(last_id)
        return [Event(channel, "m", None, last_id + 1)]  # no data

    monkeypatch.setattr(storage, "get_events", get_events)
    async with connect("a", a=2) as client:
        assert (await client.next()).type == "stream-open"
        assert await client.next() is None
        assert client.retries
    assert 1 < len(reads) < 10  # without pauses there would be hundreds


async def test_poll_goes_on_after_failures(caplog):
    storage = get_storage()
    async with connect("a") as client:
        await client.next()
        storage.down = True
        await reached(lambda: "Cannot read the event log" in caplog.text)
        storage.append_event("a", "m", "1")
        storage.down = False
        assert data([await client.next()]) == [1]
        assert caplog.text.count("Cannot read the event log") == 1


async def test_log_that_lost_its_counter_is_a_reset():
    storage = get_storage()
    for number in range(5):
        send_event("a", "m", number)
    async with connect("a", a=3) as client:
        assert data((await client.take(3))[1:]) == [3, 4]
        storage._events.clear()  # a flushed server
        storage.append_event("a", "m", "1")
        reset = await client.next()
        assert (reset.type, reset.last_event_id) == ("stream-reset", "a:1")
        send_event("a", "m", 2)
        assert data([await client.next()]) == [2]


# Permissions


@pytest.fixture
def user(transactional_db):
    return get_user_model().objects.create(username="ann")


async def test_permission_is_checked_when_the_log_is_read_again(user, settings):
    settings.EVENTSTREAM_BURST_SIZE = 5
    async with connect("a", user=user) as client:
        await client.next()
        Manager.denied.add((user.pk, "a"))
        for number in range(20):
            send_event("a", "m", number)
        error = await client.next()
        assert (error.type, error.last_event_id) == ("stream-error", "error")
        assert json.loads(error.data)["condition"] == "forbidden"
        assert await client.next() is None
        assert client.body.count(b"stream-error") == 1


@pytest.mark.parametrize("change", ["delete", "deactivate"])
async def test_deleted_or_inactive_user_is_forbidden_when_checked_again(user, change, monkeypatch):
    monkeypatch.setattr(hub, "RECHECK_SPREAD", 0)
    async with connect("a", "loose", user=user) as client:
        await client.next()
        if change == "delete":
            await user.adelete()
        else:
            await get_user_model().objects.filter(username="ann").aupdate(is_active=False)
        deliver(Gap())
        events = await client.take(2)
        assert [event.type for event in events] == ["stream-reset", "stream-error"]
        assert json.loads(events[1].data)["channels"] == ["a", "loose"]
        assert await client.next() is None


async def test_gap_checks_the_permission_and_goes_on(user, monkeypatch):
    monkeypatch.setattr(hub, "RECHECK_SPREAD", 0)
    async with connect("a", user=user) as client:
        await client.next()
        Manager.checks.clear()
        deliver(Gap("a"))
        waiting = asyncio.ensure_future(client.next())
        await reached(lambda: Manager.checks)
        send_event("a", "m", 1)
        assert data([await waiting]) == [1]


async def test_permission_lost_between_the_check_and_the_opening_counts():
    async with connect("a") as client:  # checked here
        Manager.denied.add((None, "a"))
        deliver(Revoked(None, "a"))  # while no hub knows of the stream
        error = await client.next()
        assert error.type == "stream-error"
        assert await client.next() is None


async def test_revocation_ends_a_stream_that_is_opening():
    storage = get_storage()
    storage.gate.clear()
    async with connect("a") as client:
        opening = asyncio.ensure_future(client.next())
        await reached(storage.asked.is_set)
        Manager.denied.add((None, "a"))
        channel_permission_changed(AnonymousUser(), "a")
        assert (await opening).type == "stream-error"
        storage.gate.set()
        assert await client.next() is None


async def test_permission_regained_before_the_check_is_no_kick(user):
    async with connect("a", user=user) as client:
        await client.next()
        await sync_to_async(channel_permission_changed)(user, "a")
        send_event("a", "m", 1)
        assert data([await client.next()]) == [1]


async def test_stream_that_never_catches_up_is_checked_too():
    async with connect("loose") as client:
        await client.next()
        send_event("loose", "m", 0)
        await asyncio.sleep(0)
        Manager.denied = {(None, "loose")}
        client.stream.recheck()
        for number in range(1, 1000):
            send_event("loose", "m", number)
            await asyncio.sleep(0.002)  # so that there is something each time it pulls
            if b"stream-error" in await client.pull():
                return
        pytest.fail("not checked")


if sys.version_info >= (3, 12):

    async def test_streams_go_on_where_tasks_run_before_their_caller_knows_them():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        storage = get_storage()
        for number in range(1, 6):
            storage.append_event("a", "m", str(number))
        async with connect("a", a=2) as behind, connect("a") as another:
            assert data((await behind.take(4))[1:]) == [3, 4, 5]
            await another.next()
            send_event("a", "m", 6)
            assert data([await behind.next(), await another.next()]) == [6, 6]
            Manager.denied = {(None, "a")}
            for client in (behind, another):
                client.stream.recheck()
                assert (await client.next()).type == "stream-error"


async def test_slow_checks_keep_no_stream_from_reading_the_log(monkeypatch, settings):
    leave, busy = threading.Event(), threading.Semaphore(0)

    def check(self, *, afresh=False):
        self.checked_at = time.monotonic()
        if afresh:
            busy.release()
            assert leave.wait(TIMEOUT)

    monkeypatch.setattr(EventRequest, "check_permission", check)
    monkeypatch.setattr(threads, "is_testing", lambda: False)
    settings.EVENTSTREAM_DATABASE_THREADS = 4
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(8):
            client = await stack.enter_async_context(connect("loose-slow"))
            await client.next()
            pull = asyncio.ensure_future(client.pull())
            stack.callback(pull.cancel)
            client.stream.recheck()
        for _ in range(2):
            assert await asyncio.to_thread(busy.acquire, timeout=TIMEOUT)
        try:
            async with connect("a") as another:
                assert (await another.next()).type == "stream-open"  # which asks the log
            assert not busy.acquire(blocking=False)
        finally:
            leave.set()


async def test_check_that_is_not_waited_for_any_more_takes_its_thread_until_it_is_done(
    monkeypatch, settings
):
    monkeypatch.setattr(threads, "is_testing", lambda: False)
    settings.EVENTSTREAM_DATABASE_THREADS = 2
    leave, begun = threading.Event(), threading.Semaphore(0)

    def check():
        begun.release()
        assert leave.wait(TIMEOUT)

    async with connect("loose") as client:
        await client.next()
        first = asyncio.ensure_future(hub.get_hub().check(check))
        try:
            assert await asyncio.to_thread(begun.acquire, timeout=TIMEOUT)
            first.cancel()
            await asyncio.wait([first])
            second = asyncio.ensure_future(hub.get_hub().check(check))
            assert await threads.run(int) == 0  # on the thread for the log
            assert not begun.acquire(blocking=False)
        finally:
            leave.set()
        await asyncio.wait_for(second, TIMEOUT)


async def test_stream_that_cannot_be_checked_in_time_ends_with_retry(monkeypatch):
    monkeypatch.setattr("django_eventstream.streaming.OPEN_TIMEOUT", 0.05)
    leave = threading.Event()
    async with connect("a") as client:
        monkeypatch.setattr(
            EventRequest, "check_permission", lambda self, afresh: leave.wait(TIMEOUT)
        )
        deliver(Revoked(None, "a"))
        try:
            assert await client.next() is None
            assert client.retries
        finally:
            leave.set()


async def test_check_that_fails_for_the_project_ends_the_stream_and_is_logged(
    user, caplog, monkeypatch
):
    async with connect("a", user=user) as client:
        await client.next()
        client.stream.recheck()
        monkeypatch.setattr(Manager, "checks", None)  # makes can_read_channel raise
        assert await client.next() is None
        assert client.retries
        assert "AttributeError" in caplog.text


# Leaving


async def test_cancelled_stream_leaves_nothing_behind():
    before = asyncio.all_tasks()
    async with connect("a", "loose") as client:
        await client.next()
        reading = asyncio.ensure_future(client.next())
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await reached(lambda: asyncio.all_tasks() == before)
        assert await anext(client.stream, b"end") == b"end"


@pytest.mark.parametrize("passes", [0, 1, 2])
async def test_client_that_leaves_when_the_log_answers_harms_nobody(passes, caplog):
    loop = asyncio.get_running_loop()

    def leave_later(left):
        if left:
            loop.call_soon(leave_later, left - 1)
        else:
            client.stream.leave()

    async with connect("b") as other, connect("a") as client:
        await other.next()
        deliver(Revoked(None, "a"))
        checks = len(Manager.checks)
        # Until the stream, whose permission is checked first, has joined the test's question.
        async with hub.get_hub()._asking:
            answer = hub.get_hub().ask_current_ids(["a"])
            answer.add_done_callback(lambda answer: leave_later(passes))
            pulling = asyncio.ensure_future(client.pull())
            await reached(lambda: client.stream._answer is answer)
        await asyncio.wait([answer], timeout=TIMEOUT)
        assert len(Manager.checks) == checks + 1
        for _ in range(10):
            await asyncio.sleep(0)
        assert hub.get_hub().count == 1
        pulling.cancel()
    assert not caplog.records


async def test_response_closed_on_another_thread_leaves_nothing_behind():
    before = asyncio.all_tasks()
    client = Client("a")
    client.stream.close()  # never pulled: nothing to leave
    client = Client("a")
    await client.next()
    await asyncio.to_thread(client.stream.close)
    await reached(lambda: asyncio.all_tasks() == before)
    client.stream.close()


def test_response_closed_after_its_loop_is_no_error():
    async def open_stream():
        client = Client("a")
        await client.next()
        return client

    client = asyncio.run(open_stream())
    client.stream.close()
    send_event("a", "m", 1)  # and the dead loop's hub is forgotten


async def test_feeds_keep_what_a_lagging_stream_needs_and_drop_the_rest(settings, monkeypatch):
    monkeypatch.setattr(hub, "TRIM_FEEDS_INTERVAL", 0)
    settings.EVENTSTREAM_KEEP_ALIVE_INTERVAL = 0.4
    settings.EVENTSTREAM_BUFFER_SIZE = 5
    async with connect("a") as reader, connect("loose", "a") as sleeper:
        await reader.next()
        await sleeper.next()
        for number in range(50):
            send_event("a", "m", number)
            send_event("loose", "m", number)
        received = []
        while len(received) < 50:
            event = await reader.next()
            if event.type == "m":
                received.append(json.loads(event.data))
        while (await reader.next()).type != "keep-alive":
            pass
        events = [event for event in await sleeper.take(100) if event.type == "m"]
        assert data(events).count(0) == 2
        while (await sleeper.next()).type != "keep-alive":
            pass
        feed = sleeper.stream.protocol.cursors[0].feed
        await reached(lambda: len(feed.entries) == 5)


async def test_log_restored_to_an_earlier_state_keeps_no_stream_busy(settings):
    settings.EVENTSTREAM_POLL_INTERVAL = 60  # nobody but the streams themselves finds out
    settings.EVENTSTREAM_BURST_SIZE = 4
    storage = get_storage()
    for number in range(5):
        send_event("a", "m", number)
    async with connect("a", a=5) as early:
        await early.next()
        for number in range(10):
            send_event("a", "m", number)
        await early.take(10)
        del storage._events["a"][5:]
        storage.reads.clear()
        async with connect("a", a=5) as late:
            await late.next()
            send_event("a", "m", "after")
            assert data([await late.next()]) == ["after"]
            assert len(storage.reads) <= 4
            reset = await early.next()
            assert reset.type == "stream-reset"


async def test_stream_behind_a_log_restored_to_its_very_position_goes_on(settings):
    settings.EVENTSTREAM_POLL_INTERVAL = 60
    settings.EVENTSTREAM_BURST_SIZE = 4
    storage = get_storage()
    async with connect("a") as client:
        await client.next()
        for number in range(10):
            send_event("a", "m", number)
        feed = client.stream.protocol.cursors[0].feed
        await reached(lambda: feed.tail == 10)
        storage._events.clear()
        waiting = asyncio.ensure_future(client.next())
        await reached(lambda: feed.tail == 0)
        send_event("a", "m", "after")
        assert data([await waiting]) == ["after"]
        assert len(storage.reads) <= 4


# More of the hub


async def test_senders_wait_for_a_loop_that_does_not_keep_up(monkeypatch):
    monkeypatch.setattr(hub, "INBOX_SIZE", 10)
    monkeypatch.setattr(hub, "INBOX_PATIENCE", TIMEOUT)
    async with connect("loose") as client:
        await client.next()

        def send():
            for number in range(500):
                send_event("loose", "m", number)

        sending = asyncio.ensure_future(asyncio.to_thread(send))
        assert data(await client.take(500)) == list(range(500))
        await sending


async def test_senders_on_an_event_loop_do_not_wait_for_another_loop(monkeypatch):
    monkeypatch.setattr(hub, "INBOX_SIZE", 2)
    monkeypatch.setattr(hub, "INBOX_PATIENCE", TIMEOUT)
    began = time.monotonic()
    with contextlib.closing(asyncio.new_event_loop()) as stuck:
        other = hub.Hub(stuck, None)
        for number in range(5):
            other.receive_message(Published(Event("loose", "m", str(number))))
    assert time.monotonic() - began < TIMEOUT


async def test_overflow_is_a_gap_where_it_was(monkeypatch):
    monkeypatch.setattr(hub, "INBOX_SIZE", 3)
    monkeypatch.setattr(hub, "RECHECK_SPREAD", 0)
    async with connect("loose") as client:
        await client.next()
        for number in range(6):
            deliver(Published(Event("loose", "m", str(number))))
        await client.pull()
        deliver(Published(Event("loose", "m", "6")))
        assert [event.type for event in await client.take(5)] == [*("mmm"), "stream-reset", "m"]


async def test_gap_of_one_channel_is_not_taken_for_that_of_an_overflow(monkeypatch):
    monkeypatch.setattr(hub, "INBOX_SIZE", 2)
    monkeypatch.setattr(hub, "RECHECK_SPREAD", 0)
    async with connect("loose-a", "loose-b") as client:
        await client.next()
        deliver(Published(Event("loose-a", "m", "1")))
        deliver(Gap("loose-a"))
        deliver(Published(Event("loose-b", "m", "lost")))
        event, reset = await client.take(2)
        assert event.data == "1"
        assert json.loads(reset.data) == {"channels": ["loose-a", "loose-b"]}


async def test_one_stream_that_fails_keeps_no_other_from_its_end(monkeypatch, caplog):
    end = Stream.end
    async with connect("a") as bad, connect("a") as good:

        def fail(self):
            if self is bad.stream:
                raise ZeroDivisionError
            end(self)

        await bad.next()
        await good.next()
        monkeypatch.setattr(Stream, "end", fail)
        hub.get_hub().call(lambda stream: stream.end())
        assert await good.next() is None
        assert good.retries
    assert "A stream failed" in caplog.text


async def test_missing_events_that_the_log_dropped_meanwhile_are_a_reset():
    storage = get_storage()
    async with connect("a") as client:
        await client.next()
        events = [storage.append_event("a", "m", str(number)) for number in range(5)]
        storage._trimmed["a"] = 3
        del storage._events["a"][:3]
        deliver(Published(events[4]))
        reset = await client.next()
        assert (reset.type, reset.last_event_id) == ("stream-reset", "a:5")


async def test_hint_of_an_event_that_the_log_never_had_is_forgotten(settings):
    settings.EVENTSTREAM_POLL_INTERVAL = 60
    async with connect("a") as client:
        await client.next()
        deliver(Published(Event("a", "m", "1", 7)))
        feed = client.stream.protocol.cursors[0].feed
        await reached(lambda: feed.known == 7)
        await reached(lambda: feed.known == 0)
        send_event("a", "m", 1)
        assert data([await client.next()]) == [1]


async def test_missing_event_is_found_once_the_log_can_be_read_again(caplog):
    storage = get_storage()
    async with connect("a") as client:
        await client.next()
        storage.append_event("a", "m", "1")
        storage.down = True
        deliver(Published(storage.append_event("a", "m", "2")))
        deliver(Gap("a"))
        await reached(lambda: "Channel 'a': cannot read the event log" in caplog.text)
        storage.down = False
        assert data(await client.take(2)) == [1, 2]


async def test_more_revocations_than_are_remembered_have_the_permission_checked():
    async with connect("a") as client:
        for number in range(10_000):
            deliver(Revoked(str(number), "elsewhere"))
        Manager.checks.clear()
        assert (await client.next()).type == "stream-open"
        assert Manager.checks == [(None, "a")]


def test_forked_child_does_not_reach_its_parents_streams():
    code = """
import asyncio, os, django
from django.conf import settings
settings.configure(INSTALLED_APPS=[], EVENTSTREAM_PADDING=0)
django.setup()
from django_eventstream import EventRequest, send_event
from django_eventstream.streaming import Stream

async def main():
    request = EventRequest()
    request.channels = ["a"]
    stream = Stream(request, {"a": False})
    await anext(stream)
    child = os.fork()
    if not child:
        send_event("a", "m", "child")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    send_event("a", "m", "parent")
    print((await anext(stream)).decode())
    stream.leave()

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == 'event: m\ndata: "parent"\n\n\n', done.stderr
