"""The broker that needs nothing but the database which is there already.

What the log has is found by the poll of every process with streams. What it does not have,
kicks and unstored events, goes through a table of its own, which those processes read as often.
On PostgreSQL both are made immediate by NOTIFY: see ``brokers.postgresql``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import time
from collections.abc import Sequence
from concurrent import futures
from datetime import timedelta
from functools import partial
from multiprocessing.util import Finalize
from typing import Any

from django.db import Error as DatabaseError
from django.db import connections, router
from django.db.models import Max, Q
from django.utils import timezone
from django.utils.module_loading import import_string

from .. import models, threads
from ..conf import settings
from ..messages import Envelope, Published, Stored
from ..transactions import batches, in_transaction, run_short_transaction
from . import tally_later
from .base import BrokerBase, Clocks, Listener, elapsed, read_clocks
from .outbox import EXIT_PATIENCE

logger = logging.getLogger("django_eventstream")

#: The name that is notified on.
NOTIFIED = "django_eventstream"
#: For how many seconds the first streams wait until messages come at once, and need no polling.
NOTIFY_PATIENCE = 1.0
#: PostgreSQL takes less than 8000 bytes, with its default settings.
MAX_PAYLOAD = 7900

#: For how many seconds messages stay in the table, and how often they are removed.
RETENTION = 600.0
TRIM_INTERVAL = 60.0
#: How many messages are read, or removed, at a time.
BATCH = 500
#: For how many seconds a message may become visible after one with a later key, and how many
#: such keys are looked for at the start, and in one hole.
LATE = 10.0
MAX_MISSING = 100


class Place:
    """How far a listener has read the table.

    Keys are given out before rows become visible, so a row may come later than its successors.
    """

    def __init__(self, last: int) -> None:
        self.last = last
        #: Keys that were passed over, and when.
        self.missing: dict[int, float] = {}

    def advance(self, key: int, now: float) -> None:
        """Note that a row was read, and which keys it leaves behind."""
        self.missing.pop(key, None)
        if key > self.last:
            for passed in range(max(self.last + 1, key - MAX_MISSING), key):
                self.missing[passed] = now
            self.last = key

    def forget(self, before: float) -> None:
        """Stop looking for keys that were passed over before a time."""
        self.missing = {key: since for key, since in self.missing.items() if since >= before}


class DatabaseBroker(BrokerBase):
    """Carries messages through the database that events are written to."""

    listens = True
    is_lossy = False

    def __init__(self) -> None:
        # What is written by other threads.
        self._late: set[futures.Future[object]] = set()
        # So that a short command gets it out.
        Finalize(None, self.flush, [EXIT_PATIENCE], exitpriority=0)

    @property
    def using(self) -> str:
        """The database's alias."""
        return router.db_for_write(models.BrokerMessage)

    def publish(self, envelope: Envelope, *, wait: bool = False) -> None:
        """Write a message where it is found."""
        self.publish_many([envelope], wait=wait)

    def publish_many(self, envelopes: Sequence[Envelope], *, wait: bool = False) -> None:
        """Write messages where they are found.

        Not in the caller's transaction, which may last, or be rolled back, nor on an event
        loop; there it is done a little later, by another thread, also if the sender would wait.
        """
        logged = [envelope for envelope in envelopes if _is_logged(envelope)]
        others = [envelope for envelope in envelopes if not _is_logged(envelope)]
        if not self.notifies:
            logged = []
        if not logged and not others:
            return
        carry = partial(self._carry, logged, others)
        if threads.is_on_event_loop() or in_transaction(self.using):
            late = threads.run_in_background(partial(self._carry_late, carry))
            if late is not None:
                self._late.add(late)
                late.add_done_callback(self._late.discard)
        else:
            carry()

    @property
    def notifies(self) -> bool:
        """Whether the database tells its other clients at once."""
        return connections[self.using].vendor == "postgresql"

    async def listen(self, listener: Listener) -> None:
        """Read the table, at each poll or when notified, until some may have been missed."""
        began = read_clocks()
        place = await threads.run(self._find_place)
        wake, settled = asyncio.Event(), asyncio.Event()
        following: asyncio.Task[None] | None = None
        try:
            follow = _find_follow() if self.notifies and not threads.is_testing() else None
            if follow is not None:
                following = asyncio.ensure_future(follow(self, listener, wake, settled))
                timer = asyncio.get_running_loop().call_later(NOTIFY_PATIENCE, settled.set)
                await settled.wait()
                timer.cancel()
            listener.connected()
            await self._read_on(place, began, listener, wake)
        finally:
            if following is not None:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)

    def flush(self, timeout: float) -> None:
        """Wait for what other threads write."""
        futures.wait(self._late.copy(), timeout)

    # Inside, sending

    def _carry_late(self, carry: partial[None]) -> None:
        try:
            carry()
        except Exception:
            logger.exception("A message to other processes was lost")
            tally_later([self])  # so that they notice

    def _carry(self, logged: Sequence[Envelope], others: Sequence[Envelope]) -> None:
        if logged:
            self.notify(*map(_payload, logged))
        if others:
            began = read_clocks()
            run_short_transaction(self.using, partial(self._write, others))
            # Rows of many, or late ones, may have been passed over: let those who poll count.
            is_risky = len(others) > MAX_MISSING // 4 or elapsed(began, read_clocks()) > LATE / 2
            if is_risky and not threads.is_testing():
                tally_later([self])

    def _write(self, envelopes: Sequence[Envelope]) -> None:
        rows = [models.BrokerMessage(text=envelope.text) for envelope in envelopes]
        for batch in batches(rows, BATCH, lambda row: len(row.text)):
            self._rows.bulk_create(batch)
        if self.notifies:
            # Heard in the order of the commits; what is read from the table is a repeat.
            texts = [envelope.text for envelope in envelopes]
            self.notify(*(text if len(text) <= MAX_PAYLOAD else "" for text in texts))

    def notify(self, *payloads: str) -> None:
        """Notify all processes; "" tells that there is something in the table.

        Not by the statement that stores an event, for the log knows nothing of brokers. With 16
        senders on a loaded machine one statement for both stored as many events where PostgreSQL
        waits for the disk, and up to 1.8 times as many where it does not.
        """
        with connections[self.using].cursor() as cursor:
            for start in range(0, len(payloads), BATCH):
                # As one text: psycopg looks at each member of an array. It took a third of what
                # send_events did.
                cursor.execute(
                    "SELECT pg_notify(%s, payload) FROM json_array_elements_text(%s) AS payload",
                    [NOTIFIED, json.dumps(payloads[start : start + BATCH])],
                )

    # Inside, listening

    async def _read_on(
        self, place: Place, read_at: Clocks, listener: Listener, wake: asyncio.Event
    ) -> None:
        trimmed_at = time.monotonic() - random.uniform(0, TRIM_INTERVAL)
        while True:
            pause = min(settings.poll_interval, RETENTION / 4) * random.uniform(0.9, 1.1)
            # Not by asyncio.wait_for, which up to Python 3.11 may swallow that this is cancelled.
            timer = asyncio.get_running_loop().call_later(pause, wake.set)
            try:
                await wake.wait()
            finally:
                timer.cancel()
            wake.clear()
            # Before it reads, for it may stand still afterwards.
            began = read_clocks()
            if elapsed(read_at, began) > RETENTION / 2:
                return  # the process stood still: what came may not be in the table any more
            try:
                texts = await threads.run(self._read, place)
            except DatabaseError:  # the poll of the log tells
                await asyncio.sleep(random.uniform(0.5, 1))
                continue
            read_at = began
            for text in texts:
                listener.receive(text)
            if len(texts) >= BATCH:
                wake.set()
            if time.monotonic() - trimmed_at > TRIM_INTERVAL:
                trimmed_at = time.monotonic()
                with contextlib.suppress(DatabaseError):  # at the next time
                    await threads.run(self._trim)
                    if await threads.run(self._begins_again, place):
                        return

    @property
    def _rows(self) -> Any:
        return models.BrokerMessage.objects.using(self.using)

    def _find_place(self) -> Place:
        last = self._rows.aggregate(last=Max("id"))["last"] or 0
        place = Place(max(0, last - MAX_MISSING))
        there = self._rows.filter(id__gt=place.last, id__lte=last).order_by("id")
        for key in [*there.values_list("id", flat=True)]:
            place.advance(key, time.monotonic())
        return place

    def _read(self, place: Place) -> list[str]:
        began = time.monotonic()
        wanted = Q(id__gt=place.last)
        if place.missing:
            wanted |= Q(id__in=[*place.missing])
        found = self._rows.filter(wanted).order_by("id").values_list("id", "text")[:BATCH]
        rows = [*found]
        now = time.monotonic()  # which the database may have taken long to
        for key, _ in rows:
            place.advance(key, now)
        place.forget(began - LATE)  # only now: the last time may have been long ago
        return [text for _, text in rows]

    def _trim(self) -> None:
        old = self._rows.filter(created__lt=timezone.now() - timedelta(seconds=RETENTION))
        keys = [*old.order_by("id").values_list("id", flat=True)[: BATCH * 20]]
        for start in range(0, len(keys), BATCH):
            self._rows.filter(id__in=keys[start : start + BATCH]).delete()

    def _begins_again(self, place: Place) -> bool:
        """Whether keys are given out again: the table was emptied, or restored from a backup."""
        last = self._rows.aggregate(last=Max("id"))["last"]
        return last is not None and last < place.last


def _is_logged(envelope: Envelope) -> bool:
    message = envelope.message
    return isinstance(message, Published) and message.event.id is not None


def _payload(envelope: Envelope) -> str:
    """Return what is notified of an event in the log: all of it, or that it is there."""
    assert isinstance(envelope.message, Published)
    event = envelope.message.event
    # Envelopes are ASCII and longer than their data, so a large one need not be made.
    if len(event.data) <= MAX_PAYLOAD and len(envelope.text) <= MAX_PAYLOAD:
        return envelope.text
    assert event.id is not None
    return Envelope(Stored(event.channel, event.id), envelope.sender).text


def _find_follow() -> Any:
    """Return what follows notifications; None: psycopg 2 cannot on an event loop, so it polls."""
    try:
        return import_string("django_eventstream.brokers.postgresql.follow")
    except ImportError:
        return None
