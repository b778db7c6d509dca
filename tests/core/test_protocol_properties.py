"""What a client gets, whatever happens in whatever order.

A model of the world around the streams: logs, hints, polls, reads whose answers are late, and
clients that lose their connections. The feeds and protocols are the real ones, used as the hub
and the drivers use them. What clients parse is compared with what was sent.

``EVENTSTREAM_TEST_SIZE`` multiplies how long hypothesis looks.
"""

from __future__ import annotations

import json
import os
import random
from dataclasses import dataclass, field
from itertools import permutations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from django_eventstream import protocol as protocol_module
from django_eventstream.event import Event
from django_eventstream.exceptions import EventDoesNotExist, EventPermissionError
from django_eventstream.feed import Entry, Feed
from django_eventstream.lasteventid import ERROR_ID, parse_last_event_id
from django_eventstream.protocol import State, StreamProtocol
from tests.core.sseparser import ParsedEvent, SSEParser

SIZE = int(os.environ.get("EVENTSTREAM_TEST_SIZE", "1"))

RELIABLE = ("a", "b é,:")
UNRELIABLE = ("u", "v")
USERS = ("1", "2", None)
#: How many rounds without news must be enough for everything to come to rest.
PATIENCE = 500

BOUNDS = (protocol_module.MAX_ENTRIES, protocol_module.MAX_BYTES)

reliable_channels = st.sampled_from(RELIABLE)
unreliable_channels = st.sampled_from(UNRELIABLE)
all_channels = st.sampled_from(RELIABLE + UNRELIABLE)
indexes = st.integers(0, 2)
places = st.integers(0, 9)
ORDERS = list(permutations(RELIABLE + UNRELIABLE))
orders = st.sampled_from(ORDERS)
TURNED = (None, None, None, *RELIABLE)
turned_channels = st.sampled_from(TURNED)
SKIPS = ((), (), (), ("1",), ("1", "2"))
skips = st.sampled_from(SKIPS)


class Log:
    """The stored events of one channel."""

    def __init__(self) -> None:
        self.events: dict[int, Event] = {}
        self.counter = 0
        #: The last id that was trimmed.
        self.trimmed = 0
        #: Every event that ever had an id, lost ones included.
        self.history: dict[int, list[Event]] = {}
        self.was_lost = False

    def append(self, event: Event) -> None:
        assert event.id == self.counter + 1
        self.counter = event.id
        self.events[event.id] = event
        self.history.setdefault(event.id, []).append(event)

    def trim(self, keep: int) -> None:
        self.trimmed = max(self.trimmed, self.counter - keep)
        for event_id in [one for one in self.events if one <= self.trimmed]:
            del self.events[event_id]

    def restore(self, counter: int) -> None:
        """Go back to an earlier state, as from a backup."""
        self.was_lost = True
        self.counter = counter
        self.trimmed = min(self.trimmed, counter)
        for event_id in [one for one in self.events if one > counter]:
            del self.events[event_id]

    def read(self, position: int, limit: int) -> list[Event] | EventDoesNotExist:
        if self.trimmed <= position <= self.counter:
            return [
                self.events[event_id]
                for event_id in range(position + 1, min(position + limit, self.counter) + 1)
            ]
        return EventDoesNotExist("gone", self.counter)


@dataclass
class Read:
    """A read of the log for streams: what it found, and has not told yet."""

    feed: Feed
    position: int
    answer: list[Event] | EventDoesNotExist


@dataclass
class Client:
    """A client, its stream, and what it must get."""

    user_id: str | None
    parser: SSEParser
    channels: dict[str, bool] = field(default_factory=dict)
    protocol: StreamProtocol | None = None
    feeds: dict[str, Feed] = field(default_factory=dict)
    #: The present, as the opening stream was told.
    current_ids: dict[str, int] | None = None
    reads: dict[str, Read] = field(default_factory=dict)
    #: What was written and not received.
    pipe: bytes = b""
    opened: bool = False
    #: The positions of the last id received.
    positions: dict[str, int] = field(default_factory=dict)
    #: Channels whose log went back since the client was last seen to be level with it.
    astray: set[str] = field(default_factory=set)
    #: Per unreliable channel, the place in ``World.given`` of what must come next.
    nexts: dict[str, int] = field(default_factory=dict)
    #: Unreliable channels that were reset, and had no event since.
    lossy: set[str] = field(default_factory=set)
    #: Stored channels that this stream reads as unreliable: the latest event on each.
    latest: dict[str, int] = field(default_factory=dict)


