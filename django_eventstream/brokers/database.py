"""The broker that needs nothing but the database which is there already.

What the log has is found by the poll of every process with streams. What it does not have,
kicks and unstored events, goes through a table of its own, which those processes read as often.
On PostgreSQL both are made immediate by NOTIFY: see ``brokers.postgresql``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
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
from ..transactions import in_transaction, run_short_transaction
from .base import BrokerBase, Listener
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
        """Write a message where it is found.

        Not in the caller's transaction, which may last, or be rolled back, nor on an event
        loop; there it is done a little later, by another thread, also if the sender would wait.
        """
        message = envelope.message
        is_logged = isinstance(message, Published) and message.event.id is not None
        if is_logged and not self.notifies:
            return
        carry = partial(self._notify_event if is_logged else self._write, envelope)
        if _is_on_loop() or in_transaction(self.using):
            late = threads.run_in_background(partial(_carry_late, carry))
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
        """Read the table, at each poll or when notified, until it cannot be read for long."""
        place = await threads.run(self._find_place)
        wake, settled = asyncio.Event(), asyncio.Event()
        following: asyncio.Task[None] | None = None
        try:
            if self.notifies and not threads.is_testing():
                follow = import_string("django_eventstream.brokers.postgresql.follow")
                following = asyncio.ensure_future(follow(self, listener, wake, settled))
                timer = asyncio.get_running_loop().call_later(NOTIFY_PATIENCE, settled.set)
                await settled.wait()
                timer.cancel()
            listener.connected()
            await self._read_on(place, listener, wake)
        finally:
            if following is not None:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)

    def flush(self, timeout: float) -> None:
        """Wait for what other threads write."""
        futures.wait(self._late.copy(), timeout)

    # Inside, sending

    def _write(self, envelope: Envelope) -> None:
        using = self.using

        def write() -> None:
            models.BrokerMessage.objects.using(using).create(text=envelope.text)
            if self.notifies:
                # Heard in the order of the commits; what is read from the table is a repeat.
                self.notify(envelope.text if _is_small(envelope) else "")

        run_short_transaction(using, write)

    def _notify_event(self, envelope: Envelope) -> None:
        text = envelope.text
        if not _is_small(envelope):
            assert isinstance(envelope.message, Published)
            event = envelope.message.event
            assert event.id is not None
            text = Envelope(Stored(event.channel, event.id), envelope.sender).text
        self.notify(text)

    def notify(self, payload: str) -> None:
        """Notify all processes; "" tells that there is something in the table."""
        with connections[self.using].cursor() as cursor:
            cursor.execute("SELECT pg_notify(%s, %s)", [NOTIFIED, payload])

    # Inside, listening

    async def _read_on(self, place: Place, listener: Listener, wake: asyncio.Event) -> None:
        now = time.monotonic()
        read_at, trimmed_at = now, now - random.uniform(0, TRIM_INTERVAL)
        while True:
            pause = settings.poll_interval * random.uniform(0.9, 1.1)
            # Not by asyncio.wait_for, which up to Python 3.11 may swallow that this is cancelled.
            timer = asyncio.get_running_loop().call_later(pause, wake.set)
            try:
                await wake.wait()
            finally:
                timer.cancel()
            wake.clear()
            try:
                texts = await threads.run(self._read, place)
            except DatabaseError:  # the poll of the log tells
                if time.monotonic() - read_at > RETENTION / 2:
                    raise  # to begin anew: some may be gone
                await asyncio.sleep(random.uniform(0.5, 1))
                continue
            read_at = time.monotonic()
            for text in texts:
                listener.receive(text)
            if len(texts) >= BATCH:
                wake.set()
            if time.monotonic() - trimmed_at > TRIM_INTERVAL:
                trimmed_at = time.monotonic()
                with contextlib.suppress(DatabaseError):  # at the next time
                    await threads.run(self._trim)

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
        now = time.monotonic()
        place.forget(now - LATE)
        wanted = Q(id__gt=place.last)
        if place.missing:
            wanted |= Q(id__in=[*place.missing])
        texts = []
        for key, text in self._rows.filter(wanted).order_by("id").values_list("id", "text")[:BATCH]:
            place.advance(key, now)
            texts.append(text)
        return texts

    def _trim(self) -> None:
        old = self._rows.filter(created__lt=timezone.now() - timedelta(seconds=RETENTION))
        keys = [*old.order_by("id").values_list("id", flat=True)[: BATCH * 20]]
        for start in range(0, len(keys), BATCH):
            self._rows.filter(id__in=keys[start : start + BATCH]).delete()


def _is_small(envelope: Envelope) -> bool:
    return len(envelope.text.encode()) <= MAX_PAYLOAD


def _is_on_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _carry_late(carry: partial[None]) -> None:
    try:
        carry()
    except Exception:
        logger.exception("A message to other processes was lost")
