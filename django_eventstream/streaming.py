"""The driver of the state machine: what moves a stream's bytes, on an event loop.

A stream is the asynchronous iterator that is a response's body. It waits for its hub to wake
it, writes what the protocol has to send, and works for the protocol in one task at a time:
asking the log, checking permissions. ``SyncStream`` drives it for ``runserver``.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import random
import threading
from collections.abc import Mapping
from functools import partial
from typing import Any

from django.db import Error as DatabaseError

from . import shutdown, threads
from .conf import settings
from .disconnect import Connection, disconnect
from .eventrequest import EventRequest
from .exceptions import EventDoesNotExist, StorageUnavailable, StreamError
from .hub import Hub, get_hub, was_revoked
from .protocol import CLOSED, LIVE, State, StreamProtocol

logger = logging.getLogger("django_eventstream")

#: For how many seconds a stream may wait for the log, or a check, before it has begun.
OPEN_TIMEOUT = 10.0
#: The first and the longest pause, in seconds, between tries to read the log.
FIRST_PAUSE = 0.25
LONGEST_PAUSE = 15.0


class Stream:
    """One stream: an asynchronous iterator of the bytes of its body.

    ``request`` says who reads and from where, ``channels`` which of its channels are reliable.
    The permissions have been checked when it was made. ``scope`` is that of ASGI, if any.
    """

    __slots__ = (
        "_answer",
        "_connection",
        "_context",
        "_ends_at",
        "_hub",
        "_job",
        "_left",
        "_loop",
        "_request",
        "_stale",
        "_stirred",
        "_suspect",
        "_task",
        "_waiter",
        "_wrote",
        "_wrote_at",
        "protocol",
    )

    def __init__(
        self,
        request: EventRequest,
        channels: Mapping[str, bool],
        scope: Mapping[str, Any] | None = None,
    ) -> None:
        self.protocol = StreamProtocol(
            channels,
            last_event_id=request.channel_last_ids,
            user_id=request.user_id,
            padding=settings.padding,
        )
        self._request = request
        self._connection = Connection.of(scope or {})
        # Set by the first pull.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context: contextvars.Context | None = None
        self._hub: Hub | None = None
        self._left = False
        # What works for the protocol now.
        self._job: asyncio.Task[None] | None = None
        # Where the channels stand, while the stream waits for no more than that to open.
        self._answer: asyncio.Future[dict[str, int]] | None = None
        # The next part; None while the server writes one, or waits for the client to read it.
        self._waiter: asyncio.Future[bytes] | None = None
        self._wrote_at = 0.0
        # Whether it wrote since the clock last ticked.
        self._wrote = False
        # Whether there may be something to do when the next part is asked for.
        self._stirred = True
        # When it has reached its maximum age, by the loop's clock.
        self._ends_at = float("inf")
        # What pulls it, and sends what it gets.
        self._task: asyncio.Task[Any] | None = None
        # Whether the last permission check is too old to read the log on it.
        self._stale = False
        # Whether the permission must be checked, whatever the state.
        self._suspect = False

    # For the server

    def __aiter__(self) -> Stream:
        return self

    def __anext__(self) -> asyncio.Future[bytes]:
        """Return a future of the next part.

        A future and no coroutine: the hub gives each stream its part in the pass in which it
        wakes it, and what resumes afterwards is the server's sending alone. All that is done
        between two system calls, here, costs several times what it costs in that pass, where
        code and data are in the processor's caches.
        """
        if self._loop is None:
            self._join()
        assert self._loop is not None
        waiter = self._waiter = self._loop.create_future()
        if self._stirred:
            self.wake()
        return waiter

    async def aclose(self) -> None:
        """Leave: whoever pulls has had enough, or was cancelled, for the client has gone."""
        self.leave()

    def leave(self) -> None:
        """Give up the places in the hub; on the stream's own loop."""
        if self._hub is not None and not self._left:
            self._left = self._stirred = True
            self._task = None
            self._hub.leave(self)
            if self._job is not None:
                self._job.cancel()

    def close(self) -> None:
        """Leave, from any thread: Django closes responses on threads of its own."""
        if self._loop is not None and not self._left:
            try:
                self._loop.call_soon_threadsafe(self.leave)
            except RuntimeError:  # the loop is closed: there is nothing left to leave
                self._left = True

    # For the hub

    def wake(self) -> None:
        """Look at the feeds and the state again, if the next part is waited for."""
        waiter, protocol = self._waiter, self.protocol
        if waiter is None or waiter.done():
            self._stirred = True
            return
        assert self._loop is not None
        if protocol.state is LIVE:
            self._stale = True
        try:
            if self._left:
                raise StopAsyncIteration
            if data := protocol.data_to_send():
                self._wrote = True
                self._waiter = None
                waiter.set_result(data)
                self._stirred = self._suspect or not protocol.is_quiet()
                if self._suspect and protocol.state is LIVE and self._job is None:
                    self._begin_work()  # there may be data each time, for ever
            elif protocol.state is CLOSED:
                raise StopAsyncIteration
            elif self._needs_work():
                self._begin_work()
        except Exception as error:  # the end; and one stream's failure is not that of others
            self._stirred = True
            if not waiter.done():
                waiter.set_exception(error)
            self._loop.call_soon(self.leave)  # not while the hub goes through its streams

    def tick(self, now: float, keep_alive_interval: float, send_timeout: float) -> None:
        """Do what is due at ``now``, by the loop's clock: keep alive, end, or cut off."""
        if self._wrote:
            self._wrote = False
            self._wrote_at = now
        if self.protocol.state is State.OPENING and now - self._wrote_at >= OPEN_TIMEOUT:
            logger.warning("Ending a stream, the client is to come back: it cannot be opened")
            self.end()  # whatever comes now finds it closed
        if self._waiter is not None and self._waiter.cancelled():
            self.leave()  # who pulled was cancelled, and did not close the stream
            return
        if now >= self._ends_at:
            self.end()
        if self._waiter is None:
            if now - self._wrote_at >= send_timeout:
                channels = ", ".join(map(repr, self.protocol.channels))
                logger.info("Cutting off a client of %s: it does not read", channels)
                self.cut()
        elif now - self._wrote_at >= keep_alive_interval and not self._waiter.done():
            self.protocol.receive_idle()
            self.wake()

    def end(self) -> None:
        """Have the client come back."""
        self.protocol.receive_end(retry_delay())
        self.wake()

    def cut(self, *, is_last: bool = False) -> None:
        """Leave, and have the server close the connection, for the client does not read.

        ``is_last``: whatever else the connection carries, for the process ends.
        """
        task = self._task
        self.end()
        self.leave()
        if task is not None:
            disconnect(task, self._connection, is_last=is_last)

    def recheck(self) -> None:
        """Check the user's permission again."""
        if not self._left:
            self._suspect = True
            self.wake()

    # Inside

    def _join(self) -> None:
        threads.release_request_thread()
        self._loop = asyncio.get_running_loop()
        # What wakes a stream later is in the context of a sender, that is, of another request.
        self._context = contextvars.copy_context()
        self._task = asyncio.current_task()
        self._wrote_at = self._loop.time()
        if settings.max_stream_age is not None:
            self._ends_at = self._wrote_at + settings.max_stream_age * random.uniform(0.8, 1)
        self._hub = get_hub()
        self._hub.join(self)
        shutdown.install()
        if shutdown.is_stopping():
            self.end()
        # Lost between the check and now, that is, before the hub knew of the stream?
        self._suspect = was_revoked(
            self.protocol.user_id, self.protocol.channels, self._request.checked_at
        )

    def _needs_work(self) -> bool:
        if self._job is not None or self._answer is not None:
            return False
        return self._suspect or self.protocol.state is not LIVE

    def _begin_work(self) -> None:
        """Open the stream if it may be opened at once; else begin a task.

        A task for each would cost more than the rest of opening.
        """
        assert self._hub is not None and self._loop is not None and self._context is not None
        if (
            self.protocol.state is not State.OPENING
            or self._suspect
            or not self._hub.listening.is_ready
            or self._was_checked_too_early()
        ):
            self._job = threads.begin(self._loop, self._context, self._work())
        else:
            self._open(self._hub)

    def _open(self, hub: Hub) -> None:
        """Learn where channels stand on which the client has no place in the feed, and begin."""
        positions, feeds = self._request.channel_last_ids, hub.feeds
        unknown = [
            channel
            for channel, reliable in self.protocol.channels.items()
            if reliable and not (channel in positions and feeds[channel].holds(positions[channel]))
        ]
        if unknown:
            self._answer = hub.ask_current_ids(unknown)
            self._answer.add_done_callback(self._receive_answer)
        else:
            self.protocol.receive_start(feeds, {})
            self.wake()

    def _receive_answer(self, answer: asyncio.Future[dict[str, int]]) -> None:
        self._answer = None
        if self._left or answer.cancelled():
            return
        assert self._hub is not None
        try:
            self.protocol.receive_start(self._hub.feeds, answer.result())
        except StorageUnavailable as error:
            logger.warning("Ending a stream, the client is to come back: %r", error)
            self.end()
        except Exception:
            logger.exception("Ending a stream, the client is to come back")
            self.end()
        self.wake()

    def _was_checked_too_early(self) -> bool:
        """Whether a kick of another process may have come before this one could hear it."""
        assert self._hub is not None
        since = self._hub.listening.since
        return since is not None and self._request.checked_at <= since

    async def _work(self) -> None:
        """Do what the protocol waits for, again while the log cannot be read."""
        assert self._loop is not None
        pause = FIRST_PAUSE
        try:
            deadline = self._loop.time() + settings.read_timeout
            while True:
                try:
                    await self._advance()
                    return
                except (StorageUnavailable, DatabaseError) as error:
                    if self.protocol.state is State.OPENING or self._loop.time() > deadline:
                        logger.warning("Ending a stream, the client is to come back: %r", error)
                        self.end()
                        return
                await asyncio.sleep(pause * random.uniform(0.5, 1))
                pause = min(pause * 2, LONGEST_PAUSE)
        except StreamError as error:
            self.protocol.receive_error(error)
        except Exception:
            logger.exception("Ending a stream, the client is to come back")
            self.end()
        finally:
            self._job = None
            self.wake()

    async def _advance(self) -> None:
        assert self._hub is not None
        opening = self.protocol.state is State.OPENING
        if opening:
            await self._hub.listening.wait_until_ready()
            self._suspect = self._suspect or self._was_checked_too_early()
        if self._suspect or (self._stale and self.protocol.state is State.READING):
            self._suspect = self._stale = False  # what comes meanwhile is checked after it
            try:
                await self._hub.check(partial(self._request.check_permission, afresh=True))
            except BaseException:
                self._suspect = True  # until it is known
                raise
        if opening:
            assert self._loop is not None
            self._wrote_at = self._loop.time()  # what the log may take counts from here
            self._open(self._hub)
        for channel, position in self.protocol.wanted():
            try:
                entries = await self._hub.read(self._hub.feeds[channel], position)
            except EventDoesNotExist as error:
                self.protocol.receive_missing(channel, error.current_id)
            else:
                self.protocol.receive_page(channel, entries)
            self.wake()


