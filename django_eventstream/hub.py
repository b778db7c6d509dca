"""This process's feeds and streams.

A hub belongs to an event loop, and exists while streams are open there. Senders hand it
messages from any thread; all else happens on its loop. It keeps the feeds equal to the log,
reads the log for streams that are behind (once for all that want the same), wakes streams, and
is the clock that tells them when they have been idle.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from functools import partial
from operator import methodcaller
from typing import Any, Protocol

from . import brokers, threads
from .conf import settings
from .event import Event
from .exceptions import (
    EventDoesNotExist,
    EventPermissionError,
    StorageUnavailable,
    describe,
)
from .feed import Entry, Feed
from .listening import Listening
from .messages import Gap, Message, Published, Revoked, Stored
from .protocol import StreamProtocol
from .storage import get_storage
from .storage.base import StorageBase, read_page

logger = logging.getLogger("django_eventstream")

#: How many messages a loop takes in one pass; then the streams write before it takes more.
BATCH = 256
#: How many messages may wait for a loop, and for how many seconds a sender then waits.
INBOX_SIZE = 10_000
INBOX_PATIENCE = 1.0
#: For how many seconds a hole in a feed may close by itself, before the log is read: most are
#: two senders whose messages overtake each other.
HOLE_PATIENCE = 0.02
#: Every how many seconds, at most, the log is asked for the present when streams open.
QUESTION_INTERVAL = 0.025
#: Over how many seconds the permission checks after a gap are spread.
RECHECK_SPREAD = 10.0
#: Every how many seconds feeds drop what no stream needs, and the log is trimmed.
TRIM_FEEDS_INTERVAL = 5.0
TRIM_LOG_INTERVAL = 60.0
#: The longest pause between polls while the log cannot be read.
MAX_BACK_OFF = 5.0


class Stream(Protocol):
    """What a hub knows of a stream."""

    protocol: StreamProtocol

    def wake(self) -> None:
        """Look at the feeds and the state again."""

    def tick(self, now: float, keep_alive_interval: float, send_timeout: float) -> None:
        """Note the time of the loop's clock; both settings are in seconds."""

    def recheck(self) -> None:
        """Check the user's permission again."""

    def end(self) -> None:
        """End, and have the client come back."""

    def cut(self, *, is_last: bool = False) -> None:
        """End without having written everything, for the client does not read it.

        ``is_last``: the process ends.
        """


