"""The clients: each keeps its Last-Event-ID as an EventSource does, and judges what it gets."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict

from django.db import DatabaseError

from django_eventstream import streaming, threads
from django_eventstream.eventrequest import EventRequest
from django_eventstream.exceptions import EventPermissionError
from django_eventstream.lasteventid import format_last_event_id, parse_last_event_id
from django_eventstream.sse import encode_error
from tests.core.sseparser import SSEParser


class Stream(streaming.Stream):
    """The package's stream, with a hash that is no address: sets of streams have one order."""

    __slots__ = ("number",)

    def __hash__(self):
        return self.number


class Connection:
    """One connection of a client, and the server's task that serves it."""

    def __init__(self, world, client, process):
        self.world = world
        self.client = client
        self.process = process
        self.loop = world.random.choice(process.loops)
        #: Whether the client has gone, which the server may not know yet.
        self.is_cut = False
        #: Whether the next bytes arrive in part, and then nothing more.
        self.tears = False
        self.parser = SSEParser(strict=True, last_event_id=client.last_event_id)
        self._reading = None
        for channel in client.channels:
            world.note_reader(self.loop, channel)
        self._task = self.loop.create_task(self._serve())

    def cut(self):
        """Reset the connection; the server notices in a while."""
        self.is_cut = True
        self.world.later(self.world.latency(), self.process, self._notice)

    def go_on(self):
        """Read again, after a stall."""
        if self._reading is not None and not self._reading.done():
            self._reading.set_result(None)

    def _notice(self):
        self.loop.call_soon_threadsafe(self._task.cancel)

    async def _serve(self):
        """Do what the view and the server do."""
        client = self.client
        request = EventRequest()
        request.channels = [*client.channels]
        request.channel_last_ids = parse_last_event_id(client.last_event_id or client.unset)
        request.user = client.user
        try:
            try:
                await threads.run(request.check_permission)
            except EventPermissionError as error:
                await self._send(encode_error(error.members))
                return
            except DatabaseError:
                return  # a 500, as far as the client is concerned
            stream = Stream(request, request.reliable_channels())
            stream.number = next(self.world.numbers)
            await asyncio.sleep(self.world.latency())
            try:
                async for data in stream:
                    await self._send(data)
                self.client.check_end(self)
            finally:
                stream.close()
        finally:
            self.world.later(self.world.latency(), None, client.lose, self)

    async def _send(self, data):
        while self.client.is_stalled and not self.is_cut:
            self._reading = self.loop.create_future()
            await self._reading
        if self.is_cut:
            return
        if self.tears:
            data = data[: self.world.random.randrange(len(data))]
        self.client.receive(self, data)
        if self.tears:
            self.client.lose(self)


