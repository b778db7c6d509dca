"""The threads on which streams read, and the transactions of the package's own."""

import asyncio
import queue
import threading
import time

import pytest
from django.db import Error, OperationalError, connection, connections

from django_eventstream import threads, transactions
from tests.conftest import manage
from tests.processes import wait_until


@pytest.fixture
def pool(monkeypatch):
    monkeypatch.setattr(threads, "IDLE_TIME", 0.05)
    return threads.DatabaseThreads()


@pytest.fixture
def count():
    """Count the threads that came since. (Those of other pools may end at any time.)"""
    others = set(threading.enumerate())

    def count():
        return sum(t.name == "eventstream-db" for t in set(threading.enumerate()) - others)

    return count


def test_threads_are_few_and_end_when_idle(pool, count, settings):
    settings.EVENTSTREAM_DATABASE_THREADS = 3
    leave = threading.Event()
    started = threading.Semaphore(0)

    def work(number):
        started.release()
        assert leave.wait(10)
        return number

    futures = [pool.submit(work, number) for number in range(10)]
    for _ in range(3):
        assert started.acquire(timeout=10)
    assert count() == 3
    leave.set()
    assert [future.result(10) for future in futures] == list(range(10))
    wait_until(lambda: count() == 0)
    assert pool.submit(work, 7).result(10) == 7


def test_no_function_waits_for_another_while_there_may_be_one_thread_more(pool, settings):
    settings.EVENTSTREAM_DATABASE_THREADS = 2
    took, go_on, leave = threading.Event(), threading.Event(), threading.Event()

    class Jobs(queue.SimpleQueue):
        def get(self, *args, **kwargs):
            job = super().get(*args, **kwargs)
            took.set()
            assert go_on.wait(10)
            return job

    pool._jobs = Jobs()
    go_on.set()
    pool.submit(int).result(10)  # so that there is an idle thread
    took.clear()
    go_on.clear()
    slow = pool.submit(leave.wait, 10)
    assert took.wait(10)  # and now it is idle no more
    quick = pool.submit(int)
    go_on.set()
    try:
        assert quick.result(5) == 0
    finally:
        leave.set()
    assert slow.result(10)


async def test_slow_requests_keep_no_other_one_waiting(monkeypatch):
    monkeypatch.setattr(threads, "is_testing", lambda: False)
    leave = threading.Event()
    slow = [
        asyncio.ensure_future(threads.run_request(leave.wait, 20))
        for _ in range(3 * threads.REQUEST_THREADS)
    ]
    # All threads there are, and more, are held up.
    assert await asyncio.wait_for(threads.run_request(lambda: 7), 10) == 7
    assert await asyncio.wait_for(threads.run(lambda: 8), 10) == 8
    assert not any(request.done() for request in slow)
    leave.set()
    assert all(await asyncio.gather(*slow))


async def test_many_slow_requests_make_threads_one_by_one(count, monkeypatch):
    monkeypatch.setattr(threads, "is_testing", lambda: False)
    leave = threading.Event()
    started = time.monotonic()
    slow = [asyncio.ensure_future(threads.run_request(leave.wait, 20)) for _ in range(400)]
    for _ in range(3):
        grown = count()
        await asyncio.to_thread(wait_until, lambda grown=grown: count() > grown)
        there_are, passed = count(), time.monotonic() - started
        assert there_are <= threads.REQUEST_THREADS + passed / threads.REQUEST_PATIENCE
    leave.set()
    assert all(await asyncio.gather(*slow))


def test_failure_is_the_callers_and_a_cancelled_job_is_not_run(pool, settings):
    settings.EVENTSTREAM_DATABASE_THREADS = 1
    leave, ran = threading.Event(), []
    blocking = pool.submit(leave.wait, 10)
    cancelled = pool.submit(ran.append, 1)
    failing = pool.submit(lambda: 1 / 0)
    assert cancelled.cancel()
    leave.set()
    assert blocking.result(10)
    with pytest.raises(ZeroDivisionError):
        failing.result(10)
    assert ran == []