class Hub:
    """The feeds and streams of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, storage: StorageBase | None) -> None:
        self._loop = loop
        self._storage = storage
        #: By channel, those of the channels that streams read.
        self.feeds: dict[str, Feed] = {}
        self._streams: dict[Feed, set[Stream]] = {}
        # Those whose permission is going to be checked again.
        self._suspects: set[Stream] = set()
        self._members: set[Stream] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        # Messages on their way to the loop.
        self._inbox: deque[Message] = deque()
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._scheduled = False
        # Reads of the log that streams wait for.
        self._question: tuple[set[str], asyncio.Future[dict[str, int]]] | None = None
        self._asking = asyncio.Lock()
        self._asked_at = float("-inf")
        self._reads: dict[Feed, dict[int, asyncio.Future[list[Entry]]]] = {}
        self._filling: set[Feed] = set()
        # Half of the threads, for the project's checks of permissions, which may be slow: the log
        # is read on the rest.
        self._checking = asyncio.Semaphore(max(1, settings.database_threads // 2))
        #: What is heard from other processes.
        self.listening = Listening(loop, self.receive_message, _note_revoked, self._start)

    # From any thread

    def receive_message(self, message: Message) -> None:
        """Hand a message over to the loop."""
        self.receive_messages([message])

    def receive_messages(self, messages: Sequence[Message]) -> None:
        """Hand messages over to the loop, which is woken once.

        When the loop does not keep up, a sender waits a moment, unless that would hold up an event
        loop; what then finds no room becomes a gap.
        """
        may_wait = not threads.is_on_event_loop()
        with self._lock:
            for message in messages:
                if len(self._inbox) >= INBOX_SIZE and may_wait:
                    self._schedule()
                    may_wait = self._room.wait_for(
                        lambda: len(self._inbox) < INBOX_SIZE, INBOX_PATIENCE
                    )
                if len(self._inbox) < INBOX_SIZE or isinstance(message, Revoked):
                    self._inbox.append(message)
                elif self._inbox[-1] != Gap():
                    self._inbox.append(Gap())
            self._schedule()

    def _schedule(self) -> None:
        if self._scheduled:
            return
        self._scheduled = True
        try:
            self._loop.call_soon_threadsafe(self._take_messages)
        except RuntimeError:  # the loop is closed, and its streams with it
            _forget(self._loop)

    def call(self, action: Callable[[Stream], None]) -> None:
        """Have something done to each stream."""
        try:
            self._loop.call_soon_threadsafe(self._call, action)
        except RuntimeError:  # the loop is closed, and its streams with it
            _forget(self._loop)

    @property
    def count(self) -> int:
        """How many streams there are."""
        return len(self._members)

    @property
    def is_running(self) -> bool:
        """Whether streams can write."""
        return self._loop.is_running()

    # Streams

    def join(self, stream: Stream) -> None:
        """Give a stream its places, and its channels feeds."""
        for channel in stream.protocol.channels:
            feed = self.feeds.get(channel)
            if feed is None:
                feed = Feed(channel, capacity=settings.burst_size)
                self.feeds[channel] = feed
                self._streams[feed] = set()
                self.listening.join(channel)
            self._streams[feed].add(stream)
        self._members.add(stream)
        if len(self._members) == 1:
            self._start(self._keep_time())
            self.listening.begin(brokers.get_brokers())
            if self._storage is not None:
                self._start(self._poll(self._storage))

    def leave(self, stream: Stream) -> None:
        """Take a stream's places back; the last one to leave ends the hub."""
        for channel in stream.protocol.channels:
            feed = self.feeds[channel]
            self._streams[feed].discard(stream)
            if not self._streams[feed]:
                del self._streams[feed]
                del self.feeds[channel]
                self.listening.leave(channel)
        self._members.discard(stream)
        if not self._members:
            for task in self._tasks:
                task.cancel()
            _forget(self._loop)

    # The log

    def ask_current_ids(self, channels: Iterable[str]) -> asyncio.Future[dict[str, int]]:
        """Return a future of the latest ids, read after the call; the feeds are told too.

        It is shared, and not to be cancelled: calls that come while a read is under way share
        the next one. Its exception is StorageUnavailable.
        """
        if self._question is None:
            self._question = (set(), self._loop.create_future())
            self._start(self._answer())
        names, answer = self._question
        names.update(channels)
        return answer

    async def read(self, feed: Feed, position: int) -> list[Entry]:
        """Return entries that follow a position which the feed does not hold.

        [] when there are none, or the feed holds the position by now. Raises
        EventDoesNotExist and StorageUnavailable; cancelled at the hub's end.
        """
        if feed.holds(position):
            return []
        waiting = self._reads.get(feed)
        if waiting is None:
            waiting = self._reads[feed] = {}
            self._start(self._read(feed, waiting))
        answer = waiting.get(position)
        if answer is None:
            answer = waiting[position] = self._loop.create_future()
        return await asyncio.shield(answer)

    async def check(self, function: Callable[[], object]) -> None:
        """Run a check of permissions, on half of the threads at most.

        Also if it is not waited for any more: its thread is free when it is done.
        """
        await self._checking.acquire()
        checking = asyncio.ensure_future(threads.run(function))
        checking.add_done_callback(self._note_checked)
        await asyncio.shield(checking)

    # Inside: messages

    def _note_checked(self, checking: asyncio.Future[object]) -> None:
        self._checking.release()
        if not checking.cancelled():
            checking.exception()  # retrieved, even if the stream has gone

    def _take_messages(self) -> None:
        with self._lock:
            count = min(BATCH, len(self._inbox))
            messages = [self._inbox.popleft() for _ in range(count)]
            more = self._scheduled = bool(self._inbox)
            self._room.notify_all()
        try:
            self._place_messages(messages)
        finally:
            if more:
                # Behind the streams just woken: they write before there is more.
                self._loop.call_soon(self._take_messages)

    def _place_messages(self, messages: Iterable[Message]) -> None:
        grown: dict[Feed, None] = {}  # in the order in which they have
        for message in messages:
            if isinstance(message, (Published, Stored)):
                feed = self.feeds.get(message.channel)
                if feed is not None:
                    if isinstance(message, Stored):
                        feed.receive_known(message.id)
                    elif feed.receive_event(message.event):
                        grown[feed] = None
                    if feed.is_behind:
                        self._fill(feed)
            elif isinstance(message, Revoked):
                self._revoke(message)
            else:
                grown |= dict.fromkeys(self._note_gap(message.channel))
        for feed in grown:  # at the end, for what is pending then is written in one piece
            self._wake(feed)

    def _wake(self, feed: Feed) -> None:
        for stream in self._streams.get(feed, ()):
            stream.wake()

    def _revoke(self, revoked: Revoked) -> None:
        feed = self.feeds.get(revoked.channel)
        for stream in self._streams.get(feed, ()) if feed else ():
            if stream.protocol.user_id == revoked.user_id:
                error = EventPermissionError.for_channels([revoked.channel])
                stream.protocol.receive_error(error)
                stream.wake()

    def _note_gap(self, channel: str | None) -> list[Feed]:
        """Put a gap into the feed of one channel, or of all (None); return those."""
        found = self.feeds.values() if channel is None else [self.feeds.get(channel)]
        feeds = [feed for feed in found if feed is not None]
        streams: set[Stream] = set()
        for feed in feeds:
            feed.receive_gap()
            streams |= self._streams[feed]
        for stream in streams - self._suspects:  # however many gaps there are meanwhile
            self._suspects.add(stream)
            self._loop.call_later(random.uniform(0, RECHECK_SPREAD), self._recheck, stream)
        if self._storage is not None and streams:
            self._start(self._refresh())
        return feeds

    def _recheck(self, stream: Stream) -> None:
        self._suspects.discard(stream)
        stream.recheck()

    # Inside: the log

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        # In an empty context: that of the request that happens to come first would keep its
        # thread and its user.
        task = threads.begin(self._loop, contextvars.Context(), coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self) -> None:
        async with self._asking:
            # So that many share a read, and it is not half of what opening them takes.
            await asyncio.sleep(self._asked_at + QUESTION_INTERVAL - self._loop.time())
            self._asked_at = self._loop.time()
            assert self._question is not None and self._storage is not None
            (names, answer), self._question = self._question, None
            try:
                answer.set_result(await self._read_current(self._storage.get_current_ids, names))
            except Exception as error:
                answer.set_exception(_unavailable(error))
                answer.exception()  # retrieved, even if every stream has gone
            finally:
                answer.cancel()

    async def _read_current(
        self, read: Callable[[list[str]], dict[str, int]], names: Collection[str]
    ) -> dict[str, int]:
        tails = {channel: feed.tail for channel, feed in self.feeds.items() if not feed.is_cold}
        current_ids = await threads.run(read, list(names))
        for channel, current_id in current_ids.items():
            feed = self.feeds.get(channel)
            if feed is not None:
                self._note_current(feed, current_id, tails.get(channel, 0))
        return current_ids

    def _note_current(self, feed: Feed, current_id: int, tail_before: int) -> None:
        start = feed.start
        feed.receive_current(current_id, tail_before)
        if feed.start != start:
            self._wake(feed)
        if feed.is_behind:
            self._fill(feed)

    async def _read(self, feed: Feed, waiting: dict[int, asyncio.Future[list[Entry]]]) -> None:
        """Read the log for the streams that wait, the one furthest behind first."""
        assert self._storage is not None
        try:
            while waiting:
                position = min(waiting)
                tail, known = feed.tail, feed.known
                try:
                    events = await threads.run(
                        read_page, self._storage, feed.channel, position, settings.page_size
                    )
                    if not events:  # the log ends here
                        self._note_current(feed, position, tail)
                    entries = self._place(feed, events)
                except EventDoesNotExist as error:
                    self._note_current(feed, error.current_id, tail)
                    # What is further back than something gone is gone as well.
                    gone = [other for other in waiting if other <= position]
                    _fail(waiting, gone, _brought_up_to_date(error, feed, known))
                except Exception as error:  # of whatever type the project's storage has
                    _fail(waiting, [*waiting], _unavailable(error))
                else:
                    last = position + len(entries)
                    for other in list(waiting):
                        if position <= other < last or other == position:
                            waiting.pop(other).set_result(entries[other - position :])
        finally:
            if self._reads.get(feed) is waiting:
                del self._reads[feed]
            for answer in waiting.values():
                answer.cancel()

    def _place(self, feed: Feed, events: list[Event]) -> list[Entry]:
        """Return a page as entries, and let the feed have what joins on to it."""
        entries = [Entry(event) for event in events]
        if feed.base is not None and events:
            first, last = events[0].id, events[-1].id
            assert first is not None and last is not None
            if first <= feed.base <= last:
                feed.prepend(entries[: feed.base - first + 1])
            if first <= feed.tail + 1 and feed.receive_page(events):
                self._wake(feed)
        return entries

    def _fill(self, feed: Feed) -> None:
        if self._storage is not None and feed not in self._filling:
            self._filling.add(feed)
            self._start(self._fill_from_log(feed, self._storage))

    async def _fill_from_log(self, feed: Feed, storage: StorageBase) -> None:
        """Read from the log what a feed is missing."""
        try:
            await asyncio.sleep(HOLE_PATIENCE)
            while feed.is_behind and feed in self._streams:
                known = feed.known
                try:
                    events = await threads.run(
                        read_page, storage, feed.channel, feed.tail, settings.page_size
                    )
                except EventDoesNotExist as error:
                    feed.restart(_brought_up_to_date(error, feed, known).current_id)
                    self._wake(feed)
                    return
                if feed.receive_page(events):
                    self._wake(feed)
                elif not events and feed.known == known:
                    feed.forget_missing()
                    self._wake(feed)
        except Exception as error:
            # The next poll finds the feed behind again.
            logger.warning(
                "Channel %r: cannot read the event log: %s", feed.channel, describe(error)
            )
        finally:
            self._filling.discard(feed)

    async def _refresh(self) -> None:
        try:
            await asyncio.shield(self.ask_current_ids(self._feeds_to_poll()))
        except StorageUnavailable:
            pass  # the poll tells

    def _feeds_to_poll(self) -> list[str]:
        return [channel for channel, feed in self.feeds.items() if not feed.is_cold]

    async def _poll(self, storage: StorageBase) -> None:
        """Keep the feeds equal to the log, whatever messages were lost."""
        failures = 0
        while True:
            interval = settings.poll_interval
            delay = max(interval, min(interval * 2**failures, MAX_BACK_OFF))
            await asyncio.sleep(delay * random.uniform(0.9, 1.1))
            try:
                await self._read_current(partial(_poll, storage), self._feeds_to_poll())
                trim_log_now_and_then()
            except Exception as error:  # whatever it is, the poll must go on
                if not failures:
                    logger.warning("Cannot read the event log, trying again: %s", describe(error))
                failures = min(failures + 1, 10)
            else:
                if failures:
                    logger.warning("The event log can be read again.")
                failures = 0

    def _call(self, action: Callable[[Stream], None]) -> None:
        for stream in [*self._members]:
            try:
                action(stream)
            except Exception:  # which must not keep the others from theirs
                logger.exception("A stream failed")

    # Inside: time

    async def _keep_time(self) -> None:
        trimmed = self._loop.time()
        while True:
            # Looked up once: for each stream it took more than the keep-alive itself.
            interval, timeout = settings.keep_alive_interval, settings.send_timeout
            await asyncio.sleep(min(max(interval / 20, 0.02), 1.0))
            now = self._loop.time()
            self._call(methodcaller("tick", now, interval, timeout))
            if now - trimmed > TRIM_FEEDS_INTERVAL:
                trimmed = now
                self._trim_feeds(self._members)

    def _trim_feeds(self, streams: Iterable[Stream]) -> None:
        """Drop entries that no stream waits for, but the latest of reliable channels.

        Those are for streams that reconnect.
        """
        needed: dict[Feed, int] = {}
        for stream in streams:
            for cursor in stream.protocol.cursors:
                feed = cursor.feed
                place = feed.end if cursor.place is None else max(cursor.place, feed.start)
                needed[feed] = min(needed.get(feed, place), place)
        for feed, place in needed.items():
            keep = 0 if feed.is_cold else settings.buffer_size
            feed.trim(max(keep, feed.end - place))


