"""Short transactions of the package's own, and telling whether the caller is in one."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from django.db import DEFAULT_DB_ALIAS, OperationalError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

T = TypeVar("T")

#: For how many seconds a transaction is tried again that lost against concurrent ones.
PATIENCE = 20.0

# Serialization failure and deadlock, by SQLSTATE and by MySQL's and MariaDB's numbers: lock
# wait timeout, deadlock, and "record has changed since last read".
_RETRYABLE_SQLSTATES = frozenset({"40001", "40P01"})
_RETRYABLE_NUMBERS = frozenset({1205, 1213, 1020})

#: How many characters one statement inserts at most, but for a longer single row. MariaDB drops
#: the connection over 16 MB (max_allowed_packet), and texts grow as they are quoted.
MAX_LENGTH = 1_000_000


def autocommits(using: str = DEFAULT_DB_ALIAS) -> bool:
    """Return whether statements outside ``atomic`` commit by themselves."""
    connection = connections[using]
    if connection.connection is None:  # asking would connect
        return bool(connection.settings_dict.get("AUTOCOMMIT", True))
    return bool(connection.autocommit)


def in_transaction(using: str = DEFAULT_DB_ALIAS) -> bool:
    """Return whether what is written now could still be rolled back.

    The transaction that Django's TestCase wraps around a test does not count.
    """
    connection = connections[using]
    if connection.in_atomic_block:
        blocks = connection.atomic_blocks
        # The mark that Django's own TestCase sets, and its durability check reads.
        return not (blocks and getattr(blocks[-1], "_from_testcase", False))
    return not autocommits(using)


def batches(rows: Iterable[T], count: int, length: Callable[[T], int]) -> Iterator[list[T]]:
    """Give rows in as many as one statement inserts: at most so many, and not too long ones."""
    batch: list[T] = []
    room = MAX_LENGTH
    for row in rows:
        room -= length(row)
        if batch and (room < 0 or len(batch) == count):
            yield batch
            batch, room = [], MAX_LENGTH - length(row)
        batch.append(row)
    if batch:
        yield batch


def run_short_transaction(using: str, function: Callable[[], T]) -> T:
    """Run a function in a transaction of its own, again when it lost against another one.

    The function takes its locks before it reads, and expects to read what is committed then:
    the transaction runs at READ COMMITTED whatever the project's isolation level, for with an
    older picture it could only fail and be tried again.
    """
    connection = connections[using]
    if connection.in_atomic_block:  # a TestCase's: alone, and not to be retried
        with transaction.atomic(using=using):
            return function()
    return _retry(lambda: _run(connection, function))


def run_statement(using: str, function: Callable[[], T]) -> T:
    """Run a function of one statement, which commits by itself, as ``run_short_transaction``."""
    if connections[using].in_atomic_block:
        return run_short_transaction(using, function)
    return _retry(function)


def _retry(function: Callable[[], T]) -> T:
    deadline = time.monotonic() + PATIENCE
    attempt = 0
    while True:
        try:
            return function()
        except OperationalError as error:
            if not _is_retryable(error) or time.monotonic() > deadline:
                raise
        attempt += 1
        time.sleep(random.uniform(0, min(0.002 * 2**attempt, 0.1)))


def _run(connection: BaseDatabaseWrapper, function: Callable[[], T]) -> T:
    stricter = is_stricter(connection)
    if stricter and connection.vendor == "mysql":  # refused once the transaction has begun
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
    with transaction.atomic(using=connection.alias, durable=True):
        if stricter and connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        return function()


def is_stricter(connection: BaseDatabaseWrapper) -> bool:
    """Return whether the project chose an isolation level beyond READ COMMITTED."""
    level = connection.settings_dict["OPTIONS"].get("isolation_level")
    if connection.vendor == "mysql":
        # Django's own default is READ COMMITTED; None leaves it to the server.
        options = connection.settings_dict["OPTIONS"]
        return "isolation_level" in options and (level or "").lower() != "read committed"
    if connection.vendor != "postgresql" or level is None:
        return False
    # Here, for it needs a driver; psycopg 2 has other numbers.
    from django.db.backends.postgresql.psycopg_any import IsolationLevel

    return level not in (IsolationLevel.READ_UNCOMMITTED, IsolationLevel.READ_COMMITTED)


def _is_retryable(error: OperationalError) -> bool:
    cause = error.__cause__
    # psycopg 2 calls it pgcode.
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    if state in _RETRYABLE_SQLSTATES:
        return True
    number = error.args[0] if error.args else None
    # SQLite: "database is locked", or, with a shared cache, "database table is locked".
    return number in _RETRYABLE_NUMBERS or re.match("database.* is locked", str(error)) is not None
