"""The contract of storages."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from django.apps import apps
from django.db import router

from ..event import Event
from ..exceptions import EventDoesNotExist


class StorageBase:
    """An event log: per channel, events numbered 1, 2, 3 … in one order for everybody.

    Methods are called from any thread. An error while reading, whatever its type, makes
    streams wait and try again; an error while appending reaches the sender.

    ``django_eventstream.testing.StorageContractTests`` checks an implementation.
    """

    #: Whether ``append_event``, called inside a database transaction, makes the event part of
    #: it (returning it with ``id`` None), to be numbered by ``number_pending`` once the
    #: transaction is committed. Events of other storages are appended after the commit.
    is_transactional = False

    #: The broker of projects that name none. With "memory", processes hear of each other's
    #: events by the poll.
    broker = "memory"

    @property
    def using(self) -> str:
        """Alias of the database whose transactions events wait for: that of models.Event."""
        return router.db_for_write(apps.get_model("django_eventstream", "Event"))

    def append_event(
        self,
        channel: str,
        event_type: str,
        data: str,
        *,
        skip_user_ids: Collection[str] = (),
    ) -> Event:
        """Store an event under the channel's next id and return it with that id.

        ``data`` is the encoded text. ``skip_user_ids`` are ids, as text, of users who must
        not get the event; they come back with it from ``get_events``.
        """
        raise NotImplementedError

    def append_events(self, events: Sequence[Event]) -> list[Event]:
        """Store events, which have no ids yet, in their order; return them with their ids.

        All or none, where the storage can. This default appends one by one: if one of them
        fails, those before it are stored.
        """
        return [
            self.append_event(
                event.channel, event.type, event.data, skip_user_ids=event.skip_user_ids
            )
            for event in events
        ]

    def get_events(self, channel: str, last_id: int, limit: int = 100) -> list[Event]:
        """Return the events with the ids ``last_id + 1``, ``last_id + 2`` …, at most ``limit``.

        [] when ``last_id`` is the id of the latest event. Raises EventDoesNotExist when
        ``last_id`` is beyond it, or the event that follows is not stored any more.
        """
        raise NotImplementedError

    def get_current_id(self, channel: str) -> int:
        """Return the id of the channel's latest event, 0 if there never was one."""
        raise NotImplementedError

    def get_current_ids(self, channels: Collection[str]) -> dict[str, int]:
        """Return ``get_current_id`` of each channel, in as few queries as possible."""
        return {channel: self.get_current_id(channel) for channel in channels}

    def number_pending(self, channel: str) -> list[Event]:
        """Number what committed transactions left on a channel; return it, for publishing.

        Only called when ``is_transactional``, and never inside a transaction.
        """
        return []

    def take_numbered(self) -> list[Event]:
        """Return what was numbered since the last call while something else was asked for.

        The events that others left pending, each returned once, for publishing.
        """
        return []

    def poll(self, channels: Collection[str]) -> tuple[dict[str, int], list[Event]]:
        """Return ``get_current_ids``, and the events that were numbered on that occasion.

        Called every ``EVENTSTREAM_POLL_INTERVAL`` by each process with streams. Storages with
        pending events number those of every channel, whoever left them.
        """
        return self.get_current_ids(channels), []

    def trim(self) -> int:
        """Remove what is older or more than the settings keep; return how many events.

        Called in the background, at most once a minute by each process.
        """
        return 0

    def raise_counters(self, by: int) -> int:
        """Let every channel go on ``by`` numbers further; return how many channels.

        For ``manage.py eventstream_raise_counters``, after events were lost with their numbers.
        """
        raise NotImplementedError


def read_page(storage: StorageBase, channel: str, last_id: int, limit: int) -> list[Event]:
    """Read from a storage, and hold it to its contract.

    A storage that answers [] for a position that is not the present, or skips an id (version
    5.3.4's contract did not forbid it), would let events get lost in silence.
    """
    events = storage.get_events(channel, last_id, limit=limit)
    if events:
        if events[0].id == last_id + 1:
            return contiguous(events)
    else:
        current_id = storage.get_current_id(channel)
        if current_id == last_id:
            return []
        # Stored between the two calls?
        events = storage.get_events(channel, last_id, limit=limit)
        if events and events[0].id == last_id + 1:
            return contiguous(events)
    raise EventDoesNotExist(
        f"Channel {channel!r} holds no event {last_id + 1}", storage.get_current_id(channel)
    )


def contiguous(events: Iterable[Event]) -> list[Event]:
    """Return the events up to the first hole in their ids."""
    page: list[Event] = []
    for event in events:
        if page and page[-1].id is not None and event.id != page[-1].id + 1:
            break
        page.append(event)
    return page
