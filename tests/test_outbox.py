"""What a server never takes is told from a server that is down, by outboxes and on real servers."""

from __future__ import annotations

import asyncio
import threading

import pytest
from channels.layers import channel_layers
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from django_eventstream import brokers
from django_eventstream.brokers import outbox as outboxes
from django_eventstream.brokers.channels import ChannelsBroker
from django_eventstream.brokers.grip import GripBroker
from django_eventstream.brokers.outbox import (
    PROOFS,
    TRIES,
    Outbox,
    OutboxBroker,
    Refused,
    Unreachable,
)
from django_eventstream.brokers.redis import RedisBroker
from django_eventstream.event import Event
from django_eventstream.messages import Gap, Published, Revoked, Tally
from django_eventstream.testing import Ears
from tests.control import Control, control
from tests.processes import wait_until
from tests.redis_server import redis_server

POISON = "poison"


class Server:
    """A server that takes messages one after the other, up to one that it never takes.

    ``contacts`` says of each contact, from the first, whether it is up; after them it is.
    """

    name = "The server"

    def __init__(self, contacts=(), failure=None):
        self._contacts = iter(contacts)
        self._failure = failure or Unreachable("connection lost")
        self.taken, self.lost = [], []
        #: Channels whose losses cannot be told.
        self.mute = set()
        self.tries = self.probes = 0
        #: Cleared, it answers nothing.
        self.answers = threading.Event()
        self.answers.set()

    def _answer(self):
        assert self.answers.wait(10)
        if not next(self._contacts, True):
            raise self._failure

    def carry(self, envelopes):
        self.tries += 1
        self._answer()
        for envelope in envelopes:
            message = envelope.message
            if getattr(message, "user_id", None) == POISON or (
                isinstance(message, Published) and message.event.data == POISON
            ):
                raise self._failure
            if message not in self.taken:  # a repeat is seen
                self.taken.append(message)

    def tell_losses(self, lost):
        self._answer()
        if self.mute & set(lost):
            raise self._failure
        self.lost += lost.items()

    def probe(self):
        self.probes += 1
        self._answer()


@pytest.fixture
def _quick(monkeypatch):
    monkeypatch.setattr(outboxes, "FIRST_PAUSE", 0.0005)
    monkeypatch.setattr(outboxes, "LONGEST_PAUSE", 0.001)


def event(n, channel="a", data=""):
    return Published(Event(channel, "message", data, n))


def send(server, messages):
    """Have messages carried by an outbox; return it when it is empty."""
    outbox = Outbox(server)
    with outbox._changed:  # so that all go at once
        for message in messages:
            outbox.put(brokers.enclose(message))
    outbox.flush(20)
    assert not outbox._is_busy()
    return outbox


messages_and_poison = st.lists(st.sampled_from(["", "", POISON]), min_size=1, max_size=30)
#: An outage ends by at least two contacts that succeed: a probe, and what is tried right after.
outages = st.lists(st.tuples(st.integers(1, 20), st.integers(2, 10)), max_size=4)


@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages_and_poison)
@pytest.mark.usefixtures("_quick")
def test_all_but_what_the_server_never_takes_arrives_in_order(data):
    messages = [event(n, f"c{n}", each) for n, each in enumerate(data, 1)]
    server = Server()
    send(server, messages)
    good = [message for message in messages if message.event.data != POISON]
    assert server.taken == good
    assert server.lost == [(m.channel, True) for m in messages if m not in good]


@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 250), outages)
@pytest.mark.usefixtures("_quick")
def test_outages_lose_and_reorder_nothing(count, periods):
    contacts = [up for down, ups in periods for up in [False] * down + [True] * ups]
    messages = [event(n, f"c{n % 3}") for n in range(1, count + 1)]
    server = Server(contacts)
    send(server, messages)
    assert server.taken == messages
    assert server.lost == []


@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages_and_poison, outages)
@pytest.mark.usefixtures("_quick")
def test_outages_and_poison_together_lose_the_poison_only(data, periods):
    contacts = [up for down, ups in periods for up in [False] * down + [True] * ups]
    messages = [event(n, f"c{n}", each) for n, each in enumerate(data, 1)]
    server = Server(contacts)
    send(server, messages)
    good = [message for message in messages if message.event.data != POISON]
    assert server.taken == good
    assert server.lost == [(m.channel, True) for m in messages if m not in good]


