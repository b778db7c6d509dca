"""Brokers with faults: what they hear goes wrong when the harness wants it."""

from __future__ import annotations

import asyncio
import random

from django_eventstream.brokers.base import BrokerBase, Listener
from django_eventstream.brokers.database import DatabaseBroker
from django_eventstream.brokers.redis import RedisBroker
from tests.faults import inside

#: Seconds by which a message is delayed, at most.
LATE = 1.5


class FaultyListener:
    """Stands between a broker and what listens to it."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._source = random.Random(inside.NAME)

    def connected(self) -> None:
        self._listener.connected()

    def receive(self, text: str | bytes) -> None:
        orders = inside.orders()
        if self._source.random() < orders.get("lose", 0):
            return
        if self._source.random() < orders.get("garble", 0):
            text = text[: self._source.randrange(len(text))]
        for _ in range(2 if self._source.random() < orders.get("repeat", 0) else 1):
            if self._source.random() < orders.get("delay", 0):
                late = self._source.uniform(0, LATE)
                asyncio.get_running_loop().call_later(late, self._listener.receive, text)
            else:
                self._listener.receive(text)


class Faulty(BrokerBase):
    """What a broker becomes."""

    async def listen(self, listener: Listener) -> None:
        await super().listen(FaultyListener(listener))


class FaultyDatabaseBroker(Faulty, DatabaseBroker):
    """The broker on the database."""


class FaultyRedisBroker(Faulty, RedisBroker):
    """The broker on Redis."""