def test_job_waits_for_the_threads_there_are_if_no_more_are_to_be_had(pool, monkeypatch):
    leave, names = threading.Event(), []
    slow = pool.submit(leave.wait, 10)

    def start(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    other = pool.submit(lambda: names.append(threading.current_thread().name))
    pool.grow_since(pool.progress)
    assert not other.done()
    leave.set()
    other.result(10)
    assert slow.result(10)
    assert names == ["eventstream-db"]


def test_job_is_done_even_if_no_thread_is_to_be_had(pool, monkeypatch):
    def fail(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        assert pool.submit(lambda: threading.current_thread()).result(0) is threading.main_thread()
    assert pool.submit(lambda: threading.current_thread()).result(10) is not threading.main_thread()


@pytest.mark.django_db(transaction=True)
def test_connection_that_failed_is_not_used_again(pool, settings):
    settings.EVENTSTREAM_DATABASE_THREADS = 1

    def use():
        connection.ensure_connection()
        return id(connection.connection)

    def fail():
        with connection.cursor() as cursor:
            cursor.execute("SELECT nonsense")

    def is_closed():
        return connection.connection is None

    pool.submit(use).result(10)
    with pytest.raises(Error):
        pool.submit(fail).result(10)
    assert pool.submit(is_closed).result(10)


@pytest.mark.django_db(transaction=True)
def test_projects_without_autocommit_have_it_here(pool, monkeypatch):
    monkeypatch.setitem(connections.settings["default"], "AUTOCOMMIT", False)
    assert pool.submit(lambda: connection.get_autocommit()).result(10)


class Cause(Exception):
    def __init__(self, name, sqlstate):
        setattr(self, name, sqlstate)


@pytest.mark.parametrize(
    ("arguments", "sqlstate", "again"),
    [
        (("could not serialize",), "40001", True),
        (("deadlock detected",), "40P01", True),
        ((1213, "Deadlock found"), None, True),
        ((1205, "Lock wait timeout exceeded"), None, True),
        (("database is locked",), None, True),
        (("disk full",), "53100", False),
        ((), None, False),
    ],
)
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", ["sqlstate", "pgcode"])  # in psycopg 3 and 2
def test_transaction_that_lost_against_another_is_tried_again(name, arguments, sqlstate, again):
    tries = []

    def lose_once():
        tries.append(1)
        if len(tries) == 1:
            raise OperationalError(*arguments) from Cause(name, sqlstate)
        return "done"

    if again:
        assert transactions.run_short_transaction("default", lose_once) == "done"
        assert len(tries) == 2
    else:
        with pytest.raises(OperationalError):
            transactions.run_short_transaction("default", lose_once)
        assert len(tries) == 1


@pytest.mark.django_db(transaction=True)
def test_transaction_is_not_tried_for_ever(monkeypatch):
    monkeypatch.setattr(transactions, "PATIENCE", 0.05)

    def lose():
        raise OperationalError("database is locked")

    started = time.monotonic()
    with pytest.raises(OperationalError):
        transactions.run_short_transaction("default", lose)
    assert time.monotonic() - started < 5


@pytest.mark.slow
def test_sender_has_the_log_trimmed_behind_its_back(tmp_path):
    database = str(tmp_path / "trim.sqlite3")
    manage(database, "migrate", "-v0")
    code = """
import logging, sys, time
from datetime import timedelta
from django.utils import timezone
from django_eventstream import hub, send_event
from django_eventstream.models import Event
from django_eventstream.storage import DjangoModelStorage

calls, trim = [], DjangoModelStorage.trim

def fail_once(self):
    calls.append(self)
    return trim(self) if len(calls) > 1 else 1 / 0

DjangoModelStorage.trim = fail_once
logging.getLogger("django_eventstream").addHandler(logging.StreamHandler(sys.stdout))
send_event("a", "m", "old")
Event.objects.update(created=timezone.now() - timedelta(days=2))
hub.TRIM_LOG_INTERVAL = 0
deadline = time.monotonic() + 20
while Event.objects.filter(eid=1).exists() and time.monotonic() < deadline:
    send_event("a", "m", "new")
print("kept:", Event.objects.order_by("eid").values_list("eid", flat=True)[0])
"""
    output = manage(database, "shell", "-v0", "-c", code)
    assert "Cannot trim the event log" in output
    assert "ZeroDivisionError" in output
    assert output.endswith("kept: 2\n")
