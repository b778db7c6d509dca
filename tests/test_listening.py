"""What a hub hears from other processes, by brokers that do as they are told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
import time
from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, connections, transaction
from django.utils import timezone

from django_eventstream import (
    brokers,
    channel_permission_changed,
    hub,
    listening,
    messages,
    send_event,
    send_events,
    threads,
)
from django_eventstream.brokers import BrokerBase, enclose, get_brokers
from django_eventstream.brokers import channels as channels_broker
from django_eventstream.brokers import database as database_broker
from django_eventstream.brokers.database import DatabaseBroker
from django_eventstream.brokers.grip import GripBroker
from django_eventstream.brokers.memory import MemoryBroker
from django_eventstream.brokers.redis import RedisBroker
from django_eventstream.checks import check_deployment, check_settings
from django_eventstream.event import Event
from django_eventstream.messages import Envelope, Published, Revoked, Stored, Tally
from django_eventstream.models import BrokerMessage
from django_eventstream.sequence import PATIENCE, Sequencer
from django_eventstream.storage import get_storage
from tests.processes import wait_until
from tests.test_streaming import Client, Manager, project, reached

pytestmark = pytest.mark.django_db(transaction=True)


class Broker(BrokerBase):
    """What tests say for other processes."""

    listens = True

    def __init__(self):
        self.published = []
        self.listener = None
        self.attempts = 0
        self.refuses = False
        self.connects = True

    def publish(self, envelope, *, wait=False):
        if self.refuses:
            raise ConnectionError("no such host")
        self.published.append(envelope)

    async def listen(self, listener):
        self.attempts += 1
        if self.refuses:
            raise ConnectionError("no such host")
        self.listener = listener
        self.broken = asyncio.get_running_loop().create_future()
        if self.connects:
            listener.connected()
        await self.broken


@pytest.fixture
def broker(settings, monkeypatch):
    monkeypatch.setattr(listening, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(hub, "RECHECK_SPREAD", 0.1)
    settings.EVENTSTREAM_BROKER = "tests.test_listening.Broker"
    (broker,) = get_brokers()
    return broker


@pytest.fixture
def other():
    """Another process."""
    sequencer = Sequencer("other")

    def say(broker, *messages):
        for message in messages:
            envelope = sequencer.enclose(message, time.monotonic())
            broker.listener.receive(envelope.text)

    return say


def event(text, channel="loose-a", event_id=None):
    return Published(Event(channel, "message", text, event_id))


__all__ = ["project"]  # a fixture that each test here has too


@contextlib.asynccontextmanager
async def streaming(*channels, **kwargs):
    """Open a stream, and read its first event."""
    client = Client(*channels, **kwargs)
    try:
        opening = await client.next()
        assert opening.type == "stream-open"
        yield client
    finally:
        client.stream.leave()


async def test_events_of_other_processes_reach_streams_and_own_ones_do_not_come_twice(
    broker, other
):
    async with streaming("loose-a", "b") as client:
        (own,) = [enclose(event("own"))]
        hub.deliver(own.message)
        broker.listener.receive(own.text)
        other(broker, event("1"), event("2", "b", event_id=1), event("3"))
        heard = [found.data for found in await client.take(4)]
        assert [text for text in heard if text != "2"] == ["own", "1", "3"]
        assert "2" in heard


class Another(Broker):
    """One more."""


@pytest.mark.parametrize("count", [1, 2])
async def test_what_one_broker_loses_another_brings_a_little_later(count, settings):
    names = ["Broker", "Another"][:count]
    settings.EVENTSTREAM_BROKER = [f"{__name__}.{name}" for name in names]
    lossy, late = get_brokers()[0], get_brokers()[-1]
    sequencer = Sequencer("other")
    texts = [sequencer.enclose(event(str(n)), time.monotonic()).text for n in range(3)]
    async with streaming("loose-a") as client:
        lossy.listener.receive(texts[0])
        lossy.listener.receive(texts[2])
        lost = client.stream._hub.listening._resequencer.give_up(time.monotonic() + 2 * PATIENCE)
        assert len(lost) == (2 if count == 1 else 0)  # a gap, and what waited
        if count == 2:
            late.listener.receive(texts[1])
            assert [found.data for found in await client.take(3)] == ["0", "1", "2"]


async def test_messages_of_others_are_decoded_once_and_own_ones_not(broker, other, monkeypatch):
    decoded = []
    loads = messages.json.loads
    monkeypatch.setattr(messages.json, "loads", lambda text: decoded.append(text) or loads(text))
    async with streaming("loose-a") as first, streaming("loose-a") as second:
        broker.listener.receive(enclose(event("own")).text)
        assert not decoded
        other(broker, event("1"))
        assert (await first.next()).data == (await second.next()).data == "1"
    assert len(decoded) == 1


class Twin(Broker):
    """Another one."""


def test_messages_are_encoded_once_for_all_brokers_and_not_for_memory(settings, monkeypatch):
    encoded = []
    dumps = messages.json.dumps

    def encode(fields, **kwargs):
        encoded.append(fields)
        return dumps(fields, **kwargs)

    monkeypatch.setattr(messages.json, "dumps", encode)
    sent = [event("1", event_id=1), event("2", event_id=2)]
    settings.EVENTSTREAM_BROKER = "memory"
    brokers.publish(*sent)
    assert not encoded
    settings.EVENTSTREAM_BROKER = [
        "memory",
        "tests.test_listening.Broker",
        "tests.test_listening.Twin",
    ]
    brokers.publish(*sent)
    _, first, second = get_brokers()
    texts = [envelope.text for envelope in first.published]
    assert texts == [envelope.text for envelope in second.published]
    assert len(encoded) == len(texts) == 2


async def test_repeats_are_dropped_and_holes_become_a_reset(broker):
    sequencer = Sequencer("other")
    texts = [sequencer.enclose(event(str(n)), time.monotonic()).text for n in range(4)]
    async with streaming("loose-a") as client:
        for text in (texts[0], texts[0], texts[3], texts[1]):
            broker.listener.receive(text)
        assert [found.data for found in await client.take(2)] == ["0", "1"]
        assert (await client.next()).type == "stream-reset"
        assert (await client.next()).data == "3"


async def test_what_is_no_message_is_a_gap(broker, other, caplog):
    async with streaming("loose-a") as client:
        broker.listener.receive(b"{}")
        assert (await client.next()).type == "stream-reset"
        assert "what is no message" in caplog.text
        other(broker, event("1"))
        assert (await client.next()).data == "1"


def test_what_is_written_to_the_database_is_ascii():
    """Tables on MariaDB and MySQL may have a character set without what names and texts have."""
    kick = Revoked("\U0001f600", "loose-\U0001f600")
    DatabaseBroker().publish(enclose(kick))
    text = BrokerMessage.objects.get().text
    assert text.isascii()
    assert Envelope.from_text(text).message == kick


async def test_very_much_that_is_no_message_is_logged_once_and_checked_once(broker, caplog):
    user = await get_user_model().objects.acreate_user("u")
    async with streaming("loose-a", user=user) as client:
        Manager.checks.clear()
        for _ in range(200):
            broker.listener.receive(b"\xff" * 10_000)
        assert (await client.next()).type == "stream-reset"
        pull = asyncio.ensure_future(client.next())
        await reached(lambda: Manager.checks)
        await asyncio.sleep(2 * hub.RECHECK_SPREAD)
        pull.cancel()
        assert caplog.text.count("what is no message") == 1
        assert len(caplog.text) < 1000
        assert len(Manager.checks) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"data": "\ud800"},
        {"type": "\ud800"},
        {"channel": "\ud800"},
        {"type": "stream-error"},
        {"id": 0},
        {"id": 1 << 63},
        {"kind": "stored", "id": -1},
    ],
    ids=str,
)
async def test_what_could_not_be_sent_here_is_no_message(broker, other, fields):
    message = {"kind": "published", "from": "x/0", "channel": "loose-a", "type": "m", "data": "1"}
    async with streaming("loose-a") as client:
        broker.listener.receive(json.dumps({**message, "sequence": 1, **fields}))
        assert (await client.next()).type == "stream-reset"
        other(broker, event("1"))
        assert (await client.next()).data == "1"


async def test_word_of_a_stored_event_makes_the_log_be_read(broker, other, settings):
    settings.EVENTSTREAM_POLL_INTERVAL = 60
    async with streaming("a") as client:
        get_storage().append_event("a", "message", "large")
        other(broker, Stored("a", 1), Stored("unheard of", 1))
        assert (await client.next()).data == "large"


async def test_lost_connection_is_made_again_and_told_as_a_gap(broker, other, caplog):
    user = await get_user_model().objects.acreate_user("u")
    async with streaming("loose-a", user=user) as client:
        Manager.checks.clear()
        broker.refuses = True
        broker.broken.set_exception(ConnectionError("reset"))
        await reached(lambda: broker.attempts >= 4)
        assert caplog.text.count("does not hear other processes") == 1
        assert "ConnectionError: reset" in caplog.text
        broker.refuses = False
        assert (await client.next()).type == "stream-reset"
        assert caplog.text.count("Broker hears other processes again") == 1
        other(broker, event("after"))
        assert (await client.next()).data == "after"
        pull = asyncio.ensure_future(client.next())
        await reached(lambda: Manager.checks)  # spread over some seconds
        pull.cancel()


async def test_a_connection_that_redis_py_made_again_by_itself_is_a_gap(broker):
    async with streaming("loose-a") as client:
        broker.listener.connected()
        assert (await client.next()).type == "stream-reset"


async def test_stream_waits_for_the_brokers_before_it_opens(broker, other):
    broker.connects = False
    client = Client("loose-a")
    pull = asyncio.ensure_future(client.next())
    await reached(lambda: broker.listener)
    for _ in range(20):
        await asyncio.sleep(0)
    assert not client.body
    broker.listener.connected()
    assert (await pull).type == "stream-open"
    other(broker, event("at once"))
    assert (await client.next()).data == "at once"
    client.stream.leave()


async def test_stream_does_not_wait_long_and_is_told_when_the_broker_comes(broker, monkeypatch):
    monkeypatch.setattr(listening, "READY_PATIENCE", 0.05)
    broker.connects = False
    async with streaming("loose-a") as client:
        broker.listener.connected()
        assert (await client.next()).type == "stream-reset"


async def test_stream_does_not_wait_for_a_broker_that_cannot_be_reached(broker, monkeypatch):
    monkeypatch.setattr(listening, "READY_PATIENCE", 60)
    broker.refuses = True
    async with streaming("loose-a") as client:
        broker.refuses = False
        assert (await client.next()).type == "stream-reset"


async def test_kick_before_the_first_stream_could_hear_it_is_found_by_a_second_check(broker):
    user = await get_user_model().objects.acreate_user("u")
    client = Client("a", user=user)  # which checks
    Manager.denied = {(user.pk, "a")}
    assert (await client.next()).type == "stream-error"


async def test_kick_of_another_process_ends_streams_also_those_that_are_opening(broker, other):
    user = await get_user_model().objects.acreate_user("u")
    async with streaming("a", user=user) as client, streaming("a") as stranger:
        late = Client("a", user=user)
        Manager.denied = {(user.pk, "a")}
        other(broker, Revoked(str(user.pk), "a"))
        assert (await client.next()).type == "stream-error"
        assert (await late.next()).type == "stream-error"
        hub.deliver(event("on", "a", event_id=1))
        assert (await stranger.next()).data == "on"


async def test_listening_ends_with_the_last_stream(broker):
    async with streaming("a"):
        listened = broker.broken
    await reached(listened.cancelled)


# Publishing


def test_a_broker_that_fails_is_logged_once_and_fails_no_sender(broker, caplog):
    broker.refuses = True
    for n in range(3):
        send_event("loose-a", "message", n)
    assert caplog.text.count("Broker cannot carry") == 1
    broker.refuses = False
    send_event("loose-a", "message", 3)
    assert "Broker works again" in caplog.text
    sent = [each.message for each in broker.published if isinstance(each.message, Published)]
    assert [message.event.data for message in sent] == ["3"]


def test_how_many_there_were_is_told_a_moment_later(broker, monkeypatch):
    monkeypatch.setattr(brokers, "_sender", brokers._Sender())  # that has sent nothing yet
    monkeypatch.setattr("django_eventstream.brokers.TALLY_DELAY", 0.01)
    send_event("loose-a", "message", 1)
    send_event("a", "message", 1)

    def counts():
        messages = [envelope.message for envelope in broker.published]
        return [message.counts for message in messages if isinstance(message, Tally)]

    (told,) = wait_until(counts)
    assert told.keys() == {"loose-a"}


def test_a_sender_that_reaches_nobody_says_so_once(settings, caplog, monkeypatch):
    monkeypatch.setattr(hub, "_had_receivers", False)
    monkeypatch.setattr(hub, "_has_told", False)
    settings.EVENTSTREAM_BROKER = "memory"
    send_event("a", "message", 1)  # is polled
    assert not caplog.text
    for n in range(3):
        send_event("loose-a", "message", n)
    assert caplog.text.count("no broker carries anything") == 1
    assert "EVENTSTREAM_BROKER" in caplog.text


@pytest.mark.parametrize(("had", "broker"), [(True, "memory"), (False, "database")])
def test_a_sender_that_may_reach_somebody_says_nothing(settings, caplog, monkeypatch, had, broker):
    monkeypatch.setattr(hub, "_had_receivers", had)
    monkeypatch.setattr(hub, "_has_told", False)
    settings.EVENTSTREAM_BROKER = broker
    send_event("loose-a", "message", 1)
    assert not caplog.text


# Which brokers there are


STORAGES = {
    None: MemoryBroker,
    "tests.test_streaming.FlakyStorage": MemoryBroker,
    "django_eventstream.storage.DjangoModelStorage": DatabaseBroker,
    "django_eventstream.storage.RedisStorage": RedisBroker,
}


@pytest.mark.parametrize("storage", STORAGES)
def test_the_broker_follows_from_the_storage(settings, storage):
    settings.EVENTSTREAM_STORAGE_CLASS = storage
    settings.EVENTSTREAM_STORAGE_CONNECTION = {"host": "localhost"}
    assert [type(broker) for broker in get_brokers()] == [STORAGES[storage]]


def test_the_redis_broker_follows_from_its_setting(settings):
    settings.EVENTSTREAM_STORAGE_CLASS = "django_eventstream.storage.DjangoModelStorage"
    settings.EVENTSTREAM_REDIS = "redis://localhost"
    assert [type(broker) for broker in get_brokers()] == [RedisBroker]


def test_the_setting_names_brokers_beside_which_is_grip(settings):
    settings.EVENTSTREAM_REDIS = "redis://localhost"
    settings.EVENTSTREAM_BROKER = ["database", "tests.test_listening.Broker", "database"]
    settings.GRIP_URL = "http://localhost:5561"
    types = [type(broker) for broker in get_brokers()]
    assert types == [DatabaseBroker, Broker, GripBroker]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("nats", "'nats' cannot be loaded"),
        ("no.such.Broker", "'no.such.Broker' cannot be loaded"),
        ("tests.processes.Process", "'tests.processes.Process' cannot be loaded"),
        ("tests.storages.MemoryStorage", "is no broker"),
        (7, "is 7"),
        ([None], "is [None]"),
        ("redis", "EVENTSTREAM_REDIS is missing"),
        ("channels", "CHANNEL_LAYERS"),
    ],
)
def test_brokers_that_cannot_be_had_are_an_error(settings, value, words):
    settings.EVENTSTREAM_BROKER = value
    with pytest.raises(ImproperlyConfigured, match=re.escape(words)):
        get_brokers()
    (message,) = check_settings()
    assert message.id == "django_eventstream.E009"
    assert words in message.msg


def test_streams_and_senders_go_on_with_brokers_that_cannot_be_had(settings, caplog):
    settings.EVENTSTREAM_BROKER = "nats"
    send_event("loose-a", "message", 1)
    assert "nothing leaves this process" in caplog.text


def test_redis_that_is_not_used_is_a_warning(settings):
    settings.EVENTSTREAM_REDIS = "redis://localhost"
    settings.EVENTSTREAM_BROKER = "database"
    (message,) = check_settings()
    assert message.id == "django_eventstream.W006"
    settings.EVENTSTREAM_BROKER = "django_eventstream.brokers.redis.RedisBroker"
    assert check_settings() == []
    settings.EVENTSTREAM_BROKER = "tests.test_listening.Broker"  # which may read it
    assert check_settings() == []


def test_a_layer_in_memory_connects_no_processes(settings):
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    settings.EVENTSTREAM_BROKER = "channels"
    (message,) = check_settings()
    assert message.id == "django_eventstream.W009"
    assert [message.id for message in check_deployment()] == ["django_eventstream.W007"]


def test_a_proxy_that_is_required_and_not_there_reaches_nobody(settings):
    settings.EVENTSTREAM_BROKER = "memory"
    settings.GRIP_PROXY_REQUIRED = True
    assert [message.id for message in check_deployment()] == ["django_eventstream.W007"]
    settings.GRIP_URL = "http://localhost:5561"
    assert check_deployment() == []


@pytest.mark.parametrize(
    ("broker", "ids"),
    [
        ("memory", ["django_eventstream.W007"]),
        ("database", []),
        (["memory", "database"], []),
        ("nats", []),
    ],
)
def test_a_deployment_is_told_that_its_processes_do_not_hear_each_other(settings, broker, ids):
    settings.EVENTSTREAM_BROKER = broker
    assert [message.id for message in check_deployment()] == ids


# The database's table


@pytest.fixture
def database(settings):
    settings.EVENTSTREAM_BROKER = "database"
    (broker,) = get_brokers()
    return broker


@pytest.mark.database
def test_what_becomes_visible_late_is_read_all_the_same(database):
    rows = [BrokerMessage.objects.create(text=str(n)) for n in range(3)]
    place = database._find_place()
    assert database._read(place) == []
    late = BrokerMessage(id=rows[-1].id + 1, text="late")
    BrokerMessage.objects.create(id=rows[-1].id + 2, text="early")
    assert database._read(place) == ["early"]
    late.save(force_insert=True)
    assert database._read(place) == ["late"]
    assert database._read(place) == []


@pytest.mark.database
def test_what_was_on_its_way_at_the_start_is_read_too(database):
    BrokerMessage.objects.create(id=7, text="there")
    place = database._find_place()
    BrokerMessage.objects.create(id=6, text="late")
    assert database._read(place) == ["late"]


@pytest.mark.database
def test_what_becomes_visible_in_a_long_pause_is_read_after_it(database, monkeypatch):
    first = BrokerMessage.objects.create(text="first").id
    place = database._find_place()
    BrokerMessage.objects.create(id=first + 2, text="early")
    assert database._read(place) == ["early"]
    BrokerMessage.objects.create(id=first + 1, text="late")
    monkeypatch.setattr("django_eventstream.brokers.database.LATE", -1)
    assert database._read(place) == ["late"]
    assert not place.missing


@pytest.mark.database
def test_missing_keys_are_given_up_in_time_and_bounded(database, monkeypatch):
    place = database._find_place()
    BrokerMessage.objects.create(id=place.last + 100_000, text="far")
    assert database._read(place) == ["far"]
    assert len(place.missing) < 200
    monkeypatch.setattr("django_eventstream.brokers.database.LATE", -1)
    assert database._read(place) == []
    assert not place.missing


@pytest.mark.database
def test_old_messages_are_removed(database, monkeypatch):
    BrokerMessage.objects.create(text="old")
    BrokerMessage.objects.update(created=timezone.now() - timedelta(seconds=700))
    BrokerMessage.objects.create(text="new")
    database._trim()
    assert [row.text for row in BrokerMessage.objects.all()] == ["new"]


@pytest.mark.database
def test_stored_events_need_no_message_and_kicks_do(database):
    user = get_user_model().objects.create_user("u")
    with transaction.atomic():
        send_event("a", "message", 1)
        channel_permission_changed(user, "a")
        Manager.denied = {(user.pk, "a")}
    (row,) = BrokerMessage.objects.all()
    assert "revoked" in row.text


@pytest.mark.database
def test_a_rollback_takes_kicks_and_unstored_events_along(database):
    with contextlib.suppress(ZeroDivisionError), transaction.atomic():
        send_event("loose-a", "message", 1)
        raise ZeroDivisionError
    assert not BrokerMessage.objects.exists()


async def test_sending_on_an_event_loop_does_not_block_it(database, monkeypatch):
    carried = []
    monkeypatch.setattr("django_eventstream.threads.run_in_background", carried.append)
    send_event("loose-a", "message", 1)
    (carry,) = carried

    def work():
        carry()
        connections.close_all()  # of this thread

    await asyncio.to_thread(work)
    assert await BrokerMessage.objects.acount() == 1


@pytest.mark.database
def test_what_must_not_wait_for_the_commit_is_not_part_of_the_transaction(database, monkeypatch):
    carried = []
    monkeypatch.setattr("django_eventstream.threads.run_in_background", carried.append)
    with transaction.atomic():
        send_event("loose-a", "message", 1, on_commit=False)
        assert not BrokerMessage.objects.exists()
    (carry,) = carried
    carry()
    assert BrokerMessage.objects.count() == 1


def test_a_message_that_is_carried_late_and_fails_is_logged_and_told(database, monkeypatch, caplog):
    monkeypatch.setattr("django_eventstream.threads.run_in_background", lambda call: call())
    monkeypatch.setattr(brokers, "_sender", brokers._Sender())  # that has sent nothing yet
    with monkeypatch.context() as patch:
        patch.setattr(DatabaseBroker, "_write", lambda self: None)  # takes no envelope
        with transaction.atomic():
            send_event("loose-a", "message", 1, on_commit=False)
    assert "was lost" in caplog.text
    assert brokers._sender._tell_counts() == []  # what the timer does a moment later
    assert '"kind":"tally"' in BrokerMessage.objects.get().text


async def test_a_process_that_stood_still_for_long_is_a_gap(database, settings, monkeypatch):
    settings.EVENTSTREAM_POLL_INTERVAL = 0.01
    ahead = 0.0
    monkeypatch.setattr(database_broker, "read_clocks", lambda: (0.0, time.time() + ahead))
    async with streaming("loose-a") as client:
        ahead = database_broker.RETENTION / 2 + 1  # a machine that was suspended
        assert (await client.next()).type == "stream-reset"


async def test_a_process_that_stood_still_while_it_read_is_a_gap(database, settings, monkeypatch):
    settings.EVENTSTREAM_POLL_INTERVAL = 0.01
    ahead, stops = 0.0, []
    monkeypatch.setattr(database_broker, "read_clocks", lambda: (0.0, time.time() + ahead))
    read = DatabaseBroker._read

    def stand_still(self, place):
        nonlocal ahead
        texts = read(self, place)
        if stops:
            ahead += stops.pop()
        return texts

    monkeypatch.setattr(DatabaseBroker, "_read", stand_still)
    async with streaming("loose-a") as client:
        stops.append(database_broker.RETENTION / 2 + 1)
        assert (await client.next()).type == "stream-reset"


@pytest.mark.parametrize("risk", ["many", "late"])
@pytest.mark.django_db(transaction=True)
def test_what_pollers_may_pass_over_is_counted(risk, database, monkeypatch):
    ahead = 0.0
    monkeypatch.setattr(brokers, "_sender", brokers._Sender())
    monkeypatch.setattr(threads, "is_testing", lambda: False)
    monkeypatch.setattr(brokers, "TALLY_DELAY", 60)
    monkeypatch.setattr(database_broker, "read_clocks", lambda: (ahead, 0.0))
    write = DatabaseBroker._write

    def stand_still(self, envelopes):
        nonlocal ahead
        write(self, envelopes)
        ahead = 15.0 if risk == "late" else 0.0

    monkeypatch.setattr(DatabaseBroker, "_write", stand_still)
    send_events(("loose-a", "message", n) for n in range(2 if risk == "late" else 200))
    brokers._sender._timer.cancel()
    assert brokers._sender._tell_counts() == []
    assert '"kind":"tally"' in BrokerMessage.objects.latest("id").text
    brokers._sender = brokers._Sender()
    if risk == "many":
        send_events(("loose-a", "message", n) for n in range(2))
        assert brokers._sender._timer is None


@pytest.mark.database
def test_what_comes_late_is_looked_for_from_when_the_rows_were_there(database, monkeypatch):
    first = BrokerMessage.objects.create(text="first").id
    place = database._find_place()
    BrokerMessage.objects.create(id=first + 2, text="early")
    now, rows = time.monotonic(), DatabaseBroker._rows

    class Slow:
        @property
        def _rows(self):
            nonlocal now
            now += 2 * database_broker.LATE
            return rows.fget(self)

    monkeypatch.setattr(database_broker.time, "monotonic", lambda: now)
    with monkeypatch.context() as patch:
        patch.setattr(DatabaseBroker, "_rows", Slow._rows)
        assert database._read(place) == ["early"]
    for _ in range(2):
        now += 1
        assert database._read(place) == []
    BrokerMessage.objects.create(id=first + 1, text="late")
    assert database._read(place) == ["late"]


async def test_a_channel_layer_that_has_thrown_away_what_came_is_a_gap(settings, monkeypatch):
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    settings.EVENTSTREAM_BROKER = "channels"
    monkeypatch.setattr(channels_broker, "JOIN_INTERVAL", 0.01)
    ahead = 0.0
    monkeypatch.setattr(channels_broker, "read_clocks", lambda: (0.0, time.time() + ahead))
    async with streaming("loose-a") as client:
        ahead = 61.0  # the process stood still
        assert (await client.next()).type == "stream-reset"


async def test_a_table_whose_keys_begin_again_is_a_gap(database, settings, monkeypatch):
    settings.EVENTSTREAM_POLL_INTERVAL = 0.01
    monkeypatch.setattr("django_eventstream.brokers.database.TRIM_INTERVAL", 0.0)
    await BrokerMessage.objects.acreate(id=1000, text=enclose(event("0")).text)
    async with streaming("loose-a") as client:
        await BrokerMessage.objects.all().adelete()
        text = Sequencer("other").enclose(event("1"), time.monotonic()).text
        await BrokerMessage.objects.acreate(id=1, text=text)
        assert (await client.next()).type == "stream-reset"


def test_without_psycopg_3_nothing_is_followed(monkeypatch):
    monkeypatch.delitem(sys.modules, "django_eventstream.brokers.postgresql", raising=False)
    monkeypatch.setitem(sys.modules, "psycopg", None)  # cannot be imported
    assert database_broker._find_follow() is None


async def test_while_the_table_cannot_be_read_it_is_tried_again(database, settings, monkeypatch):
    settings.EVENTSTREAM_POLL_INTERVAL = 0.01
    reads = []
    read = DatabaseBroker._read

    def fail(self, place):
        reads.append(place)
        if len(reads) < 3:
            raise OperationalError("down")
        return read(self, place)

    monkeypatch.setattr(DatabaseBroker, "_read", fail)
    async with streaming("loose-a") as client:
        text = Sequencer("other").enclose(event("1"), time.monotonic()).text
        await BrokerMessage.objects.acreate(text=text)
        assert (await client.next()).data == "1"


async def test_what_cannot_be_read_for_long_is_a_gap(database, settings, monkeypatch):
    settings.EVENTSTREAM_POLL_INTERVAL = 0.01
    ahead = 0.0
    monkeypatch.setattr(database_broker, "read_clocks", lambda: (0.0, time.time() + ahead))
    failing = [True]
    read = DatabaseBroker._read

    def fail(self, place):
        nonlocal ahead
        if failing:
            failing.clear()
            ahead = database_broker.RETENTION
            raise OperationalError("down")
        return read(self, place)

    monkeypatch.setattr(DatabaseBroker, "_read", fail)
    async with streaming("loose-a") as client:
        assert (await client.next()).type == "stream-reset"
        assert not failing


async def test_the_table_is_trimmed_now_and_then(database, settings, monkeypatch):
    settings.EVENTSTREAM_POLL_INTERVAL = 0.01
    monkeypatch.setattr("django_eventstream.brokers.database.TRIM_INTERVAL", 0.0)
    trimmed = asyncio.Event()
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(
        DatabaseBroker, "_trim", lambda self: loop.call_soon_threadsafe(trimmed.set)
    )
    async with streaming("loose-a"):
        await asyncio.wait_for(trimmed.wait(), 10)
