"""A channel's recent events in one process: one copy, many cursors.

A feed is a ring of entries. An entry's *place* counts up without holes as entries are added,
so that a cursor is one integer: what a stream has yet to write is a slice, and a cursor that
the ring has overtaken shows it by a place before ``start``.

Events with an id are taken in id order only, whatever order the hints come in: what comes
early waits ``ahead``, what comes twice is dropped, and what does not come is read from the
log. So the events in the ring are a part of the log without holes, from ``base`` to ``tail``.
Events without an id (unreliable channels) are taken as they come, and a gap, after which some
may be missing, is an entry of its own.

A feed is *cold* (``base`` is None) until it has been told how far the log reaches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .event import Event
from .lasteventid import format_channel
from .sse import encode_data, encode_id, encode_type


class Entry:
    """An event in a feed, encoded once for all streams, when the first one writes it."""

    __slots__ = ("_bare", "_head", "_solo", "_tail", "event", "id", "size", "skip_user_ids")

    def __init__(self, event: Event | None) -> None:
        #: None marks a gap.
        self.event = event
        self.id = event.id if event else None
        self.skip_user_ids = event.skip_user_ids if event else frozenset()
        #: How many characters of data it has.
        self.size = len(event.data) if event else 0
        self._head: bytes | None = None
        self._tail = b""
        self._bare: bytes | None = None
        self._solo: bytes | None = None

    def _encode(self) -> bytes:
        assert self.event is not None
        self._tail = encode_data(self.event.data)
        self._head = encode_type(self.event.type)
        return self._head

    @property
    def bare(self) -> bytes:
        """The event without an ``id`` line."""
        if self._bare is None:
            head = self._head or self._encode()
            self._bare = head + self._tail
        return self._bare

    @property
    def solo(self) -> bytes:
        """The event as every stream that reads only its channel writes it."""
        if self._solo is None:
            assert self.event is not None
            self._solo = b"".join(
                self.parts(encode_id(format_channel(self.event.channel) + str(self.id)))
            )
        return self._solo

    def parts(self, id_line: bytes) -> tuple[bytes, bytes, bytes]:
        """The event with the ``id`` line of one stream, in parts that are shared by all."""
        return (self._head or self._encode(), id_line, self._tail)


class Run:
    """Entries in a row, as every stream that reads only their channel writes them."""

    __slots__ = ("data", "end", "last_id", "place", "position", "skip_user_ids")

    def __init__(self, place: int, entries: Sequence[Entry]) -> None:
        #: The place of the first one, and the one behind the last.
        self.place = place
        self.end = place + len(entries)
        first_id = entries[0].id
        #: The id before them and that of the last one; None, both, where they have no ids.
        self.position = None if first_id is None else first_id - 1
        self.last_id = entries[-1].id
        #: Ids of the users who must not get one or another of them.
        self.skip_user_ids = frozenset().union(*(entry.skip_user_ids for entry in entries))
        parts = [entry.bare if first_id is None else entry.solo for entry in entries]
        self.data = parts[0] if len(parts) == 1 else b"".join(parts)


class _NoRun(Run):
    """Nothing that could be written."""

    __slots__ = ()

    def __init__(self) -> None:
        # Beyond all places. (-1 is one, where entries were put back in front.)
        self.place = self.end = 1 << 62


#: Its place is nobody's.
NO_RUN: Run = _NoRun()


class Feed:
    """The ring of one channel.

    ``capacity`` and ``max_bytes`` bound what it holds: when it grows beyond either it is cut
    to half of that, the oldest first; but the latest entry stays, whatever its size. They bound
    what waits ``ahead`` too.
    """

    def __init__(self, channel: str, *, capacity: int = 10_000, max_bytes: int = 1 << 24) -> None:
        self.channel = channel
        #: The channel and a colon, as in the Last-Event-ID.
        self.name = format_channel(channel)
        self.capacity = capacity
        self.max_bytes = max_bytes
        self.entries: list[Entry] = []
        #: The place of ``entries[0]``.
        self.start = 0
        #: The place that the next entry gets.
        self.end = 0
        #: The id before the first one in the ring; None while the feed is cold.
        self.base: int | None = None
        #: The id of the last event in the ring, or ``base`` when there is none.
        self.tail = 0
        #: The highest id that the log is known to have; more than ``tail``: some are missing.
        self.known = 0
        #: Events that came before their turn, by id.
        self.ahead: dict[int, Event] = {}
        #: How many characters of data the entries hold.
        self.size = 0
        # The same of those that are ahead.
        self._ahead_size = 0
        #: The run that was asked for last.
        self.run = NO_RUN

    # What is known of the log

    @property
    def is_cold(self) -> bool:
        """Whether the feed does not know yet where the log stands."""
        return self.base is None

    @property
    def is_behind(self) -> bool:
        """Whether the log has events that the feed should have and has not."""
        return self.base is not None and self.known > self.tail

    def holds(self, position: int) -> bool:
        """Whether all that follows ``position`` is in the ring, as far as the feed knows."""
        return self.base is not None and self.base <= position <= self.tail

    def receive_current(self, current_id: int, tail_before: int = 0) -> None:
        """Take the id of the channel's latest event, as read from the log.

        A cold feed starts there. ``tail_before`` is the ``tail`` from before the reading: what
        is less than that tells of a counter that was lost.
        """
        if self.base is None:
            self.base = self.tail = self.known = current_id
        elif current_id < tail_before or current_id > self.tail + self.capacity:
            # In the second case, to be filled with what streams may not even want would only
            # be to overflow: each reads what it wants, and the reading is shared.
            self.restart(current_id)
        elif current_id > self.known:
            self.known = current_id

    def receive_known(self, event_id: int) -> None:
        """Note that the log has an event with this id: a stream has read so far."""
        self.known = max(self.known, event_id)

    def restart(self, current_id: int) -> None:
        """Forget everything and go on from ``current_id``; every cursor is off the ring.

        For when what follows ``tail`` cannot be had, or is too much: streams that are not at
        ``current_id`` consult the log.
        """
        self._drop(len(self.entries))
        # Further than entries can be put back in front, so that no cursor's place is reused.
        self.start = self.end = self.end + 2 * self.capacity + 1
        self.base = self.tail = self.known = current_id
        self.ahead.clear()
        self._ahead_size = 0

    # Events

    def receive_event(self, event: Event) -> bool:
        """Take a hint: an event that was published. Return whether the ring has grown."""
        if event.id is None:
            self._append(event)
            return True
        if self.base is None:
            # An event that was published is in the log, so the log can be followed from here.
            self.base = self.tail = self.known = event.id - 1
        if event.id <= self.tail:
            return False
        if event.id == self.tail + 1:
            self._append(event)
            self._take_ahead()
            return True
        # Bounded: what finds no room is read from the log when its turn comes.
        size = self._ahead_size + len(event.data)
        if (
            event.id not in self.ahead
            and len(self.ahead) < self.capacity
            and size <= self.max_bytes
        ):
            self.ahead[event.id] = event
            self._ahead_size = size
        self.known = max(self.known, event.id)
        return False

    def receive_page(self, events: Iterable[Event]) -> bool:
        """Take a page of the log that follows ``tail``. Return whether the ring has grown."""
        end = self.end
        for event in events:
            self.receive_event(event)
        return self.end > end

    def forget_missing(self) -> None:
        """Stop waiting for events that the log, asked for them, turned out not to have.

        Its counter may have been lost, so streams that are further must consult it.
        """
        self.restart(self.tail)

    def receive_gap(self) -> None:
        """Note that events without an id may be missing here."""
        self._append(None)

    def prepend(self, entries: Sequence[Entry]) -> bool:
        """Put a page of the log that ends at ``base`` in front, if there is room for it.

        So the next stream that comes from as far back is served from the ring.
        """
        if self.base is None or not entries or entries[-1].id != self.base:
            return False
        size = sum(entry.size for entry in entries)
        if len(self.entries) + len(entries) > self.capacity or self.size + size > self.max_bytes:
            return False
        self.entries[:0] = entries
        self.start -= len(entries)
        self.size += size
        assert entries[0].id is not None
        self.base = entries[0].id - 1
        return True

    def trim(self, keep: int) -> None:
        """Drop all but the latest ``keep`` entries."""
        self._drop(max(0, len(self.entries) - keep))

    # Places

    def seek(self, position: int, loose_from: int) -> int | None:
        """Return the place of what follows the event with id ``position``.

        Entries without an id follow it from the place ``loose_from`` on. None if the ring
        lacks what follows. Beyond ``tail`` that is the end, if the log is known to reach so
        far; if it is not, the log must be asked: after the loss of its counter, new events
        have ids that the stream takes for old ones.
        """
        if self.base is None or not self.base <= position <= self.known:
            return None
        # An entry is at or behind the index that its id alone would give it: those without an
        # id take places too.
        first = max(0, min(position - self.base, loose_from - self.start))
        for index in range(first, len(self.entries)):
            entry = self.entries[index]
            place = self.start + index
            if place >= loose_from if entry.id is None else entry.id > position:
                return place
        return self.end

    def join_run(self, place: int | None, max_entries: int, max_size: int) -> Run:
        """Return what follows a place in the ring, if it is the same for every stream there.

        At most so many entries, of which only the last one goes beyond ``max_size``. NO_RUN where
        gaps are, or entries with an id and others; and off the ring. Most streams are at the same
        place, so what they write is joined once, and kept in ``run``.
        """
        first = -1 if place is None else place - self.start
        if place is None or not 0 <= first < len(self.entries):
            return NO_RUN
        entries: list[Entry] = []
        size = 0
        for entry in self.entries[first : first + max_entries]:
            if size > max_size:
                break
            if entry.event is None or (entries and type(entry.id) is not type(entries[0].id)):
                return NO_RUN
            size += entry.size
            entries.append(entry)
        self.run = Run(place, entries)
        return self.run

    # Inside

    def _append(self, event: Event | None) -> None:
        self.run = NO_RUN
        entry = Entry(event)
        self.entries.append(entry)
        self.end += 1
        if entry.id is not None:
            self.tail = entry.id
            self.known = max(self.known, entry.id)
        self.size += entry.size
        if len(self.entries) > self.capacity:
            self._drop((len(self.entries) + 1) // 2)
        if self.size > self.max_bytes:
            self._shrink()

    def _shrink(self) -> None:
        """Drop entries until half of ``max_bytes`` is left, or the latest entry alone."""
        count, size = 0, self.size
        while size > self.max_bytes // 2 and count < len(self.entries) - 1:
            size -= self.entries[count].size
            count += 1
        self._drop(count)

    def _take_ahead(self) -> None:
        while self.ahead and (event := self.ahead.pop(self.tail + 1, None)) is not None:
            self._ahead_size -= len(event.data)
            self._append(event)

    def _drop(self, count: int) -> None:
        self.run = NO_RUN
        for entry in self.entries[:count]:
            if entry.id is not None:
                self.base = entry.id
            self.size -= entry.size
        del self.entries[:count]
        self.start += count
