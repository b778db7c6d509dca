"""The event log in the project's own database.

How an event gets its number:

- Outside a transaction, one short transaction increments the channel's counter and inserts
  the row. The increment comes first and is an UPDATE: it takes the lock (on SQLite the write
  lock, which could not be had any more after a read), and what is read afterwards is current.
  On PostgreSQL all of it is one statement, see ``statements``. Several events are stored by one
  such transaction, which takes the counters in the order of the channels' names.
- Inside the caller's transaction, the row is inserted with ``eid`` NULL and no counter is
  touched, so no sender waits for another's open transaction. After the commit a short
  transaction numbers what is pending on the channel; if the process is killed before, the
  next one that sends or reads there, or polls, does.

Pending rows are found by ``eid IS NULL``, never by a greater key: a slow transaction commits
behind a fast one. They are numbered by key, which keeps the order within a transaction.
"""

from __future__ import annotations

import contextlib
import json
import logging
import random
import time
from collections import Counter, deque
from collections.abc import Collection, Sequence
from datetime import timedelta
from functools import cached_property

from django.db import Error as DatabaseError
from django.db import connections, router, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import (
    BigIntegerField,
    Case,
    Exists,
    F,
    Max,
    OuterRef,
    QuerySet,
    Value,
    When,
)
from django.db.models.functions import Cast
from django.db.models.signals import post_save, pre_save
from django.utils import timezone

from .. import models
from ..conf import settings
from ..event import Event
from ..exceptions import EventDoesNotExist
from ..transactions import batches, in_transaction, run_short_transaction
from .base import StorageBase, contiguous
from .statements import Statements, get_statements

logger = logging.getLogger("django_eventstream")

#: For how many seconds a reader waits for counters that others have locked.
LOCK_PATIENCE = 1.0
#: How many rows are numbered or deleted by one statement.
BATCH = 300


