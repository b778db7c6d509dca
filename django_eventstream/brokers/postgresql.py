"""LISTEN on PostgreSQL, by a connection of psycopg 3 on the event loop.

It makes the database broker immediate, and nothing depends on it: what it does not hear, the
poll finds.
"""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from collections.abc import Callable
from typing import Any

import psycopg
from django.db import connections

from .. import threads
from ..conf import settings
from .base import Listener
from .database import NOTIFIED, DatabaseBroker

logger = logging.getLogger("django_eventstream")

#: For how many seconds a notification may take to arrive, when it is tried whether any does.
PROBE_PATIENCE = 5.0
PROBE = "probe "
#: The first and the longest pause, in seconds, between tries to connect; and the pause where
#: no notification arrives.
FIRST_PAUSE = 0.25
LONGEST_PAUSE = 5.0
PAUSE_WITHOUT = 300.0
#: So that a connection whose other end has vanished is noticed; times in seconds.
KEEP_ALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}


class _Deaf(Exception):
    """Notifications do not arrive."""


async def follow(
    broker: DatabaseBroker, listener: Listener, wake: asyncio.Event, settled: asyncio.Event
) -> None:
    """Give the listener what is notified, for as long as the task runs.

    ``wake`` is set when the broker's table should be read: also after an interruption;
    ``settled`` when something is notified, or it is known that nothing is for now.
    """
    pause = FIRST_PAUSE
    is_told = False

    def note_success() -> None:
        nonlocal pause, is_told
        pause = FIRST_PAUSE
        settled.set()
        wake.set()
        if is_told:
            logger.warning("PostgreSQL notifies of events again.")
            is_told = False

    while True:
        try:
            await _follow_once(broker, listener, wake, note_success)
        except Exception as error:  # whatever it is, it must be tried again
            settled.set()
            if not is_told:
                is_told = True
                logger.warning(
                    "PostgreSQL does not notify this process of events; until it does, they are "
                    "found by polling, every %g s: %s",
                    settings.poll_interval,
                    error,
                )
            if isinstance(error, _Deaf):
                pause = PAUSE_WITHOUT
        await asyncio.sleep(pause * random.uniform(0.5, 1))
        pause = min(pause * 2, LONGEST_PAUSE)


async def _follow_once(
    broker: DatabaseBroker,
    listener: Listener,
    wake: asyncio.Event,
    note_success: Callable[[], None],
) -> None:
    connection: Any = await psycopg.AsyncConnection.connect(**_parameters(broker.using))
    try:
        await connection.execute(f"LISTEN {NOTIFIED}")
        notifications = connection.notifies()
        # By another connection: where a pooler hands connections on after each transaction,
        # LISTEN raises nothing, and belongs to somebody else a moment later.
        probe = PROBE + uuid.uuid4().hex
        await threads.run(broker.notify, probe)
        while True:
            # Not by asyncio.wait_for, which up to Python 3.11 may swallow that this is cancelled.
            heard = asyncio.ensure_future(anext(notifications))
            try:
                await asyncio.wait([heard], timeout=PROBE_PATIENCE)
                if not heard.done():
                    raise _Deaf(
                        "LISTEN has no effect. Is there a connection pooler, such as pgbouncer, "
                        "in transaction mode?"
                    )
                notification = heard.result()
            finally:
                heard.cancel()
                await asyncio.gather(heard, return_exceptions=True)
            if notification.payload == probe:
                break
            _take(notification.payload, listener, wake)
        note_success()
        async for notification in notifications:
            _take(notification.payload, listener, wake)
    finally:
        await connection.close()


def _take(payload: str, listener: Listener, wake: asyncio.Event) -> None:
    if not payload:
        wake.set()
    elif not payload.startswith(PROBE):
        listener.receive(payload)


def _parameters(using: str) -> dict[str, Any]:
    """Return how Django connects, for a connection of psycopg's own."""
    connection: Any = connections[using]
    parameters = {**KEEP_ALIVE, **connection.get_connection_params(), "autocommit": True}
    parameters.pop("cursor_factory", None)  # one of synchronous cursors
    return parameters
