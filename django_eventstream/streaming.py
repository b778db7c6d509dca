"""The driver of the state machine: what moves a stream's bytes, on an event loop.

A stream is the asynchronous iterator that is a response's body. It waits for its hub to wake
it, writes what the protocol has to send, and works for the protocol in one task at a time:
asking the log, checking permissions. ``SyncStream`` drives it for ``runserver``.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import Mapping
from typing import Any

from django.db import Error as DatabaseError

from . import shutdown, threads
from .conf import settings
from .disconnect import disconnect
from .eventrequest import EventRequest
from .exceptions import EventDoesNotExist, StorageUnavailable, StreamError
from .feed import Feed
from .hub import Hub, get_hub, was_revoked
from .protocol import State, StreamProtocol

logger = logging.getLogger("django_eventstream")

#: For how many seconds a stream may wait for the log before it has begun.
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
        "_ends_at",
        "_feeds",
        "_hub",
        "_job",
        "_left",
        "_loop",
        "_request",
        "_scope",
        "_stale",
        "_suspect",
        "_task",
        "_waiter",
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
        self._scope = scope or {}
        # Set by the first pull.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._hub: Hub | None = None
        self._feeds: dict[str, Feed] = {}
        self._left = False
        # What works for the protocol now, and the future that the body waits for.
        self._job: asyncio.Task[None] | None = None
        # (None: the server writes what it got, or waits for the client to read.)
        self._waiter: asyncio.Future[None] | None = None
        self._wrote_at = 0.0
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

    async def __anext__(self) -> bytes:
        if self._left:
            raise StopAsyncIteration
        if self._loop is None:
            self._join()
        assert self._loop is not None
        try:
            while True:
                if self.protocol.state is State.LIVE:
                    self._stale = True
                if data := self.protocol.data_to_send():
                    self._wrote_at = self._loop.time()
                    self._waiter = None
                    return data
                if self.protocol.state is State.CLOSED:
                    raise StopAsyncIteration
                if self._job is None and (self._suspect or self.protocol.state is not State.LIVE):
                    self._job = self._loop.create_task(self._work())
                self._waiter = self._loop.create_future()
                await self._waiter
        except BaseException:  # the end, or the server cancels: the client has gone
            self.leave()
            raise

    def leave(self) -> None:
        """Give up the places in the hub; on the stream's own loop."""
        if self._hub is not None and not self._left:
            self._left = True
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
        """Look at the feeds and the state again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def tick(self, now: float) -> None:
        """Do what is due at ``now``, by the loop's clock: keep alive, end, or cut off."""
        if now >= self._ends_at:
            self.end()
        if self._waiter is None:
            if now - self._wrote_at >= settings.send_timeout:
                channels = ", ".join(map(repr, self.protocol.channels))
                logger.info("Cutting off a client of %s: it does not read", channels)
                self.cut()
        elif not self._waiter.done() and now - self._wrote_at >= settings.keep_alive_interval:
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
            disconnect(task, self._scope, is_last=is_last)

    def recheck(self) -> None:
        """Check the user's permission again."""
        if not self._left:
            self._suspect = True
            self.wake()

    # Inside

    def _join(self) -> None:
        threads.release_request_thread()
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._wrote_at = self._loop.time()
        if settings.max_stream_age is not None:
            self._ends_at = self._wrote_at + settings.max_stream_age * random.uniform(0.8, 1)
        self._hub = get_hub()
        self._feeds = self._hub.join(self)
        shutdown.install()
        if shutdown.is_stopping():
            self.end()
        # Lost between the check and now, that is, before the hub knew of the stream?
        self._suspect = was_revoked(
            self.protocol.user_id, self.protocol.channels, self._request.checked_at
        )

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
                except (StorageUnavailable, DatabaseError, asyncio.TimeoutError) as error:
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
            since = self._hub.listening.since
            # A kick of another process, from before this one could hear it?
            if since is not None and self._request.checked_at <= since:
                self._suspect = True
        if self._suspect or (self._stale and self.protocol.state is State.READING):
            self._suspect = True  # until it is known
            await threads.run(self._request.check_permission, afresh=True)
            self._suspect = self._stale = False
        if opening:
            await asyncio.wait_for(self._open(self._hub), OPEN_TIMEOUT)
        for channel, position in self.protocol.wanted():
            try:
                entries = await self._hub.read(self._feeds[channel], position)
            except EventDoesNotExist as error:
                self.protocol.receive_missing(channel, error.current_id)
            else:
                self.protocol.receive_page(channel, entries)
            self.wake()

    async def _open(self, hub: Hub) -> None:
        """Learn where the channels stand on which the client has no place in the feed."""
        positions = self._request.channel_last_ids
        unknown = [
            channel
            for channel, reliable in self.protocol.channels.items()
            if reliable
            and not (channel in positions and self._feeds[channel].holds(positions[channel]))
        ]
        current_ids = await hub.current_ids(unknown) if unknown else {}
        self.protocol.receive_start(self._feeds, current_ids)


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
        part = asyncio.run_coroutine_threadsafe(self._stream.__anext__(), _get_background_loop())
        try:
            return part.result()
        except StopAsyncIteration:
            raise StopIteration from None

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


def retry_delay() -> int:
    """Return milliseconds after which a client is to come back, spread against storms."""
    return int(settings.retry_delay * random.uniform(500, 1500))
