"""What a broker could not carry is noticed, and what it has carried is not lost afterwards."""

from __future__ import annotations

import asyncio

from django.db import DatabaseError

from django_eventstream.brokers.database import BATCH, DatabaseBroker, Place


class Listener:
    def __init__(self):
        self.texts = []
        self.is_told = asyncio.Event()
        self.on_receive = lambda: None

    def connected(self):
        pass

    def receive(self, text):
        self.texts.append(text)
        self.is_told.set()
        self.on_receive()


class Table(DatabaseBroker):
    notifies = False

    def __init__(self, *pages):
        self.pages = [*pages]

    def _find_place(self):
        return Place(0)

    def _read(self, place):
        return self.pages.pop(0) if self.pages else []

    def _trim(self):
        raise DatabaseError


async def test_a_listener_that_has_more_to_read_ends_when_it_is_cancelled():
    listener = Listener()
    table = Table(*[["text"] * BATCH] * 1000)
    task = asyncio.ensure_future(table.listen(listener))
    listener.on_receive = lambda: asyncio.get_running_loop().call_soon(task.cancel)
    await asyncio.wait({task}, timeout=10)
    assert task.cancelled()


async def test_what_was_read_is_heard_although_the_table_cannot_be_trimmed(settings, monkeypatch):
    settings.EVENTSTREAM_POLL_INTERVAL = 0.01
    monkeypatch.setattr("django_eventstream.brokers.database.TRIM_INTERVAL", 0.0)
    listener = Listener()
    task = asyncio.ensure_future(Table(["first"]).listen(listener))
    await asyncio.wait_for(listener.is_told.wait(), 10)
    task.cancel()
    await asyncio.wait({task})
    assert listener.texts == ["first"]
