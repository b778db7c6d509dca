"""The simulated database: transactions, the event log in it, and its outages.

Each query is atomic, and other things happen between two of them. As in DjangoModelStorage, an
event of a transaction has no number until after the commit, and whoever comes by numbers it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from django.db import OperationalError
from django.db.models import Q

from django_eventstream.brokers.database import DatabaseBroker
from django_eventstream.event import Event
from django_eventstream.exceptions import EventDoesNotExist
from django_eventstream.storage import StorageBase


@dataclass
class Row:
    """An event that was committed and has no number yet."""

    key: int
    channel: str
    type: str
    data: str
    skip_user_ids: frozenset[str]


@dataclass
class Channel:
    """The log of one channel."""

    #: All events there ever were; the event with id n is at n - 1.
    events: list[Event] = field(default_factory=list)
    #: How many of them, the oldest, are not stored any more.
    trimmed: int = 0

    @property
    def current_id(self):
        return len(self.events)


class Database:
    """What all processes share."""

    def __init__(self, scheduler):
        self.scheduler = scheduler
        self.channels: dict[str, Channel] = {}
        self.pending: list[Row] = []
        #: Whether it cannot be reached, and how likely a single query fails.
        self.is_down = False
        self.failure_rate = 0.0
        #: The broker's table, by key; and copies of messages that never got there, as Bus.lost.
        self.messages: dict[int, str] = {}
        self.lost = set()
        self._keys = 0

    def log(self, channel):
        return self.channels.setdefault(channel, Channel())

    def query(self):
        """Let others go first, for a while; then be there, or not."""
        self.scheduler.pause()
        if self.is_down or (
            self.failure_rate and self.scheduler.random.random() < self.failure_rate
        ):
            raise OperationalError("the database is down")

    def write_message(self, process, channel, text):
        """Insert a row for the broker; others, with later keys, may be visible before."""
        self._keys += 1
        key = self._keys
        try:
            self.query()
        except BaseException:
            self.lost.add((process, None, channel))
            raise
        self.messages[key] = text
        self.scheduler.note(f"database: message {key}: {text}")

    def insert(self, channel, event_type, data, skip_user_ids):
        self._keys += 1
        return Row(self._keys, channel, event_type, data, frozenset(skip_user_ids))

    def number(self, channel):
        """Number what is pending on a channel."""
        rows = sorted((r for r in self.pending if r.channel == channel), key=lambda row: row.key)
        self.pending = [row for row in self.pending if row.channel != channel]
        return [self._append(row) for row in rows]

    def append(self, row):
        """Number a row, and what is pending before it."""
        earlier = self.number(row.channel)
        return earlier, self._append(row)

    def trim(self, channel, keep):
        log = self.log(channel)
        log.trimmed = max(log.trimmed, log.current_id - keep)
        self.scheduler.note(f"database: {channel} trimmed to {log.trimmed}")

    def _append(self, row):
        events = self.log(row.channel).events
        event = Event(row.channel, row.type, row.data, len(events) + 1, row.skip_user_ids)
        events.append(event)
        self.scheduler.note(f"database: {row.channel} has {event.id}: {row.data}")
        return event


class Transaction:
    """What a sender's thread has in place of Django's connection and ``transaction`` module."""

    def __init__(self, database, number):
        self.database = database
        #: The thread's.
        self.number = number
        self.in_atomic_block = False
        #: Whether the process is killed when it is about to publish.
        self.dies = False
        self.savepoint_ids: list[str] = []
        self.run_on_commit: list[tuple[set[str], object]] = []
        self.rows: list[Row] = []

    def on_commit(self, function, using=None):
        self.run_on_commit.append((set(self.savepoint_ids), function))

    def commit(self):
        self.database.query()
        self.in_atomic_block = False
        self.database.pending += self.rows

    def run_hooks(self):
        while self.run_on_commit:
            self.run_on_commit.pop(0)[1]()


class Storage(StorageBase):
    """One process's access to the log; transactional, as DjangoModelStorage is."""

    is_transactional = True
    broker = "database"
    using = "default"

    def __init__(self, database, keep=None):
        self._database = database
        self._keep = keep
        self._numbered: deque[Event] = deque()

    def append_event(self, channel, event_type, data, *, skip_user_ids=()):
        database = self._database
        database.query()
        row = database.insert(channel, event_type, data, skip_user_ids)
        transaction = database.scheduler.local
        if transaction is not None and transaction.in_atomic_block:
            transaction.rows.append(row)
            return Event(channel, event_type, data, None, row.skip_user_ids)
        earlier, event = database.append(row)
        self._numbered += earlier
        database.scheduler.pause()  # committed, and on its way back
        return event

    def get_events(self, channel, last_id, limit=100):
        current_id = self.get_current_id(channel)
        if last_id == current_id:
            return []
        page = []
        if last_id < current_id:
            self._database.query()
            log = self._database.log(channel)
            page = log.events[last_id : last_id + limit] if log.trimmed <= last_id else []
        if not page:
            raise EventDoesNotExist(f"Channel {channel!r} holds no event {last_id + 1}", current_id)
        return page

    def get_current_id(self, channel):
        return self.get_current_ids([channel])[channel]

    def get_current_ids(self, channels):
        current_ids, pending = self._survey(channels)
        self._numbered += self._number_all(pending & set(channels), current_ids)
        return current_ids

    def take_numbered(self):
        events = [*self._numbered]
        self._numbered.clear()
        return events

    def poll(self, channels):
        current_ids, pending = self._survey(channels)
        numbered = self._number_all(pending, current_ids)
        return current_ids, self.take_numbered() + numbered

    def number_pending(self, channel):
        self._database.query()
        numbered = self._database.number(channel)
        self._database.scheduler.pause()
        return numbered

    def trim(self):
        self._database.query()
        if self._keep is not None:
            for channel in sorted(self._database.channels):
                self._database.trim(channel, self._keep)
        return 0

    def _survey(self, channels):
        self._database.query()
        current_ids = {name: self._database.log(name).current_id for name in sorted(channels)}
        return current_ids, {row.channel for row in self._database.pending}

    def _number_all(self, channels, current_ids):
        events = []
        for channel in sorted(channels):
            numbered = self.number_pending(channel)
            events += numbered
            if numbered and channel in current_ids:
                current_ids[channel] = max(current_ids[channel], numbered[-1].id)
        return events


