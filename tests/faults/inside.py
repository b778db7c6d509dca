"""What the harness has put into the workers and senders: clocks that move, and what it wants.

The harness controls it by a file of JSON, which is read again whenever it has changed:

- ``stop``: senders end
- ``clocks``: per place of a process, by how many seconds its clock is wrong
- ``die``: senders that kill themselves after their next commit, before they publish
- ``lose``, ``repeat``, ``delay``, ``garble``: with which probability that happens to what a
  broker hears
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import random
import time
from typing import Any

from django.utils import timezone

#: Of this process: its place, a dash, and a number that counts its restarts.
NAME = os.environ.get("EVENTSTREAM_FAULTS_NAME", "")
_PATH = os.environ.get("EVENTSTREAM_FAULTS_CONTROL", "")

_orders: dict[str, Any] = {}
_changed = 0
_looked = 0.0


def orders() -> dict[str, Any]:
    """Return what the harness wants."""
    global _orders, _changed, _looked
    now = time.monotonic()
    if _PATH and now - _looked > 0.05:
        _looked = now
        changed = os.stat(_PATH).st_mtime_ns
        if changed != _changed:
            with open(_PATH) as file:
                _orders = json.load(file)
            _changed = changed
    return _orders


def move_clock() -> None:
    """Have the wall clock of this process go wrong when the harness wants it."""
    real_time, real_now = time.time, timezone.now

    def offset() -> float:
        return float(orders().get("clocks", {}).get(NAME.partition("-")[0], 0))

    time.time = lambda: real_time() + offset()
    timezone.now = lambda: real_now() + datetime.timedelta(seconds=offset())


class Formatter(logging.Formatter):
    """Writes the time by the clock that clients' records have, and that is never moved."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{time.monotonic():.3f} {super().format(record)}"


def plant(defect: str) -> None:
    """Break the package, for the tests of the harness."""
    from django_eventstream import protocol

    write = protocol.StreamProtocol._write

    def lose(self: Any, cursor: Any, entry: Any) -> int:
        if random.random() < 0.01:
            cursor.position = entry.id
            return 0
        return write(self, cursor, entry)

    def repeat(self: Any, cursor: Any, entry: Any) -> int:
        if random.random() < 0.01:
            write(self, cursor, entry)
        return write(self, cursor, entry)

    protocol.StreamProtocol._write = {"lose": lose, "repeat": repeat}[defect]  # type: ignore