@pytest.mark.usefixtures("_quick")
def test_what_waited_goes_together_after_an_outage():
    server = Server([False] * 20)
    send(server, [event(n) for n in range(1, 101)])
    assert server.tries + server.probes <= 20 + 2


@pytest.mark.usefixtures("_quick")
def test_a_message_is_lost_only_after_it_failed_beside_probes(caplog):
    server = Server()
    send(server, [event(1, data=POISON)])
    assert (server.tries, server.probes) == (TRIES + PROOFS, PROOFS)
    assert "The server refused channel 'a': connection lost" in caplog.text


@pytest.mark.usefixtures("_quick")
def test_a_probe_that_fails_makes_the_proofs_count_anew():
    n_before = TRIES + 2 * (PROOFS - 1)  # two probes went through, and what followed failed
    server = Server([*[True] * n_before, False])
    send(server, [event(1, data=POISON)])
    assert server.probes == 2 * PROOFS


@pytest.mark.usefixtures("_quick")
def test_what_says_that_it_is_busy_loses_nothing():
    server = Server([False] * 50, Unreachable("status 429", busy=True))
    send(server, [event(1)])
    assert (server.taken, server.lost, server.probes) == ([event(1)], [], 0)


@pytest.mark.parametrize("failure", [Unreachable("status 500"), Refused("status 400")])
@pytest.mark.usefixtures("_quick")
def test_a_lost_kick_is_told_as_a_loss(failure):
    messages = [Revoked(POISON, "a"), event(None, "b", POISON), Revoked(POISON, "b"), event(1)]
    server = Server(failure=failure)
    send(server, messages)
    assert server.taken == [event(1)]
    assert server.lost == [("a", True), ("b", False), ("b", True)]


def test_a_lost_kick_takes_no_reset_back(monkeypatch):
    monkeypatch.setattr(outboxes, "CAPACITY", 1)
    server = Server()
    server.answers.clear()
    outbox = Outbox(server)
    outbox.put(brokers.enclose(event(1)))
    wait_until(lambda: server.tries)
    for message in (event(None, "b"), Revoked("1", "b"), Revoked("1", "c")):
        outbox.put(brokers.enclose(message))
    server.answers.set()
    outbox.flush(20)
    assert server.taken == [event(1), Revoked("1", "c")]
    assert server.lost == [("b", False)]


@pytest.mark.parametrize("failure", [Unreachable("status 500"), Refused("status 400")])
@pytest.mark.usefixtures("_quick")
def test_a_loss_that_cannot_be_told_holds_up_nothing(failure, caplog, monkeypatch):
    monkeypatch.setattr(outboxes, "CAPACITY", 3)
    server = Server(failure=failure)
    server.mute = {"c2"}
    server.answers.clear()
    outbox = Outbox(server)
    outbox.put(brokers.enclose(event(1, "held")))
    wait_until(lambda: server.tries)
    for n in range(1, 7):  # of which three find no room
        outbox.put(brokers.enclose(event(n, f"c{n}")))
    server.answers.set()
    outbox.flush(20)
    assert server.taken == [event(1, "held"), *(event(n, f"c{n}") for n in (4, 5, 6))]
    assert server.lost == [("c1", True), ("c3", True)]
    assert "refused channel 'c2'" in caplog.text


@pytest.mark.usefixtures("_quick")
def test_losses_that_are_told_meanwhile_keep_nothing_from_being_lost(monkeypatch):
    """While so much comes that the oldest find no room, what fails would be tried for ever."""
    monkeypatch.setattr(outboxes, "CAPACITY", 2)
    server = Server()
    outbox = Outbox(server)
    carry = server.carry

    def carry_while_more_comes(envelopes):
        for n in range(1, 4) if ("first", True) not in server.lost else ():
            outbox.put(brokers.enclose(event(n, "more")))
        carry(envelopes)

    server.carry = carry_while_more_comes
    outbox.put(brokers.enclose(event(1, "first", POISON)))
    outbox.flush(20)
    assert ("first", True) in server.lost
    assert server.tries < 20