class TableBroker(DatabaseBroker):
    """The package's broker through the database, on the simulated one."""

    using = "default"
    notifies = False

    def __init__(self, database, process):
        self._database = database
        self._process = process

    def _carry(self, logged, others):
        for envelope in others:
            self._database.write_message(self._process, envelope.message.channel, envelope.text)

    def _trim(self):
        self._database.query()  # and leave it at that: a run is short

    @property
    def _rows(self):
        return Rows(self._database, self._database.messages.items())


class Rows:
    """As much of a query set as that broker uses; it is read when its result is used."""

    def __init__(self, database, rows):
        self._database = database
        self._rows = rows

    def filter(self, *conditions, **lookups):
        return Rows(
            self._database,
            [
                row
                for row in self._rows
                if all(_matches(row[0], item) for item in (*conditions, *lookups.items()))
            ],
        )

    def order_by(self, field):
        return Rows(self._database, sorted(self._rows))

    def values_list(self, *fields, flat=False):
        return Rows(self._database, [row[0] for row in self._rows] if flat else self._rows)

    def aggregate(self, last):
        self._database.query()
        return {"last": max((key for key, _ in self._rows), default=None)}

    def __getitem__(self, part):
        return Rows(self._database, self._rows[part])

    def __iter__(self):
        self._database.query()
        return iter(self._rows)


def _matches(key, condition):
    """Whether a key meets a condition: a Q object, or a lookup and its value."""
    if isinstance(condition, Q):
        results = (_matches(key, child) for child in condition.children)
        return any(results) if condition.connector == Q.OR else all(results)
    lookup, value = condition
    return {
        "id__gt": lambda: key > value,
        "id__lte": lambda: key <= value,
        "id__in": lambda: key in value,
    }[lookup]()
