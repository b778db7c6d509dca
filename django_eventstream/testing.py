"""Tools for the tests of projects."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import TestCase

from django.db import connections

from .brokers.base import BrokerBase
from .event import Event
from .exceptions import EventDoesNotExist
from .hub import onlookers
from .messages import Envelope, Message, Published, Revoked, Tally
from .sequence import Sequencer, is_from
from .storage.base import StorageBase


@contextlib.contextmanager
def capture_events() -> Iterator[list[Event]]:
    """Collect the events that are published meanwhile, in the order of their publication.

    Events of transactions appear after the commit; in a ``TestCase``, when
    ``captureOnCommitCallbacks(execute=True)`` runs the callbacks.
    """
    recorder = _Recorder()
    onlookers.append(recorder)
    try:
        yield recorder.events
    finally:
        onlookers.remove(recorder)


class _Recorder:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def receive_messages(self, messages: Sequence[Message]) -> None:
        self.events += [message.event for message in messages if isinstance(message, Published)]


class _StorageContract:
    """What every storage keeps; see ``StorageContractTests``."""

    def make_storage(self) -> StorageBase:
        """Return the storage, empty."""
        raise NotImplementedError

    def forget_before(self, storage: StorageBase, channel: str, event_id: int) -> None:
        """Remove the channel's events with lower ids, as trimming does.

        The default trims nothing, and the tests of what follows are not run.
        """
        raise NotImplementedError

    def setUp(self) -> None:
        super().setUp()  # type: ignore[misc]
        self.storage = self.make_storage()

    def append(self, channel: str, *texts: str) -> list[Event]:
        """Append events of type ``message``."""
        return [self.storage.append_event(channel, "message", text) for text in texts]

    def check_missing(self, channel: str, last_id: int, current_id: int) -> None:
        """Check that a position is answered with EventDoesNotExist and the current id."""
        try:
            events = self.storage.get_events(channel, last_id)
        except EventDoesNotExist as error:
            found = error.current_id
        else:
            raise AssertionError(f"position {last_id} was answered with {events}")
        assert found == current_id, found

    def test_ids_count_from_one_on_each_channel(self) -> None:
        assert [event.id for event in self.append("a", "1", "2", "3")] == [1, 2, 3]
        assert [event.id for event in self.append("b", "1")] == [1]

    def test_append_returns_what_get_events_returns(self) -> None:
        stored = self.append("a", '{"x": 1}', "text", "")
        assert self.storage.get_events("a", 0) == stored
        assert [(event.channel, event.type) for event in stored] == [("a", "message")] * 3

    def test_several_events_are_appended_in_their_order(self) -> None:
        self.append("a", "1")
        events = [
            Event("ab"[number % 2], "message", str(number), None, frozenset({str(number)}))
            for number in range(7)
        ]
        stored = self.storage.append_events(events)
        assert [event.data for event in stored] == [event.data for event in events]
        assert [event.id for event in stored] == [2, 1, 3, 2, 4, 3, 5]
        assert self.storage.get_events("a", 1) == stored[::2]
        assert self.storage.get_events("b", 0) == stored[1::2]
        assert self.append("b", "7")[0].id == 4

    def test_many_events_are_appended_at_once(self) -> None:
        stored = self.storage.append_events(
            [Event("a", "message", str(number)) for number in range(1000)]
        )
        assert [event.id for event in stored] == [*range(1, 1001)]
        assert self.storage.get_events("a", 0, limit=1000) == stored

    def test_any_text_survives(self) -> None:
        text = "\0 \x7f \u202e \U0001f600 \r\n ' \" \\ %s {} \\u0000"
        self.append("a", text)
        assert self.storage.get_events("a", 0)[0].data == text

    def test_large_data_survives(self) -> None:
        text = "0123456789" * 100_000
        self.append("a", text)
        assert self.storage.get_events("a", 0)[0].data == text

    def test_users_to_skip_come_back(self) -> None:
        self.storage.append_event("a", "message", "1", skip_user_ids={"7", "x y"})
        assert self.storage.get_events("a", 0)[0].skip_user_ids == {"7", "x y"}

    def test_pages_follow_the_position_without_holes(self) -> None:
        self.append("a", *map(str, range(10)))
        assert [event.id for event in self.storage.get_events("a", 3, limit=4)] == [4, 5, 6, 7]
        assert [event.id for event in self.storage.get_events("a", 7, limit=4)] == [8, 9, 10]
        assert self.storage.get_events("a", 10, limit=4) == []

    def test_channel_that_never_was_is_at_zero(self) -> None:
        assert self.storage.get_current_id("never") == 0
        assert self.storage.get_events("never", 0) == []
        self.check_missing("never", 1, 0)

    def test_position_from_the_future_does_not_exist(self) -> None:
        self.append("a", "1", "2")
        self.check_missing("a", 3, 2)
        self.check_missing("a", 10**15, 2)

    def test_current_ids(self) -> None:
        self.append("a", "1", "2")
        self.append("b", "1")
        assert self.storage.get_current_id("a") == 2
        assert self.storage.get_current_ids(["a", "b", "c"]) == {"a": 2, "b": 1, "c": 0}
        assert self.storage.get_current_ids([]) == {}

    def test_names_are_compared_exactly(self) -> None:
        names = ["name", "NAME", "n\u00e4me", "name ", " name", "na\u0303me", "n:a,m%e", "x" * 255]
        for name in names:
            assert self.append(name, name)[0].id == 1, name
        for name in names:
            assert [event.data for event in self.storage.get_events(name, 0)] == [name]
        assert self.storage.get_current_ids(names) == dict.fromkeys(names, 1)

    def test_position_before_what_is_kept_does_not_exist(self) -> None:
        self.append("a", *map(str, range(5)))
        try:
            self.forget_before(self.storage, "a", 4)
        except NotImplementedError:
            return
        self.check_missing("a", 0, 5)
        self.check_missing("a", 2, 5)
        assert [event.id for event in self.storage.get_events("a", 3)] == [4, 5]
        assert self.storage.get_current_id("a") == 5
        self.forget_before(self.storage, "a", 6)
        self.check_missing("a", 4, 5)
        assert self.storage.get_events("a", 5) == []
        assert [event.id for event in self.append("a", "6")] == [6]

    def test_poll_tells_the_current_ids(self) -> None:
        self.append("a", "1", "2")
        current_ids: dict[str, Any] = self.storage.poll(["a", "b"])[0]
        assert {name: current_ids[name] for name in ("a", "b")} == {"a": 2, "b": 0}


class StorageContractTests(_StorageContract, TestCase):
    """The tests that every storage passes.

    Inherit, and tell how to make the storage::

        class MyStorageTests(StorageContractTests):
            def make_storage(self):
                return MyStorage(...)

            def forget_before(self, storage, channel, event_id):
                ...

    For storages in the project's database put Django's ``TestCase`` or
    ``TransactionTestCase`` after it among the base classes.
    """

    __test__ = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__test__ = True


class Ears:
    """A listener that keeps what it hears of a sender, on an event loop in a thread of its own."""

    def __init__(self, broker: BrokerBase, sender: str) -> None:
        #: How often the broker was connected, and what came.
        self.connections = 0
        self.heard: list[Envelope] = []
        self._broker = broker
        self._sender = sender
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def connected(self) -> None:
        """Count a connection."""
        with self._changed:
            self.connections += 1
            self._changed.notify_all()

    def receive(self, text: str | bytes) -> None:
        """Keep a message."""
        envelope = Envelope.from_text(text)
        if is_from(envelope, self._sender):  # and not of a test before, still on its way
            with self._changed:
                self.heard.append(envelope)
                self._changed.notify_all()

    def wait_until(self, condition: Callable[[], object], timeout: float = 20.0) -> None:
        """Wait for a condition that may change with what is heard."""
        with self._changed:
            assert self._changed.wait_for(condition, timeout), self.heard

    def messages(self, channel: str) -> list[Message]:
        """Return what came on a channel and has a number, in its order, without repeats."""
        found: dict[int, Message] = {}
        for envelope in self.heard:
            message = envelope.message
            if envelope.sequence is None or isinstance(message, Tally):
                continue
            if message.channel == channel:
                found[envelope.sequence] = message
        return [found[number] for number in sorted(found)]

    def close(self) -> None:
        """Stop listening."""
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(10)
        assert not self._thread.is_alive(), "listen() does not end when it is cancelled"

    def _run(self) -> None:
        self._task = self._loop.create_task(self._listen())
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _listen(self) -> None:
        while True:
            with contextlib.suppress(Exception):
                await self._broker.listen(self)
            await asyncio.sleep(0.05)


class _BrokerContract:
    """What every broker keeps; see ``BrokerContractTests``."""

    def make_broker(self) -> BrokerBase:
        """Return a broker, as a process of its own would make it."""
        raise NotImplementedError

    def interrupt(self) -> None:
        """Break the connections of all that listen, such that they can connect again.

        The default breaks nothing, and the tests of what follows are not run.
        """
        raise NotImplementedError

    def setUp(self) -> None:
        super().setUp()  # type: ignore[misc]
        self._ends = contextlib.ExitStack()
        self._lock = threading.Lock()
        self.sender = Sequencer(f"{type(self).__name__}-{time.monotonic_ns()}")
        self.broker = self._make_broker()

    def tearDown(self) -> None:
        self._ends.close()
        super().tearDown()  # type: ignore[misc]

    def _make_broker(self) -> BrokerBase:
        broker = self.make_broker()
        self._ends.callback(broker.close)
        return broker

    def listen(self) -> Ears:
        """Listen as another process would, and return when it is connected."""
        ears = Ears(self._make_broker(), self.sender.sender)
        self._ends.callback(ears.close)
        ears.wait_until(lambda: ears.connections)
        return ears

    def publish(self, *messages: Message, wait: bool = False) -> None:
        """Publish as one sender."""
        for message in messages:
            with self._lock:
                envelope = self.sender.enclose(message, time.monotonic())
            self.broker.publish(envelope, wait=wait)

    @staticmethod
    def events(count: int, channel: str = "a", size: int = 0) -> list[Message]:
        """Return events without ids."""
        return [
            Published(Event(channel, "message", f"{number}" + "x" * size))
            for number in range(count)
        ]

    def check_heard(self, ears: Ears, channel: str, messages: list[Message]) -> None:
        """Check what has come on a channel, when as much of it has come as was sent."""
        ears.wait_until(lambda: len(ears.messages(channel)) >= len(messages))
        assert ears.messages(channel) == messages, ears.messages(channel)

    def test_messages_keep_their_order_on_each_channel(self) -> None:
        ears = self.listen()
        a, b = self.events(50), self.events(50, "b")
        for pair in zip(a, b, strict=True):
            self.publish(*pair)
        self.check_heard(ears, "a", a)
        self.check_heard(ears, "b", b)

    def test_every_process_hears_every_message(self) -> None:
        several = [self.listen() for _ in range(3)]
        events = self.events(10)
        self.publish(*events)
        for ears in several:
            self.check_heard(ears, "a", events)

    def test_kicks_are_carried_with_their_users(self) -> None:
        ears = self.listen()
        kicks: list[Message] = [Revoked("7", "a"), Revoked(None, "a"), Revoked("x:,\u20ac", "a")]
        self.publish(*kicks)
        self.check_heard(ears, "a", kicks)

    def test_nothing_of_an_event_is_changed(self) -> None:
        ears = self.listen()
        channel = "n:a,m%e \u00e4\u20ac\U0001f600 'x' \\"
        text = "\x00\x01 \r\n \u2028 \U0001f600 'x' \\"
        event = Event(channel, "t \u20ac", text, skip_user_ids=frozenset({"7", "\u20ac"}))
        self.publish(Published(event))
        self.check_heard(ears, channel, [Published(event)])

    def test_large_events_are_carried(self) -> None:
        ears = self.listen()
        events = self.events(3, size=100_000)
        self.publish(*events)
        self.check_heard(ears, "a", events)

    def test_a_stored_event_is_carried_or_left_to_the_log_and_harms_nothing(self) -> None:
        ears = self.listen()
        self.publish(Published(Event("a", "message", "1", 1)), *self.events(1))
        self.check_heard(ears, "a", self.events(1))
        for envelope in ears.heard:
            if envelope.sequence is None:
                assert envelope.message.channel in ("a", None)

    def test_publishing_may_wait(self) -> None:
        ears = self.listen()
        events = self.events(3)
        self.publish(*events, wait=True)
        self.check_heard(ears, "a", events)

    def test_publishing_on_an_event_loop_raises_nothing(self) -> None:
        async def publish() -> None:
            self.publish(*self.events(3))

        asyncio.run(publish())
        self.broker.flush(5.0)

    def test_threads_may_publish_at_once(self) -> None:
        ears = self.listen()
        events = self.events(40)
        quarters = [events[start::4] for start in range(4)]

        def publish(*messages: Message) -> None:
            try:
                self.publish(*messages)
            finally:
                connections.close_all()  # of this thread

        threads = [threading.Thread(target=publish, args=part) for part in quarters]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ears.wait_until(lambda: len(ears.messages("a")) >= len(events))
        heard = ears.messages("a")
        for part in quarters:
            assert [message for message in heard if message in part] == part

    def test_a_broken_connection_is_made_again_and_told(self) -> None:
        ears = self.listen()
        self.publish(*self.events(1))
        self.check_heard(ears, "a", self.events(1))
        before = ears.connections
        try:
            self.interrupt()
        except NotImplementedError:
            return
        ears.wait_until(lambda: ears.connections > before)
        events = self.events(10, "after")
        self.publish(*events)
        self.check_heard(ears, "after", events)

    def test_publishing_while_the_connection_is_broken_raises_nothing(self) -> None:
        ears = self.listen()
        try:
            self.interrupt()
        except NotImplementedError:
            return
        self.publish(*self.events(100))
        ears.wait_until(lambda: ears.connections > 1)

    def test_flush_returns_in_time(self) -> None:
        self.publish(*self.events(1))
        self.broker.flush(5.0)


class BrokerContractTests(_BrokerContract, TestCase):
    """The tests that every broker passes which carries messages between processes.

    Inherit, and tell how to make the broker::

        class MyBrokerTests(BrokerContractTests):
            def make_broker(self):
                return MyBroker(...)

            def interrupt(self):
                ...
    """

    __test__ = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__test__ = True
