"""What a broker could not carry is noticed, and what it has carried is not lost afterwards."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
import time

import pytest
from django.db import DatabaseError

from django_eventstream import brokers
from django_eventstream.brokers import BrokerBase, outbox
from django_eventstream.brokers.database import BATCH, DatabaseBroker, Place
from django_eventstream.brokers.outbox import Unreachable
from django_eventstream.checks import check_settings
from django_eventstream.messages import Envelope, Revoked, Tally


class Unsteady(BrokerBase):
    """A broker that loses nothing without a word, but fails as often as it is told to."""

    is_lossy = False
    failures = 0
    carried: list[object]
    changed: threading.Condition

    def publish(self, envelope, *, wait=False):
        with self.changed:
            self.changed.notify_all()
            if self.failures:
                type(self).failures -= 1
                raise ConnectionError
            self.carried.append(envelope.message)

    def wait_for(self, count):
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.carried) >= count, 10)


@pytest.fixture
def unsteady(settings, monkeypatch):
    settings.EVENTSTREAM_BROKER = f"{__name__}.Unsteady"
    monkeypatch.setattr(brokers, "TALLY_DELAY", 0.01)
    monkeypatch.setattr(brokers, "_sender", brokers._Sender())
    Unsteady.carried = []
    Unsteady.changed = threading.Condition()
    Unsteady.failures = 0
    return brokers.get_brokers()[0]


def test_counts_are_told_after_a_failure_as_soon_as_that_can_be_done(unsteady):
    Unsteady.failures = 3  # the message, and its count twice
    brokers.publish(Revoked("1", "a"))
    unsteady.wait_for(1)
    (tally,) = unsteady.carried
    assert isinstance(tally, Tally)
    (last, _) = tally.counts["a"]
    assert (list(tally.counts), last) == (["a"], 1)


def test_counts_are_not_told_where_nothing_can_be_lost(unsteady, monkeypatch):
    monkeypatch.setattr(brokers, "TALLY_DELAY", 60)
    brokers.publish(Revoked("1", "a"))
    Unsteady.failures = 1
    brokers.publish(Revoked("1", "b"))
    brokers.publish(Revoked("1", "b"))
    brokers._sender._timer.cancel()
    assert brokers._sender._tell_counts() == []
    assert [type(message) for message in unsteady.carried] == [Revoked, Revoked, Tally]


def test_counts_do_not_overtake_what_is_being_published(unsteady, monkeypatch):
    """It would be taken for lost, and dropped when it comes."""
    monkeypatch.setattr(brokers, "TALLY_DELAY", 60)
    told = []

    class Slow(Unsteady):
        def publish(self, envelope, *, wait=False):
            brokers.tally_later([unsteady])
            told.append(brokers._sender._tell_counts())
            unsteady.publish(envelope)

    brokers.publish(Revoked("1", "other"))
    with monkeypatch.context() as patch:
        patch.setattr(brokers, "get_brokers", lambda: [Slow()])
        brokers.publish(Revoked("1", "a"))
    assert told == [[unsteady]]  # which is to tell the rest
    brokers.tally_later(told[0])
    assert brokers._sender._tell_counts() == []
    counts = [each.counts for each in unsteady.carried if isinstance(each, Tally)]
    assert [list(each) for each in counts] == [["other"], ["a"]]
    assert [type(each) for each in unsteady.carried] == [Revoked, Tally, Revoked, Tally]


class Listener:
    def __init__(self):
        self.texts = []
        self.is_told = asyncio.Event()
        self.on_receive = lambda: None

    def connected(self):
        pass

    def receive(self, text):
        self.texts.append(text)
        self.is_told.set()
        self.on_receive()


class Table(DatabaseBroker):
    notifies = False

    def __init__(self, *pages):
        self.pages = [*pages]

    def _find_place(self):
        return Place(0)

    def _read(self, place):
        return self.pages.pop(0) if self.pages else []

    def _trim(self):
        raise DatabaseError


async def test_a_listener_that_has_more_to_read_ends_when_it_is_cancelled():
    listener = Listener()
    table = Table(*[["text"] * BATCH] * 1000)
    task = asyncio.ensure_future(table.listen(listener))
    listener.on_receive = lambda: asyncio.get_running_loop().call_soon(task.cancel)
    await asyncio.wait({task}, timeout=10)
    assert task.cancelled()


async def test_what_was_read_is_heard_although_the_table_cannot_be_trimmed(settings, monkeypatch):
    settings.EVENTSTREAM_POLL_INTERVAL = 0.01
    monkeypatch.setattr("django_eventstream.brokers.database.TRIM_INTERVAL", 0.0)
    listener = Listener()
    task = asyncio.ensure_future(Table(["first"]).listen(listener))
    await asyncio.wait_for(listener.is_told.wait(), 10)
    task.cancel()
    await asyncio.wait({task})
    assert listener.texts == ["first"]


def test_sender_is_not_failed_where_no_thread_can_be_started(unsteady, monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        Unsteady.failures = 1
        brokers.publish(Revoked("1", "a"))
    brokers._sender.tally_later([unsteady])  # it is tried again
    unsteady.wait_for(1)
    assert isinstance(unsteady.carried[0], Tally)


def test_counts_are_told_at_the_end_of_a_child_of_multiprocessing(unsteady, monkeypatch):
    monkeypatch.setattr(brokers, "TALLY_DELAY", 60)
    context = multiprocessing.get_context("fork")
    told = context.SimpleQueue()
    monkeypatch.setattr(Unsteady, "is_lossy", True)
    monkeypatch.setattr(
        Unsteady, "publish", lambda self, envelope, wait=False: told.put(envelope.text)
    )
    child = context.Process(target=brokers.publish, args=[Revoked("1", "a")])
    child.start()
    child.join(20)
    kinds = [Envelope.from_text(told.get()).message.__class__ for _ in range(2)]
    assert kinds == [Revoked, Tally]


class _Never:
    name = "nowhere"

    def carry(self, envelopes):
        raise Unreachable("down")

    def tell_losses(self, lost):
        raise Unreachable("down")

    def probe(self):
        raise Unreachable("down")


def test_a_process_that_ends_waits_for_all_its_outboxes_together(monkeypatch):
    monkeypatch.setattr(outbox, "EXIT_PATIENCE", 2.0)
    monkeypatch.setattr(outbox, "_exit", None)
    outboxes = [outbox.Outbox(_Never()) for _ in range(4)]
    for each in outboxes:
        each.put(brokers.enclose(Revoked("1", "a"))).result(5)
    began = time.monotonic()
    for each in outboxes:
        outbox._flush_at_exit(each)
    assert 1.9 < time.monotonic() - began < 7  # 8, if each waited by itself
    for each in outboxes:
        each.close()


class Unmakeable(BrokerBase):
    def __init__(self):
        raise OSError("no such host")


def test_sender_is_not_failed_by_a_broker_that_cannot_be_made(settings, caplog):
    settings.EVENTSTREAM_BROKER = f"{__name__}.Unmakeable"
    brokers.publish(Revoked("1", "a"))
    assert "no such host" in caplog.text
    assert [error.id for error in check_settings()] == ["django_eventstream.E009"]
