"""The state machine of one stream: what bytes it gets, and when it needs the log.

It does no I/O. A driver tells it what happened by ``receive_*`` methods, writes what
``data_to_send()`` returns, and while the state is READING reads the log for what ``wanted()``
lists. Feeds are the exception to "tells": they are plain objects too, shared by all streams of
a channel, and the machine takes from them what lies behind its cursors.

======================================  ==========================  ============================
input                                   READING                     LIVE
======================================  ==========================  ============================
``receive_page``: the log, from where   events written; all         —
a cursor stands                         cursors in their feeds →
                                        LIVE
``receive_missing``: the log does not   stream-reset; go on from    —
hold what follows a position            the present
event in the feed, id = position + 1,   waits in the feed           written
or no id
id ≤ position                           dropped                     dropped
id > position + 1, or the cursor is     waits                       reliable → READING, unless
overtaken by the feed                                               the feed has its position;
                                                                    unreliable → stream-reset
a gap in the feed                       waits                       reliable: passed over;
                                                                    unreliable → stream-reset
user in ``skip_user_ids``               the position moves          the position moves
``receive_idle``                        keep-alive, if nothing      the same
                                        waits to be written
``receive_error``                       stream-error → CLOSED       stream-error → CLOSED
``receive_end``                         retry → CLOSED              retry → CLOSED
======================================  ==========================  ============================

In OPENING, the state before ``receive_start``, the stream has no feeds yet and nothing is
written but an error or an end. In CLOSED every input is ignored.

The seam: a driver joins the feeds first and reads the log afterwards, so what is sent in
between is in the feed; what is then in both is dropped by its id.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping

from .exceptions import StreamError
from .feed import Entry, Feed
from .sse import (
    KEEP_ALIVE,
    encode_error,
    encode_id,
    encode_open,
    encode_reset,
    encode_retry,
)

#: What is written at a time, so that a client far behind gets it in digestible parts.
MAX_ENTRIES = 512
MAX_BYTES = 1 << 18


class State(enum.Enum):
    """The states of a stream."""

    OPENING = "opening"
    READING = "reading"
    LIVE = "live"
    CLOSED = "closed"


#: In the hot path; a class's attribute is found by a function call in some Pythons.
LIVE = State.LIVE
CLOSED = State.CLOSED


class Cursor:
    """Where a stream stands on one channel."""

    __slots__ = ("channel", "feed", "loose_from", "place", "position")

    def __init__(self, channel: str, feed: Feed, position: int | None) -> None:
        self.channel = channel
        self.feed = feed
        #: The id of the last event that the client has; None on an unreliable channel.
        self.position = position
        #: Entries without an id before this place are older than the stream, or written.
        self.loose_from = feed.end
        #: The place of the next entry in the feed; None while the log must be read first.
        self.place: int | None = feed.end
        if position is not None:
            self.place = feed.seek(position, self.loose_from)


class StreamProtocol:
    """One stream.

    ``channels`` tells for each channel, in the order of the Last-Event-ID, whether it is
    reliable. ``last_event_id`` holds the client's positions, ``user_id`` the user's id as text
    (None: anonymous), ``padding`` the size in bytes of the comment that opens the stream.
    ``resumed``: the client has read ``stream-open`` before, and is not to see it again.
    """

    __slots__ = (
        "_only_cursor",
        "_out",
        "_unsaid",
        "channels",
        "cursors",
        "last_event_id",
        "padding",
        "resumed",
        "state",
        "user_id",
    )

    def __init__(
        self,
        channels: Mapping[str, bool],
        *,
        last_event_id: Mapping[str, int] | None = None,
        user_id: str | None = None,
        padding: int = 2048,
        resumed: bool = False,
    ) -> None:
        self.channels = channels
        self.last_event_id = {} if last_event_id is None else last_event_id
        self.user_id = user_id
        self.padding = padding
        self.resumed = resumed
        self.state = State.OPENING
        #: Where the stream stands on each channel, from ``receive_start`` on.
        self.cursors: tuple[Cursor, ...] = ()
        # The cursor of a stream that reads one channel.
        self._only_cursor: Cursor | None = None
        self._out: list[bytes] = []
        # Whether the client's positions moved without an id line that says so.
        self._unsaid = False

    # Inputs

    def receive_start(self, feeds: Mapping[str, Feed], current_ids: Mapping[str, int]) -> None:
        """Open the stream.

        ``feeds`` has every channel's feed, joined before the log was asked for
        ``current_ids``: the latest id of each reliable channel for which the client gave no
        position, or one that its feed does not hold.
        """
        if self.state is not State.OPENING:
            return
        cursors = []
        future = []
        for channel, reliable in self.channels.items():
            position = None
            if reliable:
                position = self.last_event_id.get(channel)
                if position is None:
                    position = current_ids[channel]
            cursor = Cursor(channel, feeds[channel], position)
            cursors.append(cursor)
            if position is not None and position > current_ids.get(channel, position):
                future.append(cursor)
        self.cursors = tuple(cursors)
        self._only_cursor = cursors[0] if len(cursors) == 1 else None
        if not self.resumed:
            self._out.append(encode_open(self._event_id(), self.padding))
        self._reset(future, current_ids)
        self._go_on()

    def receive_page(self, channel: str, entries: Iterable[Entry]) -> None:
        """Take entries that follow the position on ``channel``, read from the log."""
        if self.state is not State.READING:
            return
        cursor = self._cursor(channel)
        for entry in entries:
            assert cursor.position is not None and entry.id is not None
            if entry.id == cursor.position + 1:
                self._write(cursor, entry)
        self._say_position()
        self._find_as_read(cursor)
        self._go_on()

    def receive_missing(self, channel: str, current_id: int) -> None:
        """Take the log's word that it does not hold what follows the position."""
        if self.state is not State.READING:
            return
        self._reset([self._cursor(channel)], {channel: current_id})
        self._go_on()

    def receive_idle(self) -> None:
        """Note that nothing was written for the keep-alive interval."""
        # What still waits to be written keeps the stream alive as well.
        if self.state in (State.READING, State.LIVE) and not self._out:
            self._out.append(KEEP_ALIVE)

    def receive_error(self, error: StreamError) -> None:
        """End the stream with a ``stream-error``."""
        if self.state is not State.CLOSED:
            self.state = State.CLOSED
            self._out.append(encode_error(error.members))

    def receive_end(self, retry: int) -> None:
        """End the stream; the client is to come back after ``retry`` milliseconds."""
        if self.state is not State.CLOSED:
            self.state = State.CLOSED
            self._out.append(encode_retry(retry))

    # Outputs

    def wanted(self) -> list[tuple[str, int]]:
        """Return the channels, and the positions on them, that the log must be read for."""
        return [
            (cursor.channel, cursor.position)
            for cursor in self.cursors
            if cursor.place is None and cursor.position is not None
        ]

    def data_to_send(self) -> bytes:
        """Return what is to be written now, b"" when there is nothing (more)."""
        out = self._out
        if self.state is LIVE and not out:
            cursor = self._only_cursor
            if cursor is not None:
                # The hot path, so no calls: what most streams have to do, most of the time.
                place, feed = cursor.place, cursor.feed
                if place == feed.end:
                    return b""
                run = feed.run
                if run.place != place:
                    run = feed.join_run(place, MAX_ENTRIES, MAX_BYTES)
                if (
                    run.place == place
                    and run.position == cursor.position
                    and cursor.loose_from <= run.place
                    and not (run.skip_user_ids and self.user_id in run.skip_user_ids)
                ):
                    cursor.place = cursor.loose_from = run.end
                    cursor.position = run.last_id
                    return run.data
            while not out and self.state is LIVE and self._has_news():
                self._follow()
        if len(out) == 1:
            return out.pop()  # the very bytes that all streams share
        data = b"".join(out)
        out.clear()
        return data

    def is_quiet(self) -> bool:
        """Return whether nothing is to be done until an input comes, or a feed changes."""
        if self.state is not LIVE or self._out:
            return False
        cursor = self._only_cursor
        return not self._has_news() if cursor is None else cursor.place == cursor.feed.end

    # Inside

    def _has_news(self) -> bool:
        for cursor in self.cursors:  # noqa: SIM110 - any() takes twice as long, at each wake
            if cursor.place != cursor.feed.end:
                return True
        return False

    def _follow(self) -> None:
        """Write what the feeds hold behind the cursors."""
        resets = []
        for cursor in self.cursors:
            feed = cursor.feed
            if cursor.place == feed.end:
                continue
            if cursor.place is None or cursor.place < feed.start:
                if cursor.position is None:
                    cursor.place = feed.end
                    resets.append(cursor)
                    continue
                self._find(cursor)
                if cursor.place is None:
                    self.state = State.READING
                    break
            if not self._follow_feed(cursor):
                if cursor.position is None:
                    resets.append(cursor)
                else:
                    self.state = State.READING
                    break
        self._reset(resets, {})
        self._say_position()

    def _follow_feed(self, cursor: Cursor) -> bool:
        """Write the entries behind one cursor; return False where the client misses some."""
        assert cursor.place is not None
        place = cursor.place
        first = place - cursor.feed.start
        size = 0
        missed = False
        for entry in cursor.feed.entries[first : first + MAX_ENTRIES]:
            # Gaps in a row are one reset, and what follows is written after it.
            if size > MAX_BYTES or (missed and entry.event is not None):
                break
            if entry.id is None or cursor.position is None:
                if entry.event is None:
                    missed = cursor.position is None
                elif place >= cursor.loose_from:
                    size += self._write(cursor, entry)
            elif entry.id == cursor.position + 1:
                size += self._write(cursor, entry)
            elif entry.id > cursor.position:
                cursor.place = None
                cursor.loose_from = max(cursor.loose_from, place)
                return False
            place += 1
        cursor.place = place
        cursor.loose_from = max(cursor.loose_from, place)
        return not missed

    def _write(self, cursor: Cursor, entry: Entry) -> int:
        """Write one entry and move the position to it; return the size of its data."""
        moves = cursor.position is not None and entry.id is not None
        if moves:
            cursor.position = entry.id
        if entry.skip_user_ids and self.user_id in entry.skip_user_ids:
            self._unsaid = self._unsaid or moves
            return 0
        if not moves:
            self._out.append(entry.bare)
        elif len(self.cursors) == 1:
            self._out.append(entry.solo)
            self._unsaid = False
        else:
            self._out.extend(entry.parts(encode_id(self._event_id())))
            self._unsaid = False
        return entry.size

    def _reset(self, cursors: list[Cursor], current_ids: Mapping[str, int]) -> None:
        """Tell the client that it missed events; reliable cursors go on from the present."""
        if not cursors:
            return
        for cursor in cursors:
            if cursor.position is not None:
                cursor.position = current_ids[cursor.channel]
                self._find_as_read(cursor)
        self._out.append(encode_reset([cursor.channel for cursor in cursors], self._event_id()))
        self._unsaid = False

    def _find(self, cursor: Cursor) -> None:
        """Look for the cursor's position in its feed."""
        assert cursor.position is not None
        cursor.place = cursor.feed.seek(cursor.position, cursor.loose_from)

    def _find_as_read(self, cursor: Cursor) -> None:
        """Look for a position that the log has just been seen to have."""
        assert cursor.position is not None
        cursor.feed.receive_known(cursor.position)
        self._find(cursor)

    def _go_on(self) -> None:
        """Follow the feeds if every cursor has its place in them, else read on."""
        reading = any(cursor.place is None for cursor in self.cursors)
        self.state = State.READING if reading else State.LIVE

    def _say_position(self) -> None:
        """Let the client know positions that moved past events which it must not get.

        A block with an ``id`` line and no data sets the client's last event ID and dispatches
        nothing (WHATWG HTML, 9.2.6, "dispatch the event").
        """
        if self._unsaid:
            self._out.append(encode_id(self._event_id()) + b"\n")
            self._unsaid = False

    def _event_id(self) -> str:
        return ",".join(
            [
                cursor.feed.name + str(cursor.position)
                for cursor in self.cursors
                if cursor.position is not None
            ]
        )

    def _cursor(self, channel: str) -> Cursor:
        return next(cursor for cursor in self.cursors if cursor.channel == channel)