class SyncStream:
    """A stream as a plain iterator, for ``runserver``: it holds the thread that pulls it.

    The streams run on one event loop in a thread of its own, so that they share a hub.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._begun = False

    def __iter__(self) -> SyncStream:
        return self

    def __next__(self) -> bytes:
        if not self._begun:
            self._begun = True
            threads.release_connections()
        part = asyncio.run_coroutine_threadsafe(self._pull(), _get_background_loop())
        try:
            return part.result()
        except StopAsyncIteration:
            raise StopIteration from None

    async def _pull(self) -> bytes:
        return await anext(self._stream)

    def close(self) -> None:
        """Leave."""
        self._stream.close()


_background_loop: asyncio.AbstractEventLoop | None = None
_background_lock = threading.Lock()


def _get_background_loop() -> asyncio.AbstractEventLoop:
    global _background_loop
    with _background_lock:
        if _background_loop is None:
            _background_loop = asyncio.new_event_loop()
            run = _background_loop.run_forever
            threading.Thread(target=run, name="eventstream-loop", daemon=True).start()
        return _background_loop


def _renew() -> None:
    global _background_loop, _background_lock
    _background_loop = None
    _background_lock = threading.Lock()


# A forked child has no thread that runs its parent's loop.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


def retry_delay() -> int:
    """Return milliseconds after which a client is to come back, spread against storms."""
    return int(settings.retry_delay * random.uniform(500, 1500))
