"""LISTEN on PostgreSQL goes on whatever happens to it."""

import asyncio

import psycopg
import pytest
from django.db import InterfaceError, OperationalError, connections

from django_eventstream.brokers.postgresql import NOTIFIED, follow
from tests.databases import postgresql
from tests.processes import TIMEOUT


class Broker:
    """Notifies, once it has failed in these ways: as Django's connections do on its threads."""

    using = "private"

    def __init__(self, port, failures):
        self._port = port
        self._failures = failures

    def notify(self, payload):
        if self._failures:
            raise self._failures.pop()
        place = {"host": "127.0.0.1", "port": self._port, "user": "postgres"}
        with psycopg.connect(**place, autocommit=True) as connection:
            connection.execute("SELECT pg_notify(%s, %s)", [NOTIFIED, payload])


class Listener:
    def __init__(self):
        self.received = asyncio.Queue()

    def receive(self, text):
        self.received.put_nowait(text)


@pytest.fixture
def private_server():
    with postgresql() as server:
        connections.settings["private"] = {
            **connections.settings["default"],
            "ENGINE": "django.db.backends.postgresql",
            "NAME": "postgres",
            "HOST": "127.0.0.1",
            "PORT": server.port,
            "USER": "postgres",
            "OPTIONS": {},
        }
        try:
            yield server
        finally:
            del connections.settings["private"]


@pytest.mark.slow
async def test_listener_goes_on_when_others_have_lost_their_connections(private_server):
    failures = [OperationalError("terminating connection"), InterfaceError("already closed")]
    broker, listener, wake = Broker(private_server.port, failures), Listener(), asyncio.Event()
    task = asyncio.create_task(follow(broker, listener, wake, asyncio.Event()))
    try:
        await asyncio.wait_for(wake.wait(), TIMEOUT)
        broker.notify("a message")
        assert await asyncio.wait_for(listener.received.get(), TIMEOUT) == "a message"
        assert not failures
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
