"""Where blocking work of streams runs, so that a waiting stream holds nothing.

Django serves an ASGI request inside a ThreadSensitiveContext: synchronous middleware, views
and the ORM run in a thread that the request keeps until its response ends, with a database
connection of its own. For a stream that is hours. So a stream gives its thread back when its
body is first pulled, and what it reads later, it reads on a few threads shared by all streams
of the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import queue
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, ParamSpec, TypeVar

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async
from django.core import mail
from django.db import Error, close_old_connections, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.dispatch import receiver

from .conf import settings

P = ParamSpec("P")
T = TypeVar("T")

#: After how many idle seconds a thread closes its database connections and ends.
IDLE_TIME = 5.0
#: How many threads answer requests where Django gives them none, and after how many seconds in
#: which none of them got anything done there are more.
REQUEST_THREADS = 8
REQUEST_PATIENCE = 0.02


async def run(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a function that may use the database, and return its result.

    ``async_to_sync`` inside it comes back to the running loop, so that asynchronous methods of
    a channel manager always find the loop that their clients belong to.
    """
    if is_testing():
        # A test's transaction, or database in memory, exists on the test's own thread only.
        return await sync_to_async(_run_in_test)(function, *args, **kwargs)
    result: T = await _pools.run(function, *args, **kwargs)
    return result


