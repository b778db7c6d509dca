"""The database and the broker's server of a run, and what processes must know to use them."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tests import databases

if TYPE_CHECKING:
    from tests.redis_server import RedisServer

T = TypeVar("T")

ROOT = Path(__file__).parents[2]


@dataclass
class Services:
    """What runs."""

    folder: Path
    sqlite: Path
    environment: dict[str, str] = field(default_factory=dict)
    postgresql: databases.Server | None = None
    redis: RedisServer | None = None

    def query(self, statement: str) -> list[Any]:
        """Have PostgreSQL do something."""
        return self._ask_postgresql(lambda connection: connection.execute(statement).fetchall())

    def lock_log(self, seconds: float) -> None:
        """Keep everybody from reading and writing the log."""

        def lock(connection: Any) -> None:
            with connection.transaction():
                # In the order in which the package locks them, or they would deadlock.
                connection.execute(
                    "LOCK TABLE django_eventstream_eventcounter, django_eventstream_event"
                )
                time.sleep(seconds)

        if self.postgresql is not None:
            self._ask_postgresql(lock)
        else:
            with contextlib.closing(sqlite3.connect(self.sqlite, timeout=30)) as connection:
                connection.execute("BEGIN EXCLUSIVE")
                time.sleep(seconds)

    def _ask_postgresql(self, function: Callable[[Any], T]) -> T:
        """Call a function with a connection, again while the server recovers from a crash."""
        import psycopg  # not needed for the others

        assert self.postgresql is not None
        place = {"host": "127.0.0.1", "port": self.postgresql.port, "user": "postgres"}
        deadline = time.monotonic() + 30
        while True:
            try:
                with psycopg.connect(**place, autocommit=True) as connection:
                    return function(connection)
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)


@contextlib.contextmanager
def run_services(backend: str) -> Iterator[Services]:
    """Run what a backend needs: ``storage-broker``."""
    storage, broker = backend.split("-")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="eventstream-")))
        services = Services(folder, folder / "faults.sqlite3")
        services.environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.faults.settings",
            "EVENTSTREAM_TEST_DATABASE": "sqlite",
            "EVENTSTREAM_TEST_DATABASE_NAME": str(services.sqlite),
            "EVENTSTREAM_TEST_ISOLATION": "",
            "EVENTSTREAM_TEST_STORAGE": "tests.faults.storages.MortalStorage",
            "EVENTSTREAM_TEST_BROKER": f"tests.faults.brokers.Faulty{broker.title()}Broker",
        }
        # So seldom that what only the poll finds is seen to be late; SQLite has nothing else.
        services.environment["EVENTSTREAM_TEST_POLL_INTERVAL"] = "1" if storage == "sqlite" else "6"
        if storage == "postgresql":
            services.postgresql = stack.enter_context(databases.postgresql())
            services.environment |= {
                "EVENTSTREAM_TEST_DATABASE": "postgresql",
                "EVENTSTREAM_TEST_DATABASE_PORT": str(services.postgresql.port),
                "EVENTSTREAM_TEST_DATABASE_NAME": "",
            }
        if "redis" in (storage, broker):
            from tests.redis_server import redis_server  # not needed for the others

            # What it has acknowledged survives a kill.
            services.redis = stack.enter_context(redis_server(persistent=True))
            # Not EVENTSTREAM_REDIS, of which the checks say that only "redis" uses it.
            services.environment["EVENTSTREAM_TEST_STORAGE_CONNECTION"] = services.redis.url
        if storage == "redis":
            name = "django_eventstream.storage.RedisStorage"
            services.environment["EVENTSTREAM_TEST_STORAGE"] = name
        subprocess.run(
            [sys.executable, "-m", "tests.project.manage", "migrate", "-v0"],
            env=services.environment,
            cwd=ROOT,
            check=True,
        )
        yield services