class World(RuleBasedStateMachine):
    """Logs, feeds, and clients of one process."""

    @initialize(
        capacity=st.sampled_from([1, 2, 4, 100]),
        max_bytes=st.sampled_from([50, 300, 1 << 24]),
        page_size=st.sampled_from([1, 3, 100]),
        max_entries=st.sampled_from([1, 3, 512]),
        max_written=st.sampled_from([10, 1 << 18]),
    )
    def begin(self, capacity, max_bytes, page_size, max_entries, max_written):
        self.capacity, self.max_bytes, self.page_size = capacity, max_bytes, page_size
        protocol_module.MAX_ENTRIES = max_entries
        protocol_module.MAX_BYTES = max_written
        self.logs = {channel: Log() for channel in RELIABLE}
        self.feeds: dict[str, Feed] = {}
        self.events: list[Event] = []  # as sent; the data is the index
        self.hints: list[Event] = []
        self.fills: dict[Feed, tuple[int, list[Event] | EventDoesNotExist]] = {}
        self.polls: list[tuple[dict[str, int], dict[str, int] | None]] = []
        self.clients = [Client(user_id, SSEParser(strict=True)) for user_id in USERS]
        #: Per unreliable channel, what its feeds were given; None for a gap.
        self.given: dict[str, list[Event | None]] = {channel: [] for channel in UNRELIABLE}
        self.feed_restarts = 0
        #: Channels whose log went back since its feed was last seen to be equal to it.
        self.astray: set[str] = set()
        for index in range(3):
            self.connect(index, ORDERS[index * 7], 4 - index)
            self.serve(index)

    def teardown(self):
        try:
            if hasattr(self, "clients"):
                self.come_to_rest(deliver=False)
        finally:
            protocol_module.MAX_ENTRIES, protocol_module.MAX_BYTES = BOUNDS

    # Sending

    def make_event(self, channel: str, event_id: int | None, skip: tuple[str, ...]) -> Event:
        data = str(len(self.events)) + " " * (len(self.events) * 7 % 30)
        event = Event(channel, "message", data, event_id, frozenset(skip))
        self.events.append(event)
        return event

    @rule(channel=reliable_channels, skip=skips, count=st.sampled_from([1, 1, 1, 2, 7]))
    def send(self, channel, skip, count):
        for _ in range(count):
            event = self.make_event(channel, self.logs[channel].counter + 1, skip)
            self.logs[channel].append(event)
            self.hints.append(event)

    @rule(channel=unreliable_channels, skip=skips, count=st.sampled_from([1, 1, 5]))
    def send_unreliable(self, channel, skip, count):
        for _ in range(count):
            event = self.make_event(channel, None, skip)
            if channel in self.feeds:
                self.given[channel].append(event)
                self.feeds[channel].receive_event(event)

    @rule(channel=all_channels)
    def note_gap(self, channel):
        if channel in self.feeds:
            self.feeds[channel].receive_gap()
            if channel in UNRELIABLE:
                self.given[channel].append(None)

    @rule(place=places, fate=st.sampled_from(["deliver", "deliver", "repeat", "lose"]))
    def move_hint(self, place, fate):
        if not self.hints:
            return
        place %= len(self.hints)
        event = self.hints[place] if fate == "repeat" else self.hints.pop(place)
        if fate != "lose" and event.channel in self.feeds:
            self.feeds[event.channel].receive_event(event)

    @rule()
    def deliver_hints_in_order(self):
        for event in self.hints:
            if event.channel in self.feeds:
                self.feeds[event.channel].receive_event(event)
        self.hints.clear()

    # The log, and how the feeds follow it

    @rule(channel=reliable_channels, keep=st.integers(0, 3))
    def trim_log(self, channel, keep):
        self.logs[channel].trim(keep)

    @rule(channel=reliable_channels, lost=st.integers(1, 5))
    def lose_counter(self, channel, lost):
        log = self.logs[channel]
        log.restore(max(0, log.counter - lost))
        self.hints = [event for event in self.hints if event.channel != channel]
        self.astray.add(channel)
        for client in self.clients:
            client.astray.add(channel)

    def tails(self) -> dict[str, int]:
        return {channel: feed.tail for channel, feed in self.feeds.items() if not feed.is_cold}

    def current_ids(self) -> dict[str, int]:
        return {channel: log.counter for channel, log in self.logs.items()}

    def receive_current(self, tails: dict[str, int], current_ids: dict[str, int]) -> None:
        for channel, current_id in current_ids.items():
            if channel in self.feeds:
                self.feeds[channel].receive_current(current_id, tails.get(channel, 0))

    @rule()
    def begin_poll(self):
        self.polls.append((self.tails(), None))

    @rule()
    def read_poll(self):
        self.polls = [(tails, found or self.current_ids()) for tails, found in self.polls]

    @rule()
    def end_poll(self):
        if not self.polls:
            return
        tails, found = self.polls.pop(0)
        warm = {
            channel: (found or self.current_ids())[channel]
            for channel in tails
            if channel in self.logs
        }
        self.receive_current(tails, warm)

    @rule(channel=reliable_channels)
    def begin_fill(self, channel):
        feed = self.feeds.get(channel)
        if feed is not None and feed.is_behind and feed not in self.fills:
            answer = self.logs[channel].read(feed.tail, self.page_size)
            self.fills[feed] = (feed.known, answer)

    @rule()
    def end_fill(self):
        if not self.fills:
            return
        feed, (known, answer) = self.fills.popitem()
        if isinstance(answer, EventDoesNotExist):
            feed.restart(answer.current_id)
        elif not feed.receive_page(answer) and not answer and feed.known == known:
            feed.forget_missing()

    @rule(channel=all_channels, keep=st.integers(0, 3))
    def trim_feed(self, channel, keep):
        if channel in self.feeds:
            self.feeds[channel].trim(keep)

    @rule(channel=reliable_channels)
    def restart_feed(self, channel):
        if channel in self.feeds and not self.feeds[channel].is_cold:
            self.feeds[channel].restart(self.logs[channel].counter)

    @rule(channel=unreliable_channels)
    def restart_unreliable_feed(self, channel):
        if channel in self.feeds:
            self.feed_restarts += 1
            self.feeds[channel].restart(0)

    # Streams

    @rule(index=indexes, channels=orders, count=st.integers(1, 4), turned=turned_channels)
    def connect(self, index, channels, count, turned=None):
        """Connect, reading one of the reliable channels as if it had turned unreliable."""
        client = self.clients[index]
        self.drop(client)
        last_event_id = client.parser.last_event_id
        if last_event_id == ERROR_ID:
            last_event_id = ""
            client.positions = {}
        client.parser = SSEParser(strict=True, last_event_id=last_event_id)
        client.channels = {
            channel: channel in RELIABLE and channel != turned for channel in channels[:count]
        }
        client.opened = False
        client.current_ids = None
        client.nexts = {}
        client.lossy = set()
        client.latest = {}
        client.protocol = StreamProtocol(
            client.channels,
            last_event_id=parse_last_event_id(last_event_id) if last_event_id else {},
            user_id=client.user_id,
            padding=0,
        )
        for channel in client.channels:
            if channel not in self.feeds:
                self.feeds[channel] = Feed(
                    channel, capacity=self.capacity, max_bytes=self.max_bytes
                )
            client.feeds[channel] = self.feeds[channel]
            if channel in self.astray:
                client.astray.add(channel)

    @rule(index=indexes)
    def disconnect(self, index):
        self.drop(self.clients[index])

    def drop(self, client: Client) -> None:
        client.protocol = None
        client.pipe = b""
        client.reads.clear()
        client.feeds.clear()
        for channel in list(self.feeds):
            if not any(channel in other.feeds for other in self.clients):
                del self.feeds[channel]

    @rule(index=indexes)
    def ask_present(self, index):
        client = self.clients[index]
        if client.protocol is None or client.protocol.state is not State.OPENING:
            return
        tails, found = self.tails(), self.current_ids()
        last_event_id = client.protocol.last_event_id
        unknown = [
            channel
            for channel, reliable in client.channels.items()
            if reliable
            and not (channel in last_event_id and self.feeds[channel].holds(last_event_id[channel]))
        ]
        client.current_ids = {channel: found[channel] for channel in unknown}
        self.receive_current(tails, client.current_ids)

    @rule(index=indexes)
    def start(self, index):
        client = self.clients[index]
        if client.protocol is None or client.current_ids is None:
            return
        if client.protocol.state is State.OPENING:
            for channel in client.channels:
                if channel in UNRELIABLE:
                    client.nexts[channel] = len(self.given[channel])
        client.protocol.receive_start(client.feeds, client.current_ids)

    @rule(index=indexes)
    def begin_reads(self, index):
        client = self.clients[index]
        if client.protocol is None or client.protocol.state is not State.READING:
            return
        for channel, position in client.protocol.wanted():
            if channel not in client.reads:
                feed = client.feeds[channel]
                answer: list[Event] | EventDoesNotExist = []
                if not feed.holds(position):
                    answer = self.logs[channel].read(position, self.page_size)
                client.reads[channel] = Read(feed, position, answer)

    @rule(index=indexes, channel=reliable_channels)
    def end_read(self, index, channel):
        client = self.clients[index]
        if channel not in client.reads:
            return
        read = client.reads.pop(channel)
        assert client.protocol is not None
        missing = read.answer if isinstance(read.answer, EventDoesNotExist) else None
        entries = [] if missing else self.place(read.feed, read.answer)
        last = read.position + len(entries)
        # Other streams that wait for the same, or a part of it, get it as well.
        for other in self.clients:
            asked = read if other is client else other.reads.get(channel)
            if asked is None or asked.feed is not read.feed:
                continue
            if missing and asked.position <= read.position:
                other.protocol.receive_missing(channel, missing.current_id)
            elif not missing and (
                read.position <= asked.position < last or asked.position == read.position
            ):
                other.protocol.receive_page(channel, entries[asked.position - read.position :])
            else:
                continue
            other.reads.pop(channel, None)

    def place(self, feed: Feed, events: list[Event]) -> list[Entry]:
        entries = [Entry(event) for event in events]
        if feed.base is not None and events:
            first, last = events[0].id, events[-1].id
            assert first is not None
            assert last is not None
            if first <= feed.base <= last:
                feed.prepend(entries[: feed.base - first + 1])
            if first <= feed.tail + 1:
                feed.receive_page(events)
        return entries

    @rule(index=indexes)
    def idle(self, index):
        protocol = self.clients[index].protocol
        if protocol is not None:
            protocol.receive_idle()

    @rule(index=indexes, seldom=st.integers(0, 4))
    def revoke(self, index, seldom):
        client = self.clients[index]
        if client.protocol is not None and not seldom:
            client.protocol.receive_error(EventPermissionError.for_channels(client.channels))

    @rule(index=indexes, seldom=st.integers(0, 4))
    def end(self, index, seldom):
        protocol = self.clients[index].protocol
        if protocol is not None and not seldom:
            protocol.receive_end(1000)

    # Clients

    @rule(index=indexes)
    def write(self, index):
        client = self.clients[index]
        if client.protocol is not None:
            client.pipe += client.protocol.data_to_send()

    @rule(index=indexes, share=st.sampled_from([0.3, 1, 1]))
    def receive(self, index, share):
        client = self.clients[index]
        count = int(len(client.pipe) * share)
        data, client.pipe = client.pipe[:count], client.pipe[count:]
        for line in data.splitlines(keepends=True):
            for event in client.parser.feed(line):
                self.check(client, event)
        if client.opened and client.parser.last_event_id != ERROR_ID:
            self.check_moves(client, client.parser.last_event_id, {})

    @rule(index=indexes)
    def serve(self, index):
        """Do all that there is to do for one stream."""
        self.ask_present(index)
        self.start(index)
        for _ in range(3):
            self.begin_reads(index)
            for channel in RELIABLE:
                self.end_read(index, channel)
            self.write(index)
        self.receive(index, 1)

    # What must be so

    def check(self, client: Client, event: ParsedEvent) -> None:
        if event.type == "stream-error":
            assert event.last_event_id == ERROR_ID
            return
        if event.type == "stream-open":
            assert not client.opened
            client.opened = True
            self.check_open(client, event)
            return
        assert client.opened
        if event.type == "keep-alive":
            self.check_moves(client, event.last_event_id, {})
        elif event.type == "stream-reset":
            self.check_reset(client, event)
        else:
            sent = self.events[int(event.data)]
            assert sent.channel in client.channels
            assert client.user_id not in sent.skip_user_ids
            if client.channels[sent.channel]:
                self.check_moves(client, event.last_event_id, {sent.channel: sent})
            else:
                self.check_moves(client, event.last_event_id, {})
                if sent.channel in UNRELIABLE:
                    self.check_unreliable(client, sent)
                elif not self.logs[sent.channel].was_lost:
                    assert sent.id > client.latest.get(sent.channel, 0)
                    client.latest[sent.channel] = sent.id

    def check_open(self, client: Client, event: ParsedEvent) -> None:
        assert client.protocol is not None
        assert client.current_ids is not None
        reliable = [channel for channel, reliable in client.channels.items() if reliable]
        if not reliable:
            # No id line: the client keeps what it had.
            client.positions = {}
            return
        positions = parse_last_event_id(event.last_event_id)
        assert list(positions) == reliable
        for channel, position in positions.items():
            own = client.protocol.last_event_id.get(channel)
            assert position == (client.current_ids[channel] if own is None else own)
            if own is not None:
                assert own == client.positions.get(channel, own)
        client.positions = positions

    def check_moves(
        self, client: Client, last_event_id: str, known: dict[str, Event | None]
    ) -> None:
        """Check that positions moved to the given events, or past what the user must not get.

        None in place of an event: to anywhere.
        """
        reliable = [channel for channel, reliable in client.channels.items() if reliable]
        if not reliable:
            return
        positions = parse_last_event_id(last_event_id)
        assert list(positions) == reliable
        for channel, position in positions.items():
            before, client.positions[channel] = client.positions[channel], position
            if channel in known:
                event = known[channel]
                if event is None:
                    continue
                assert position == event.id
                assert position > before
                self.check_stored(client, event)
                position -= 1
            assert position >= before
            for passed in range(before + 1, position + 1):
                candidates = self.logs[channel].history[passed]
                if channel not in client.astray:
                    candidates = candidates[-1:]
                assert any(client.user_id in one.skip_user_ids for one in candidates)

    def check_stored(self, client: Client, event: Event) -> None:
        assert event.id is not None
        history = self.logs[event.channel].history[event.id]
        assert event in (history if event.channel in client.astray else history[-1:])

    def check_reset(self, client: Client, event: ParsedEvent) -> None:
        channels = json.loads(event.data)["channels"]
        assert channels
        assert len(set(channels)) == len(channels)
        assert set(channels) <= set(client.channels)
        before = dict(client.positions)
        self.check_moves(client, event.last_event_id, dict.fromkeys(channels))
        for channel in channels:
            if client.channels[channel]:
                log = self.logs[channel]
                position = client.positions[channel]
                assert position == 0 or position in log.history
                # Only what the log does not hold is worth a reset.
                if not log.was_lost:
                    assert before[channel] < log.trimmed
                    assert position > before[channel]
            elif channel in UNRELIABLE:
                assert client.nexts[channel] < len(self.given[channel]) or self.feed_restarts
                client.lossy.add(channel)

    def check_unreliable(self, client: Client, sent: Event) -> None:
        given = self.given[sent.channel]
        index = given.index(sent)
        first = client.nexts[sent.channel]
        assert index >= first
        if sent.channel not in client.lossy:
            self.check_passed(client, given[first:index])
        client.lossy.discard(sent.channel)
        client.nexts[sent.channel] = index + 1

    def check_passed(self, client: Client, given: list[Event | None]) -> None:
        for event in given:
            assert event is not None
            assert client.user_id in event.skip_user_ids

    @rule(deliver=st.booleans(), seldom=st.integers(0, 3))
    def rest(self, deliver, seldom):
        if not seldom:
            self.come_to_rest(deliver)

    def come_to_rest(self, deliver: bool) -> None:
        """Let everything that is under way arrive, and compare."""
        if deliver:
            self.deliver_hints_in_order()
        self.hints.clear()
        self.read_poll()
        while self.polls:
            self.end_poll()
        for _ in range(PATIENCE):
            news = False
            while self.fills:
                self.end_fill()
            self.receive_current(
                self.tails(),
                {
                    channel: self.logs[channel].counter
                    for channel in self.tails()
                    if channel in self.logs
                },
            )
            for channel in RELIABLE:
                self.begin_fill(channel)
            news = bool(self.fills)
            for index, client in enumerate(self.clients):
                if client.protocol is None:
                    continue
                self.ask_present(index)
                self.start(index)
                for channel in RELIABLE:
                    self.end_read(index, channel)
                self.begin_reads(index)
                self.write(index)
                news = news or bool(client.pipe) or client.protocol.state is State.READING
                self.receive(index, 1)
            if not news:
                break
        else:
            raise AssertionError("the streams do not come to rest")
        for channel in list(self.astray):
            feed = self.feeds.get(channel)
            if feed is None or all(
                entry.event in (None, *self.logs[channel].history.get(entry.id, [])[-1:])
                for entry in feed.entries
            ):
                self.astray.discard(channel)
        for client in self.clients:
            if client.protocol is not None:
                self.check_rest(client, client.protocol)

    def check_rest(self, client: Client, protocol: StreamProtocol) -> None:
        client.parser.close()
        if protocol.state is State.CLOSED:
            assert client.parser.failed != bool(client.parser.retries)
            return
        assert protocol.state is State.LIVE
        for channel, reliable in client.channels.items():
            if reliable:
                assert client.positions[channel] == self.logs[channel].counter
                assert self.feeds[channel].tail == self.logs[channel].counter
                if channel not in self.astray:
                    client.astray.discard(channel)
            elif channel in UNRELIABLE and channel not in client.lossy:
                self.check_passed(client, self.given[channel][client.nexts[channel] :])
        for feed in self.feeds.values():
            assert len(feed.entries) <= feed.capacity
            assert feed.size == sum(entry.size for entry in feed.entries)
            assert feed.size <= feed.max_bytes or len(feed.entries) == 1
            assert feed.ahead == {}