# The process


class Receiver(Protocol):
    """What takes the messages of this process: hubs, and tests that look on."""

    def receive_messages(self, messages: Sequence[Message]) -> None:
        """Take messages, on the sender's thread."""


_hubs: dict[asyncio.AbstractEventLoop, Hub] = {}
#: Receivers besides the hubs.
onlookers: list[Receiver] = []
_hubs_lock = threading.Lock()
# Notified when a hub has lost its last stream.
_hub_ended = threading.Condition(_hubs_lock)
# Whether this process ever had streams, and whether it was told that its events reach nobody.
_had_receivers = False
_has_told = False
# For streams that are opened while their user is losing the permission: checked before, and
# not yet here when the message came.
_revocations: deque[tuple[float, Revoked]] = deque(maxlen=10_000)
_trimmed_at = time.monotonic()
_trimming = threading.Lock()


def get_hub() -> Hub:
    """Return the running event loop's hub."""
    global _had_receivers
    loop = asyncio.get_running_loop()
    with _hubs_lock:
        hub = _hubs.get(loop)
        if hub is None:
            hub = _hubs[loop] = Hub(loop, get_storage())
            _had_receivers = True
        return hub


def count_streams() -> int:
    """Return how many streams are open in this process, of those that can write."""
    return sum(hub.count for hub in list(_hubs.values()) if hub.is_running)


