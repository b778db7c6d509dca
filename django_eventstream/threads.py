"""Where blocking work of streams runs, so that a waiting stream holds nothing.

Django serves an ASGI request inside a ThreadSensitiveContext: synchronous middleware, views
and the ORM run in a thread that the request keeps until its response ends, with a database
connection of its own. For a stream that is hours. So a stream gives its thread back when its
body is first pulled, and what it reads later, it reads on a few threads shared by all streams
of the process.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, ParamSpec, TypeVar

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async
from django.core import mail
from django.db import Error, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from .conf import settings

P = ParamSpec("P")
T = TypeVar("T")

#: After how many idle seconds a thread closes its database connections and ends.
IDLE_TIME = 5.0


async def run(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a function that may use the database, and return its result.

    ``async_to_sync`` inside it comes back to the running loop, so that asynchronous methods of
    a channel manager always find the loop that their clients belong to.
    """
    if is_testing():
        # A test's transaction, or database in memory, exists on the test's own thread only.
        return await sync_to_async(_run_in_test)(function, *args, **kwargs)
    # asgiref's annotation asks for more than the Executor that it uses.
    executor: Any = _threads
    call = sync_to_async(function, thread_sensitive=False, executor=executor)
    return await call(*args, **kwargs)


async def run_request(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run what answers a request where Django gives it no thread, and return its result.

    It gets one of its own while it runs: a project's slow checks must not keep the threads
    above from reading the log.
    """
    if is_testing():
        return await run(function, *args, **kwargs)
    async with ThreadSensitiveContext():
        try:
            return await sync_to_async(function)(*args, **kwargs)
        finally:
            release_request_thread()


def run_in_background(function: Callable[[], object]) -> Future[object] | None:
    """Run a function that may use the database, some time soon, from any thread.

    Not while testing: it would see other data than the test, or keep its database open.
    """
    return None if is_testing() else _threads.submit(function)


def release_request_thread() -> None:
    """Give back the thread, and the database connections, of the current ASGI request."""
    context = SyncToAsync.thread_sensitive_context.get(None)
    if context is None or getattr(context, "_executor", None) is not None:
        return  # none, or the project's own
    executors: Any = SyncToAsync.context_to_thread_executor
    executor = executors.get(context)
    # What synchronous calls come later: to close the response, which for hundreds of streams
    # that end at once would otherwise be hundreds of new threads.
    executors[context] = _ending
    if executor is not None:
        executor.submit(connections.close_all)
        executor.shutdown(wait=False)


def release_connections() -> None:
    """Give back the database connections of this thread, which a stream is about to hold."""
    for connection in connections.all(initialized_only=True):
        if connection.allow_thread_sharing:  # lent, by LiveServerTestCase
            del connections[connection.alias]
        else:
            connection.close()


class DatabaseThreads(Executor):
    """A few threads that end, and close their connections, when there is nothing to do.

    (The standard library's ThreadPoolExecutor keeps its threads until the process ends.)
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._running = 0
        self._idle = 0

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a function; its result goes to the returned future."""
        future: Future[T] = Future()
        with self._lock:
            self._jobs.put((future, partial(fn, *args, **kwargs)))
            start = self._jobs.qsize() > self._idle and self._running < settings.database_threads
            if start:
                self._running += 1
        if start:
            try:
                threading.Thread(target=self._work, name="eventstream-db", daemon=True).start()
            except RuntimeError:  # there is none to be had, as at the end of the process
                with self._lock:
                    self._running -= 1
                with contextlib.suppress(queue.Empty):
                    self._do(*self._jobs.get_nowait())
        return future

    def _work(self) -> None:
        try:
            while True:
                with self._lock:
                    self._idle += 1
                try:
                    job = self._jobs.get(timeout=IDLE_TIME)
                except queue.Empty:
                    job = None
                with self._lock:
                    self._idle -= 1
                    if job is None and self._jobs.empty():
                        self._running -= 1
                        return
                if job is not None:
                    self._do(*job)
                    del job
        finally:
            connections.close_all()

    @staticmethod
    def _do(future: Future[Any], function: Callable[[], Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            for connection in connections.all():
                # Projects may have it off; what is done here commits by itself.
                if not connection.settings_dict["AUTOCOMMIT"]:
                    connection.set_autocommit(True)
            result = function()
        except BaseException as error:
            if isinstance(error, Error):  # the database's: do not go on with that connection
                connections.close_all()
            future.set_exception(error)
        else:
            future.set_result(result)


_threads = DatabaseThreads()
#: For requests that have given back their own thread.
_ending = DatabaseThreads()


def _renew() -> None:
    global _threads, _ending
    _threads = DatabaseThreads()
    _ending = DatabaseThreads()


# A forked child has none of its parent's threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


def is_testing() -> bool:
    """Return whether Django's test environment is set up: it gives mail an outbox."""
    return hasattr(mail, "outbox")


def _run_in_test(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    try:
        return function(*args, **kwargs)
    finally:
        if threading.current_thread() is not threading.main_thread():
            # Nobody else would, and an open connection keeps a test database from removal.
            for connection in connections.all(initialized_only=True):
                if not connection.in_atomic_block:
                    # The close() of Django's SQLite leaves databases in memory open, for they
                    # would be gone; but the test's own connection keeps this one.
                    BaseDatabaseWrapper.close(connection)