class Client:
    """One client, which comes back whenever its stream ends, unless it was refused."""

    #: The Last-Event-ID of a client that has none.
    unset = "-:0"

    def __init__(self, world, name, channels, user, positions):
        self.world = world
        self.name = name
        self.channels = sorted(channels)
        self.user = user
        self.user_id = None if user is None else user.id
        self.last_event_id = format_last_event_id(positions)
        #: Where it stands on each reliable channel, as far as it knows.
        self.positions = dict(positions)
        self.is_stalled = False
        self.is_refused = False
        self.has_left = False
        self.connection = None
        #: Of the connection: whether stream-open was read, when, and where the log stood before.
        self.is_open = False
        self.opened_at = 0
        self.connected_at = 0.0
        self._present = {}
        # Of the connection, on each unreliable channel: what was received, the last of each
        # sender, when resets came.
        self.received = defaultdict(set)
        self._last = {}
        self.resets = defaultdict(list)
        self.counts = Counter()

    def __str__(self):
        return self.name

    # What it does

    def connect(self):
        """Connect to any process that is there, soon if there is none."""
        if self.connection is not None or self.is_refused or self.has_left:
            return
        process = self.world.choose_process()
        if process is None:
            self.world.later(0.2, None, self.connect)
            return
        self.world.note(f"{self} connects to {process} from {self.last_event_id!r}")
        self.is_open = False
        self.received.clear()
        self._last.clear()
        self.resets.clear()
        self.connected_at = self.world.scheduler.now
        self._present = {name: self.world.database.log(name).current_id for name in self.channels}
        self.connection = Connection(self.world, self, process)

    def cut(self):
        """Lose the connection, now."""
        if self.connection is not None:
            self.world.note(f"{self} is cut off from {self.connection.process}")
            self.lose(self.connection)

    def tear(self):
        """Lose the connection in the middle of what comes next."""
        if self.connection is not None:
            self.connection.tears = True

    def lose(self, connection):
        """Note that a connection has ended."""
        if connection is not self.connection:
            return
        connection.cut()
        self.connection = None
        self.is_open = False
        if not connection.parser.failed:
            self.last_event_id = connection.parser.last_event_id
            self.world.later(0.05 + self.world.latency(), None, self.connect)

    def stall(self, duration):
        """Stop reading for a while."""
        self.is_stalled = True
        self.world.later(duration, None, self.resume)

    def resume(self):
        self.is_stalled = False
        if self.connection is not None:
            self.connection.go_on()

    def leave(self):
        """Go, for good."""
        self.has_left = True
        self.cut()

    # What it gets

    def receive(self, connection, data):
        """Take bytes from the server, and check them against what was sent."""
        if connection is not self.connection:
            return
        if connection.parser.failed and data:
            self._fail("bytes after a stream-error")
        try:
            for event in connection.parser.feed(data):
                self.world.note(f"{self} gets {event.type} {event.data} {event.last_event_id!r}")
                self.counts[f"received {event.type}"] += 1
                self._take(event)
        except AssertionError as error:
            self._fail(f"malformed: {error}")
        if not self.is_refused and self.is_open:
            self._move(parse_last_event_id(connection.parser.last_event_id or self.unset))

    def check_end(self, connection):
        """Check that a stream which the server ended is complete, and says what to do."""
        if connection is not self.connection or connection.tears:
            return
        try:
            connection.parser.close()
        except AssertionError as error:
            self._fail(f"malformed at the end: {error}")
        if not connection.parser.failed and not connection.parser.retries:
            self._fail("the stream ends without a word")

    def is_caught_up(self):
        """Whether it has all that it is ever going to get of reliable channels."""
        if self.is_refused:
            return True
        return self.is_open and all(
            all(
                self.user_id in event.skip_user_ids
                for event in self.world.database.log(channel).events[position:]
            )
            for channel, position in self.positions.items()
        )

    def find_missed(self, channel):
        """Return events of an unreliable channel that it ought to have, or know it has not."""
        resets = self.resets[channel]
        return [
            loose
            for loose in self.world.loose[channel]
            if loose.sent_at > self.opened_at
            and loose.data not in self.received[channel]
            and self.user_id not in loose.skip_user_ids
            and not any(at > loose.sent_at for at in resets)
            and not self.world.is_excused(loose, self.connection.process, channel)
        ]

    # Inside

    def _fail(self, text):
        self.world.fail(f"{self}: {text}")

    def _take(self, event):
        if event.type == "stream-error":
            self._take_error(json.loads(event.data))
            return
        positions = parse_last_event_id(event.last_event_id or self.unset)
        if event.type == "stream-open":
            self._take_open(positions)
        elif not self.is_open:
            self._fail(f"{event.type} before stream-open")
        elif event.type == "stream-reset":
            self._take_reset(json.loads(event.data)["channels"], positions)
        elif event.type == "message":
            self._take_event(event.data, positions)
        elif event.type != "keep-alive":
            self._fail(f"unknown type {event.type}")

    def _take_open(self, positions):
        if self.is_open:
            self._fail("a second stream-open")
        self.is_open = True
        self.opened_at = self.world.steps
        expected = {name for name in self.channels if self.world.is_reliable(name)}
        if {*positions} - {"-"} != expected:
            self._fail(f"stream-open with the positions {positions}")
        for channel in sorted(expected):
            position = positions[channel]
            if channel in self.positions:
                if position != self.positions[channel]:
                    self._fail(f"stream-open moves {channel} to {position}")
            elif not self._is_present(channel, position):
                self._fail(f"stream-open at {channel}:{position}, not the present")
            self.positions[channel] = position

    def _is_present(self, channel, position):
        """Whether a channel stood there at some time since this client connected."""
        return self._present[channel] <= position <= self.world.database.log(channel).current_id

    def _take_reset(self, channels, positions):
        for channel in channels:
            if not self.world.is_reliable(channel):
                self.resets[channel].append(self.world.steps)
                if not self.world.may_miss(self.connection.loop, channel):
                    self._fail(f"a reset of {channel} for no reason")
                continue
            position = self.positions[channel]
            log = self.world.database.log(channel)
            if not (position < log.trimmed or position > self._present[channel]):
                self._fail(f"a reset of {channel} at {position}, which the log holds")
            if not self._is_present(channel, positions[channel]):
                self._fail(f"a reset of {channel} to {positions[channel]}, not the present")
            self.positions[channel] = positions[channel]
        self._move(positions)

    def _take_event(self, data, positions):
        channel = data.partition("#")[0]
        self._check_kicked(data)
        if channel not in self.channels:
            self._fail(f"{data} of a channel that it does not read")
        elif not self.world.is_reliable(channel):
            self._move(positions)
            self._take_loose(channel, data)
        else:
            self._move(positions, channel, data)

    def _move(self, positions, channel=None, data=None):
        """Check that positions moved past nothing but ``data`` and what this user must not get."""
        for name, old in self.positions.items():
            new = positions.get(name)
            if new == old and name != channel:
                continue
            events = self.world.database.log(name).events
            if new is None or not old <= new <= len(events):
                self._fail(f"{name} moves from {old} to {new}")
                continue
            self.positions[name] = new
            passed = events[old:new]
            if name == channel:
                if not passed or passed[-1].data != data:
                    self._fail(f"{data} with the id {new}, after {old}")
                elif self.user_id in passed[-1].skip_user_ids:
                    self._fail(f"{data}, which skips this user")
                passed = passed[:-1]
            for event in passed:
                if self.user_id not in event.skip_user_ids:
                    self._fail(f"{event.data} ({event.id}) is lost")

    def _take_loose(self, channel, data):
        loose = self.world.find_loose(data)
        if data in self.received[channel]:
            self._fail(f"{data} twice")
        if loose.sender in self._last and self._last[loose.sender] > loose.number:
            self._fail(f"{data} out of order")
        if self.user_id in loose.skip_user_ids:
            self._fail(f"{data}, which skips this user")
        self.received[channel].add(data)
        self._last[loose.sender] = loose.number

    def _take_error(self, members):
        if members["condition"] != "forbidden":
            self._fail(f"refused with {members}")
        elif not any(
            self.world.was_denied(self.user_id, channel, self.connected_at)
            for channel in members["channels"]
        ):
            self._fail(f"refused without a reason: {members}")
        self.is_refused = True

    def _check_kicked(self, data):
        for channel in self.channels:
            settled = self.world.settled.get((self.connection.loop, self.user_id, channel))
            if settled is not None and self.world.sent_at[data] > settled:
                self._fail(f"{data}, sent after the kick from {channel} was settled")