def test_no_sender_on_an_event_loop_waits(caplog):
    server = Server()
    server.answers.clear()

    broker = OutboxBroker()
    broker.outboxes = [Outbox(server)]
    broker.patience = 0.5

    async def publish():
        broker.publish(brokers.enclose(event(1)), wait=True)

    asyncio.run(publish())
    assert not caplog.records  # nor has it waited as long as it may
    assert server.taken == []
    server.answers.set()
    broker.flush(10)
    assert server.taken == [event(1)]


# On real servers

LARGE = "x" * 1_500_000


@pytest.fixture(scope="module")
def small_redis():
    """Return a server that ends connections at more than a megabyte."""
    with redis_server(proto_max_bulk_len="1mb") as server:
        yield server


def make_redis_broker(settings, server):
    settings.EVENTSTREAM_REDIS = server.connection
    return RedisBroker()


def make_channels_broker(settings, server):
    config = {"hosts": [server.url], "capacity": 1000}
    backend = "channels_redis.core.RedisChannelLayer"
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend, "CONFIG": config}}
    channel_layers.backends.clear()  # in a process of its own it would have its own
    return ChannelsBroker()


@pytest.fixture(params=[make_redis_broker, make_channels_broker])
def broker_and_ears(request, settings, small_redis):
    """Return a broker, and what another process hears of this one."""
    broker = request.param(settings, small_redis)
    ears = Ears(request.param(settings, small_redis), brokers._sender.name)
    ears.wait_until(lambda: ears.connections)
    yield broker, ears
    ears.close()
    broker.close()


def heard(ears):
    """Return what was heard, without repeats, in the order of its first coming."""
    return list(dict.fromkeys(e.message for e in ears.heard if not isinstance(e.message, Tally)))


@pytest.mark.slow
def test_an_event_too_large_for_redis_holds_up_nothing(broker_and_ears, caplog):
    broker, ears = broker_and_ears
    kicks = [Revoked("1", "a"), Revoked("2", "a")]
    sent = [event(1), kicks[0], event(1, "large", LARGE), kicks[1], event(None, "b")]
    broker.publish_many([brokers.enclose(message) for message in sent])
    wanted = [message for message in sent if message.channel != "large"]
    ears.wait_until(lambda: {*wanted, Gap("large")} <= {*heard(ears)})
    assert [message for message in heard(ears) if message != Gap("large")] == wanted
    assert "refused channel 'large'" in caplog.text


@pytest.mark.slow
def test_an_outage_of_redis_loses_and_reorders_nothing(broker_and_ears, small_redis, caplog):
    broker, ears = broker_and_ears
    # So that those that listen stay connected, and hear all that is published.
    forbidden = ("-publish", "-eval", "-evalsha")
    small_redis.command("ACL", "SETUSER", "default", *forbidden)
    try:
        sent = [event(None, f"c{n % 3}", str(n)) for n in range(150)]
        broker.publish_many([brokers.enclose(message) for message in sent])
        (outbox,) = broker.outboxes
        wait_until(lambda: outbox._failures > TRIES + 1)
    finally:
        small_redis.command("ACL", "SETUSER", "default", *(f"+{name[1:]}" for name in forbidden))
    broker.flush(20)
    ears.wait_until(lambda: len(heard(ears)) >= len(sent))
    assert heard(ears) == sent
    assert "refused" not in caplog.text


def test_an_event_at_which_a_grip_proxy_fails_holds_up_nothing(settings, monkeypatch):
    monkeypatch.setattr(outboxes, "FIRST_PAUSE", 0.01)

    def answer(self, path, authorization, body):
        if POISON.encode() in body:
            return 500
        return Control.answer(self, path, authorization, body)

    with control() as proxy:
        proxy.answer = answer.__get__(proxy)
        settings.GRIP_URL = proxy.uri
        broker = GripBroker()
        sent = [event(1), event(1, "large", POISON), event(1, "b")]
        broker.publish_many([brokers.enclose(message) for message in sent])
        broker.flush(20)
        broker.close()
        settings.GRIP_URL = settings.GRIP_PROXIES = None
    channels = [item["channel"] for item in proxy.items]
    messages = [name for name in channels if name != "probe"]
    assert messages == ["events-a", "events-large", "events-b"]  # the second is word of its loss
    assert channels.count("probe") >= PROOFS