def end_streams(timeout: float) -> bool:
    """End the streams of this process; wait ``timeout`` seconds, then cut off those left.

    Called on a thread without an event loop. Returns whether none was left.
    """
    for hub in list(_hubs.values()):
        hub.call(methodcaller("end"))
    with _hub_ended:
        if _hub_ended.wait_for(lambda: not count_streams(), timeout):
            return True
    for hub in list(_hubs.values()):
        hub.call(methodcaller("cut", is_last=True))
    return False


def deliver(*messages: Message) -> None:
    """Hand messages to every stream of this process that they concern, from any thread."""
    for message in messages:
        if isinstance(message, Revoked):
            _note_revoked(message)
    with _hubs_lock:
        receivers: list[Receiver] = [*_hubs.values(), *onlookers]
    for receiver in receivers:
        receiver.receive_messages(messages)


def publish(*messages: Message, wait: bool = False) -> None:
    """Hand messages to every stream that they concern, wherever it is, from any thread.

    ``wait``: until brokers that talk to a proxy have been answered.
    """
    global _has_told
    deliver(*messages)
    reaches = brokers.publish(*messages, wait=wait)
    if reaches or _has_told or _had_receivers or onlookers:
        return
    for message in messages:
        if not isinstance(message, Published) or message.event.id is None:
            break
    else:
        return  # the poll of processes with streams finds them
    _has_told = True
    logger.warning(
        "Channel %r: there are no streams in this process, and no broker carries anything to "
        "other processes. If streams are there, set EVENTSTREAM_BROKER; see docs/brokers.md.",
        message.channel,
    )