async def run_request(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run what answers a request, and return its result.

    Not on the threads above: a project's slow checks must not keep them from reading the log.
    Nor do they keep other requests waiting for long.
    """
    if is_testing():
        return await run(function, *args, **kwargs)
    loop = asyncio.get_running_loop()
    pool = _pools.requests

    timer: asyncio.TimerHandle | None = None

    def look_again(progress: int) -> None:
        nonlocal timer
        pool.grow_since(progress)
        timer = loop.call_later(REQUEST_PATIENCE, look_again, pool.progress)

    timer = loop.call_later(REQUEST_PATIENCE, look_again, pool.progress)
    try:
        result: T = await _pools.run_request(function, *args, **kwargs)
        return result
    finally:
        timer.cancel()


def begin(
    loop: asyncio.AbstractEventLoop, context: contextvars.Context, coroutine: Coroutine[Any, Any, T]
) -> asyncio.Task[T]:
    """Begin a task on a loop, in a context; from the loop.

    Not by a task factory: with asyncio's eager one a task runs before its caller has taken note
    of it.
    """
    if loop.get_task_factory() is None:
        return context.run(loop.create_task, coroutine)
    return context.run(partial(asyncio.Task, coroutine, loop=loop))


def is_in_asgi_request() -> bool:
    """Return whether Django is handling a request on an event loop, in this very context.

    A loop that runs in this thread is not enough: with gevent, it may be another request's.
    """
    return SyncToAsync.thread_sensitive_context.get(None) is not None and is_on_event_loop()


def is_on_event_loop() -> bool:
    """Return whether an event loop runs in this thread, which must not block it."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _call(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    return function(*args, **kwargs)


def _run_request(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Keep connections between requests as long as the project's settings allow."""
    close_old_connections()
    try:
        return function(*args, **kwargs)
    finally:
        close_old_connections()


def run_in_background(function: Callable[[], object]) -> Future[object] | None:
    """Run a function that may use the database, some time soon, from any thread.

    Not while testing: it would see other data than the test, or keep its database open.
    """
    return None if is_testing() else _pools.reading.submit(function)


def release_request_thread() -> None:
    """Give back the thread, and the database connections, of the current ASGI request."""
    context = SyncToAsync.thread_sensitive_context.get(None)
    if context is None or getattr(context, "_executor", None) is not None:
        return  # none, or the project's own
    executors: Any = SyncToAsync.context_to_thread_executor
    executor = executors.get(context)
    # What synchronous calls come later: to close the response, which for hundreds of streams
    # that end at once would otherwise be hundreds of new threads.
    executors[context] = _pools.ending
    if executor is not None:
        # Not in vain: to wake a thread takes as long as most of what opening a stream takes.
        if context in _connected:
            executor.submit(connections.close_all)
        executor.shutdown(wait=False)


#: The requests that connected to a database.
_connected: weakref.WeakSet[ThreadSensitiveContext] = weakref.WeakSet()


@receiver(connection_created, dispatch_uid="django_eventstream.threads")
def _note_connection(**kwargs: Any) -> None:
    # Its thread runs what it runs in the request's context.
    context = SyncToAsync.thread_sensitive_context.get(None)
    if context is not None:
        _connected.add(context)


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

    def __init__(self, limit: Callable[[], int] = lambda: settings.database_threads) -> None:
        self._limit = limit
        #: How many functions have run, and how many threads were started beyond the limit.
        self.progress = 0
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._running = 0
        # Queued or being done. (Not how many threads are idle: one that was just woken still is.)
        self._unfinished = 0

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a function; its result goes to the returned future."""
        future: Future[T] = Future()
        with self._lock:
            self._jobs.put((future, partial(fn, *args, **kwargs)))
            self._unfinished += 1
            start = self._unfinished > self._running and self._running < self._limit()
            if start:
                self._running += 1
        if start:
            self._start()
        return future

    def grow_since(self, progress: int) -> None:
        """Start a thread beyond the limit, if functions wait and there was no progress since."""
        with self._lock:
            start = self.progress == progress and self._unfinished > self._running
            if start:
                self._running += 1
                self.progress += 1  # so that of many that wait, one makes it grow
        if start:
            self._start()

    def _start(self) -> None:
        try:
            threading.Thread(target=self._work, name="eventstream-db", daemon=True).start()
        except RuntimeError:  # there is none to be had, as at the end of the process
            with self._lock:
                self._running -= 1
                if self._running:  # they get to it; here might be an event loop
                    return
            with contextlib.suppress(queue.Empty):
                self._do(*self._jobs.get_nowait())

    def _work(self) -> None:
        try:
            while True:
                try:
                    job = self._jobs.get(timeout=IDLE_TIME)
                except queue.Empty:
                    with self._lock:
                        if self._unfinished < self._running:
                            self._running -= 1
                            return
                else:
                    self._do(*job)
                    del job
        finally:
            connections.close_all()

    def _do(self, future: Future[Any], function: Callable[[], Any]) -> None:
        result, failure = None, None
        is_wanted = future.set_running_or_notify_cancel()
        try:
            if is_wanted:
                for connection in connections.all():
                    # Projects may have it off; what is done here commits by itself.
                    if not connection.settings_dict["AUTOCOMMIT"]:
                        connection.set_autocommit(True)
                result = function()
        except BaseException as error:
            if isinstance(error, Error):  # the database's: do not go on with that connection
                connections.close_all()
            failure = error
        # Before anybody hears of it, and asks for more.
        with self._lock:
            self._unfinished -= 1
            self.progress += 1
        if failure is not None:
            future.set_exception(failure)
        elif is_wanted:
            future.set_result(result)


class _EndingThreads(DatabaseThreads):
    """Those in place of a request's own, which are not to be shut down with the request."""

    def __bool__(self) -> bool:
        """Look like nothing to asgiref, which would start a thread to shut them down."""
        return False


class _Pools:
    """The threads of this process."""

    def __init__(self) -> None:
        self.reading = DatabaseThreads()
        #: For requests to which Django gives no thread.
        self.requests = DatabaseThreads(lambda: REQUEST_THREADS)
        #: For requests that have given back their own thread.
        self.ending = _EndingThreads()
        # Made once: sync_to_async takes a third of what such a call costs to look at its function.
        # asgiref's annotation asks for more than the Executor that it uses.
        executor: Any = self.reading
        self.run: Any = sync_to_async(_call, thread_sensitive=False, executor=executor)
        executor = self.requests
        self.run_request: Any = sync_to_async(
            _run_request, thread_sensitive=False, executor=executor
        )


_pools = _Pools()


def _renew() -> None:
    global _pools
    _pools = _Pools()


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