class DjangoModelStorage(StorageBase):
    """The log on SQLite, PostgreSQL, MySQL or MariaDB.

    The database is the one that the project's routers choose for writing ``models.Event``;
    it is read there too, for a replica's lag would look like lost events.
    """

    is_transactional = True
    broker = "database"

    @property
    def using(self) -> str:
        """Alias of the database."""
        return router.db_for_write(models.Event)

    @cached_property
    def _failing(self) -> set[str]:
        """Channels whose pending events could not be numbered, so that it is logged once."""
        return set()

    @cached_property
    def _numbered(self) -> deque[Event]:
        """Others' events that were numbered by the way; deques are safe to share."""
        return deque(maxlen=10_000)

    def append_event(
        self,
        channel: str,
        event_type: str,
        data: str,
        *,
        skip_user_ids: Collection[str] = (),
    ) -> Event:
        """Store an event; inside a transaction as a part of it, with ``id`` None."""
        (event,) = self.append_events(
            [Event(channel, event_type, data, None, frozenset(skip_user_ids))]
        )
        return event

    def append_events(self, events: Sequence[Event]) -> list[Event]:
        """Store events, all or none; inside a transaction as a part of it."""
        using = self.using
        connection = connections[using]
        statements = self._statements(connection)
        if in_transaction(using):
            with transaction.atomic(using, savepoint=len(events) > 1):  # all or none
                self._insert(events, connection, statements)
            return list(events)
        if len(events) == 1 and statements is not None:
            event_id = statements.append_alone(connection, _values(events[0]))
            if event_id is not None:
                return [_numbered(events[0], event_id)]
        stored, earlier = run_short_transaction(
            using, lambda: self._append(events, connection, statements)
        )
        self._numbered += earlier
        return stored

    def get_events(self, channel: str, last_id: int, limit: int = 100) -> list[Event]:
        """Return what follows ``last_id``, without holes; see StorageBase."""
        current_id = self.get_current_id(channel)
        if last_id == current_id:
            return []
        page: list[Event] = []
        if last_id < current_id:
            rows = self._events.filter(channel=channel, eid__gt=last_id)
            page = contiguous(map(_event, rows.order_by("eid")[:limit]))
        if not page or page[0].id != last_id + 1:
            raise EventDoesNotExist(f"Channel {channel!r} holds no event {last_id + 1}", current_id)
        return page

    def get_current_id(self, channel: str) -> int:
        """Return the id of the channel's latest event, 0 if there never was one."""
        return self.get_current_ids([channel])[channel]

    def get_current_ids(self, channels: Collection[str]) -> dict[str, int]:
        """Return the id of each channel's latest event."""
        current_ids, pending = self._survey(channels, only=True)
        self._numbered += self._number_all(pending, current_ids)
        return current_ids

    def take_numbered(self) -> list[Event]:
        """Return others' events that were numbered by the way."""
        events = []
        with contextlib.suppress(IndexError):
            while True:
                events.append(self._numbered.popleft())
        return events

    def poll(self, channels: Collection[str]) -> tuple[dict[str, int], list[Event]]:
        """Return the latest ids, and what was pending on any channel, numbered now."""
        current_ids, pending = self._survey(channels)
        numbered = self._number_all(pending, current_ids)
        return current_ids, self.take_numbered() + numbered

    def number_pending(self, channel: str) -> list[Event]:
        """Number what is pending on the channel; nothing inside a transaction."""
        return self._number_pending(channel)

    def trim(self) -> int:
        """Delete events beyond the retention time and the limit per channel, in batches."""
        cutoff = timezone.now() - timedelta(seconds=settings.retention)
        numbered = self._events.filter(eid__isnull=False)
        # Ordered by what each is found by, so that every batch is a walk along an index.
        count = self._delete(numbered.filter(created__lt=cutoff).order_by("created"))
        limit = settings.max_events_per_channel
        if limit is not None:
            above = numbered.filter(channel=OuterRef("name"), eid__lte=OuterRef("value") - limit)
            for name, value in self._counters.filter(Exists(above)).values_list("name", "value"):
                rows = self._events.filter(channel=name, eid__lte=value - limit)
                count += self._delete(rows.order_by("eid"))
        return count

    def raise_counters(self, by: int) -> int:
        """Let every channel go on ``by`` numbers further; return how many channels."""
        return self._counters.update(value=F("value") + by)

    # Inside

    @property
    def _events(self) -> QuerySet[models.Event]:
        return models.Event.objects.using(self.using)

    @property
    def _counters(self) -> QuerySet[models.EventCounter]:
        return models.EventCounter.objects.using(self.using)

    def _survey(
        self, channels: Collection[str], *, only: bool = False
    ) -> tuple[dict[str, int], set[str]]:
        """Return the counters of channels, and where events are pending, in one query.

        ``only``: pending on these channels, not on any.
        """
        names = list(channels)
        current_ids = dict.fromkeys(names, 0)
        pending: set[str] = set()
        unnumbered = self._events.filter(eid__isnull=True).values_list("channel", "eid").distinct()
        # Few databases take any number of parameters; "only" uses each name twice.
        size = (connections[self.using].features.max_query_params or 20_000) // 2
        for start in range(0, len(names), size) or [0]:
            some = names[start : start + size]
            waiting = unnumbered.filter(channel__in=some) if only else unnumbered
            counters = self._counters.filter(name__in=some).values_list("name", "value")
            for name, value in counters.union(waiting, all=True) if some else waiting:
                if value is None:
                    pending.add(name)
                else:
                    current_ids[name] = value
        return current_ids, pending

    def _number_all(self, channels: Collection[str], current_ids: dict[str, int]) -> list[Event]:
        """Number what is pending on channels; note their latest ids in ``current_ids``.

        One channel does not hold up the others for long. Its counter may be locked by a process
        that was stopped, or whose host is gone; whoever has the lock numbers, or the next reader.
        """
        events: list[Event] = []
        deadline = time.monotonic() + LOCK_PATIENCE
        for channel in sorted(channels):
            try:
                numbered = self._number_pending(channel, deadline)
            except DatabaseError as error:
                if channel not in self._failing:
                    self._failing.add(channel)
                    logger.warning("Cannot number events of channel %r yet: %r", channel, error)
                continue
            self._failing.discard(channel)
            events += numbered
            if numbered and channel in current_ids:
                assert numbered[-1].id is not None
                current_ids[channel] = max(current_ids[channel], numbered[-1].id)
        return events

    def _append(
        self,
        events: Sequence[Event],
        connection: BaseDatabaseWrapper,
        statements: Statements | None,
    ) -> tuple[list[Event], list[Event]]:
        """Number and insert events; return them, and what was pending, numbered before them."""
        earlier: list[Event] = []
        next_ids: dict[str, int] = {}
        counts = Counter(event.channel for event in events)
        for channel in sorted(counts):  # whoever locks several counters does so in this order
            value, pending = self._advance(channel, counts[channel], connection, statements)
            shift = 0
            if pending:  # what was committed earlier goes first
                numbered = BATCH
                while numbered == BATCH:
                    batch = self._number_rows(channel, value - counts[channel] + 1 + shift)
                    earlier += batch
                    numbered = len(batch)
                    shift += numbered
                self._counters.filter(name=channel).update(value=value + shift)
            next_ids[channel] = value + shift - counts[channel] + 1
        stored = []
        for event in events:
            stored.append(_numbered(event, next_ids[event.channel]))
            next_ids[event.channel] += 1
        self._insert(stored, connection, statements)
        return stored, earlier

    def _advance(
        self,
        channel: str,
        by: int,
        connection: BaseDatabaseWrapper,
        statements: Statements | None,
    ) -> tuple[int, bool]:
        """Advance a counter; return it, and whether something is pending on the channel."""
        if statements is not None:
            found = statements.count(connection, channel, by)
            if found is not None:
                return found
        self._count(channel, by)
        waiting = self._events.filter(channel=OuterRef("name"), eid__isnull=True)
        return (
            self._counters.filter(name=channel)
            .annotate(pending=Exists(waiting))
            .values_list("value", "pending")
            .get()
        )

    def _insert(
        self,
        events: Sequence[Event],
        connection: BaseDatabaseWrapper,
        statements: Statements | None,
    ) -> None:
        if statements is not None:
            rows = ((_values(event), event.id) for event in events)
            for batch in batches(rows, BATCH, lambda row: len(row[0][2])):
                statements.insert(connection, batch)
            return
        for event in events:
            channel, event_type, data, skip_user_ids = _values(event)
            models.Event(
                channel=channel,
                type=event_type,
                data=data,
                skip_user_ids=skip_user_ids,
                eid=event.id,
            ).save(using=connection.alias, force_insert=True)

    def _statements(self, connection: BaseDatabaseWrapper) -> Statements | None:
        """Return the statements for a database; None: the ORM is to be used."""
        if pre_save.has_listeners(models.Event) or post_save.has_listeners(models.Event):
            return None  # a project looks at the rows
        return get_statements(connection.alias, connection.vendor)

    def _number_pending(self, channel: str, deadline: float | None = None) -> list[Event]:
        """Number what is pending; from the deadline on, not while the counter is locked."""
        using = self.using
        events: list[Event] = []
        if in_transaction(using):
            return events
        wait = deadline is None
        while True:
            batch = run_short_transaction(using, lambda: self._number(channel, using, wait=wait))
            events += batch or ()
            if batch is None:
                if deadline is not None and time.monotonic() > deadline:
                    return events
                time.sleep(random.uniform(0, 0.02))
            elif len(batch) < BATCH:
                return events

    def _number(self, channel: str, using: str, *, wait: bool) -> list[Event] | None:
        """Number what is pending; None: the counter is locked, and it was not to wait."""
        if not wait and connections[using].features.has_select_for_update_skip_locked:
            counter = self._counters.filter(name=channel)
            if not counter.select_for_update(skip_locked=True).values("id") and counter.exists():
                return None
        self._count(channel, 0)
        value = self._counters.values_list("value", flat=True).get(name=channel)
        events = self._number_rows(channel, value + 1)
        if events:
            self._count(channel, len(events))
        return events

    def _number_rows(self, channel: str, next_id: int) -> list[Event]:
        """Number pending rows from ``next_id`` on; the channel's counter is locked."""
        pending = self._events.filter(channel=channel, eid__isnull=True)
        rows = list(pending.order_by("id")[:BATCH])
        if not rows:
            return []
        for eid, row in enumerate(rows, next_id):
            row.eid = eid
        eids = Case(*(When(id=row.id, then=Value(row.eid)) for row in rows))
        # Cast: PostgreSQL takes parameters in a CASE for text.
        numbered = Cast(eids, BigIntegerField())
        self._events.filter(id__in=[row.id for row in rows]).update(eid=numbered)
        return [_event(row) for row in rows]

    def _count(self, channel: str, by: int) -> None:
        """Advance a counter, which locks it; create it if need be."""
        counter = self._counters.filter(name=channel)
        change = {"value": F("value") + by, "updated": timezone.now()}
        if not counter.update(**change):
            # From the events that are there: rows that a collation had counted elsewhere.
            latest = self._events.filter(channel=channel).aggregate(latest=Max("eid"))["latest"]
            self._counters.bulk_create(
                [models.EventCounter(name=channel, value=latest or 0)], ignore_conflicts=True
            )
            counter.update(**change)

    def _delete(self, rows: QuerySet[models.Event]) -> int:
        count = 0
        while keys := list(rows.values_list("id", flat=True)[:BATCH]):
            # Numbered rows never become pending again, so the keys are safe to delete.
            count += self._events.filter(id__in=keys).delete()[0]
        return count


def _text(data: str) -> str:
    """Return the text of a row.

    Version 5.3.4 stored anything with ``json_encode=False``, and wrote it as ``str`` does.
    """
    text = json.loads(data)
    return text if isinstance(text, str) else str(text)


def _values(event: Event) -> tuple[str, str, str, str | None]:
    """Return the columns of a row that are the event's own."""
    skipped = json.dumps(sorted(event.skip_user_ids)) if event.skip_user_ids else None
    return event.channel, event.type, json.dumps(event.data), skipped


def _numbered(event: Event, event_id: int) -> Event:
    return Event(event.channel, event.type, event.data, event_id, event.skip_user_ids)


def _event(row: models.Event) -> Event:
    return Event(
        row.channel,
        row.type,
        _text(row.data),
        row.eid,
        frozenset(json.loads(row.skip_user_ids)) if row.skip_user_ids else frozenset(),
    )
