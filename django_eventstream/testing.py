"""Tools for the tests of projects."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import TestCase

from .event import Event
from .exceptions import EventDoesNotExist
from .hub import onlookers
from .messages import Message, Published
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

    def receive_message(self, message: Message) -> None:
        if isinstance(message, Published):
            self.events.append(message.event)


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
