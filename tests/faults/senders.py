"""A process that sends events, and writes down what it committed and what it took back.

    python -m tests.faults.senders SEED RATE CHANNELS REPORT

It sends ``RATE`` events a second from two threads until it is told to stop. After each round, a
thread appends a line of JSON to ``REPORT``; see ``checker.check_senders``.
"""

from __future__ import annotations

import json
import logging
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import django

from tests.faults import inside
from tests.faults.checker import LOOSE

inside.move_clock()
django.setup()

from django.db import OperationalError, connection, transaction

from django_eventstream import send_event
from django_eventstream.storage import get_storage

THREADS = 2
#: Which share of the events goes to the unreliable channel.
LOOSE_SHARE = 0.1


class Rollback(Exception):
    """Ends a transaction."""


class Failures(logging.Handler):
    """Notes, for each thread, whether the package logged an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.threads: set[int] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self.threads.add(threading.get_ident())


class Sender:
    """One thread, which sends in rounds of several kinds."""

    def __init__(self, number: int, seed: str, channels: list[str], report: int) -> None:
        self._name = f"{inside.NAME}.{number}"
        self._source = random.Random(f"{seed} {self._name}")
        self._channels = channels
        self._report = report
        self._round = 0
        self._index = 0
        self._kept: list[str] = []
        self._dropped: list[str] = []

    def run(self, pause: float, failures: Failures) -> None:
        kinds = [self._single, self._transaction, self._rolled_back, self._savepoints]
        loses_after_commit = not get_storage().is_transactional
        due = time.monotonic()
        while not inside.orders().get("stop"):
            self._round += 1
            self._index = 0
            self._kept, self._dropped = [], []
            failures.threads.discard(threading.get_ident())
            known = True
            try:
                (kind,) = self._source.choices(kinds, [5, 3, 1, 2])
                kind()
            except Rollback:
                self._dropped += self._kept
                self._kept = []
            except Exception as error:
                # Whether it was committed is not known when the connection is gone.
                print(f"{self._name}:{self._round}: {error!r}", file=sys.stderr)
                known = False
                connection.close()
                time.sleep(0.2)
            if loses_after_commit and threading.get_ident() in failures.threads:
                known = False  # such a storage appends after the commit, and could not
            self._tell(known)
            due = max(due, time.monotonic() - 1) + pause * self._index
            time.sleep(max(0.0, due - time.monotonic()))
        connection.close()

    def _tell(self, known: bool) -> None:
        report: dict[str, Any] = {"thread": self._name, "round": self._round, "known": known}
        report |= {"kept": self._kept, "dropped": self._dropped}
        os.write(self._report, json.dumps(report).encode() + b"\n")  # appended as a whole

    def _send(self, dropped: bool = False) -> None:
        self._index += 1
        name = f"{self._name}:{self._round}:{self._index}"
        kind, channel = "message", self._source.choice(self._channels)
        if self._source.random() < LOOSE_SHARE:
            kind, channel = "loose", LOOSE
            name += ":" + LOOSE
        (self._dropped if dropped else self._kept).append(name)
        size = 10_000 if self._source.random() < 0.01 else self._source.randrange(100)
        data = {"name": name, "channel": channel, "sent": time.monotonic(), "fill": "é" * size}
        # A text of several lines.
        text = json.dumps(data, ensure_ascii=False, indent=1)
        send_event(channel, kind, text, json_encode=False)

    def _single(self) -> None:
        self._send()

    def _transaction(self) -> None:
        with transaction.atomic():
            for _ in range(self._source.randint(1, 5)):
                self._send()
            if connection.vendor != "sqlite":  # which lets one write at a time
                time.sleep(self._source.choice([0, 0, 0.01, 0.2]))

    def _rolled_back(self) -> None:
        with transaction.atomic():
            for _ in range(self._source.randint(1, 3)):
                self._send()
            raise Rollback

    def _savepoints(self) -> None:
        with transaction.atomic():
            self._send()
            self._in_savepoint(lambda: self._send(dropped=True))
            self._send()
            with transaction.atomic():
                self._send()
            self._in_savepoint(lambda: self._send(dropped=True))

    def _in_savepoint(self, send: Callable[[], None]) -> None:
        try:
            with transaction.atomic():
                send()
                raise Rollback
        except Rollback:
            # Where the connection was lost meanwhile, Django takes the whole transaction back
            # at its end, and raises nothing.
            if transaction.get_rollback():
                raise OperationalError("lost in a savepoint") from None


def main(seed: str, rate: float, channels: list[str], path: str) -> None:
    failures = Failures()
    logging.getLogger("django_eventstream").addHandler(failures)
    report = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    senders = [Sender(number, seed, channels, report) for number in range(THREADS)]
    threads = [
        threading.Thread(target=sender.run, args=[THREADS / rate, failures]) for sender in senders
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), sys.argv[3].split(","), sys.argv[4])