def _poll(storage: StorageBase, names: list[str]) -> dict[str, int]:
    """Poll the log, and publish what had been left pending."""
    current_ids, numbered = storage.poll(names)
    if numbered:
        publish(*map(Published, numbered))
    return current_ids


def _note_revoked(revoked: Revoked) -> None:
    _revocations.append((time.monotonic(), revoked))


def was_revoked(user_id: str | None, channels: Collection[str], since: float) -> bool:
    """Return whether the user may have lost a channel since a time of ``time.monotonic``."""
    # Noted by several threads, so only nearly in order; and a stream that opens hours after the
    # last one is not to go through thousands.
    if not _revocations or _revocations[-1][0] < since - 1:
        return False
    revocations = list(_revocations)
    if len(revocations) == _revocations.maxlen and revocations[0][0] >= since:
        return True
    return any(
        at >= since and revoked.user_id == user_id and revoked.channel in channels
        for at, revoked in revocations
    )


def trim_log_now_and_then() -> None:
    """Trim the log in the background, at most once a minute per process."""
    global _trimmed_at
    now = time.monotonic()
    if now - _trimmed_at < TRIM_LOG_INTERVAL:
        return
    _trimmed_at = now
    storage = get_storage()
    if storage is not None:
        threads.run_in_background(partial(_trim_log, storage))


def _trim_log(storage: StorageBase) -> None:
    if not _trimming.acquire(blocking=False):
        return  # the last trimming is not done yet
    try:
        storage.trim()
    except Exception:
        logger.exception("Cannot trim the event log, which grows until it can be")
    finally:
        _trimming.release()


def _forget(loop: asyncio.AbstractEventLoop) -> None:
    with _hub_ended:
        _hubs.pop(loop, None)
        _hub_ended.notify_all()


def _renew() -> None:
    global _hubs_lock, _hub_ended, _trimming
    _hubs_lock = threading.Lock()
    _hub_ended = threading.Condition(_hubs_lock)
    _trimming = threading.Lock()
    _hubs.clear()


# A forked child has none of its parent's loops, and would wake them through shared sockets.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


def _fail(
    waiting: dict[int, asyncio.Future[Any]], positions: Iterable[int], error: Exception
) -> None:
    for position in positions:
        answer = waiting.pop(position)
        answer.set_exception(error)
        answer.exception()  # retrieved, even if every stream has gone


def _brought_up_to_date(error: EventDoesNotExist, feed: Feed, known: int) -> EventDoesNotExist:
    """Return the log's word with what was heard of its present while it was read.

    ``known`` is that of the feed from before. A stream that waits for the answer may have come
    meanwhile, and the present is not to be one from before it came.
    """
    if feed.known <= max(known, error.current_id):
        return error
    return EventDoesNotExist(str(error), feed.known)


def _unavailable(error: Exception) -> StorageUnavailable:
    unavailable = StorageUnavailable(f"The event log cannot be read: {describe(error)}")
    unavailable.__cause__ = error
    return unavailable