COMMON = settings(
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
World.TestCase.settings = settings(COMMON, max_examples=400 * SIZE, stateful_step_count=60)
TestWorld = World.TestCase

#: How often a long schedule does what, and with what.
SCHEDULE = {
    World.send: (10, {"channel": RELIABLE, "skip": SKIPS, "count": (1, 1, 2, 5)}),
    World.send_unreliable: (6, {"channel": UNRELIABLE, "skip": SKIPS, "count": (1, 1, 3)}),
    World.note_gap: (1, {"channel": RELIABLE + UNRELIABLE}),
    World.move_hint: (20, {"place": range(10), "fate": ("deliver", "deliver", "repeat", "lose")}),
    World.deliver_hints_in_order: (5, {}),
    World.trim_log: (2, {"channel": RELIABLE, "keep": range(8)}),
    World.lose_counter: (1, {"channel": RELIABLE, "lost": range(1, 6)}),
    World.begin_poll: (3, {}),
    World.read_poll: (3, {}),
    World.end_poll: (3, {}),
    World.begin_fill: (5, {"channel": RELIABLE}),
    World.end_fill: (5, {}),
    World.trim_feed: (2, {"channel": RELIABLE + UNRELIABLE, "keep": range(6)}),
    World.restart_feed: (1, {"channel": RELIABLE}),
    World.restart_unreliable_feed: (1, {"channel": UNRELIABLE}),
    World.connect: (
        2,
        {"index": range(3), "channels": ORDERS, "count": range(1, 5), "turned": TURNED},
    ),
    World.ask_present: (3, {"index": range(3)}),
    World.start: (3, {"index": range(3)}),
    World.begin_reads: (10, {"index": range(3)}),
    World.end_read: (10, {"index": range(3), "channel": RELIABLE}),
    World.idle: (1, {"index": range(3)}),
    World.revoke: (1, {"index": range(3), "seldom": range(5)}),
    World.end: (1, {"index": range(3), "seldom": range(5)}),
    World.write: (10, {"index": range(3)}),
    World.receive: (5, {"index": range(3), "share": (0.3, 1)}),
    World.serve: (5, {"index": range(3)}),
    World.rest: (1, {"deliver": (True, False), "seldom": range(4)}),
}


@settings(COMMON, max_examples=1000 * SIZE)
@given(seed=st.integers(0, 2**64))
def test_long_schedules(seed):
    """Let the same world run longer than hypothesis would, with likelier things likelier."""
    chance = random.Random(seed)
    world = World()
    world.begin(
        capacity=chance.choice([1, 2, 4, 100]),
        max_bytes=chance.choice([50, 300, 1 << 24]),
        page_size=chance.choice([1, 3, 100]),
        max_entries=chance.choice([1, 3, 512]),
        max_written=chance.choice([10, 1 << 18]),
    )
    # Some worlds are without one or the other trouble.
    steps = {step: weight for step, (weight, _) in SCHEDULE.items() if chance.random() < 0.8}
    for step in chance.choices(list(steps), list(steps.values()), k=400):
        values = SCHEDULE[step][1]
        step(world, **{name: chance.choice(choices) for name, choices in values.items()})
    world.teardown()
