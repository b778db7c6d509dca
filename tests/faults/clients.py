"""The clients: one process with many streams, each behaving as an EventSource does.

Orders come as lines of JSON on the standard input, figures go out on the standard output. Every
client keeps a log of all that happened to it, which is written to a file at the end:
``[time, what, data, last_event_id]``. (The file begins with a list of all data, and has their
places in it.) ``what`` is the type of an event, or one of

- ``begin``: a client as of now, with ``data`` as the Last-Event-ID that it starts from
- ``connect``: connected, asking with this Last-Event-ID
- ``lost``: the connection is gone; ``data`` says how
- ``paused``, ``resumed``: it stops reading, and reads on
- ``broken``: what came breaks the rules of HTTP or of event streams, or is no stream
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
import socket
import sys
import time
from typing import Any
from urllib.parse import urlencode

from tests.core.sseparser import SSEParser
from tests.faults.checker import LOOSE, parse_positions
from tests.faults.proxy import BUFFER

#: Seconds before a client comes back that was not told how many; browsers take a few.
RECONNECT = 0.7
#: By how many seconds an event is late that was not sent on at once, and for how many a client gets
#: none before it is calm. The poll, every six seconds, would let some be late.
LATE = 2.0
CALM = 7.0
SENT = re.compile(r'"sent": ([0-9.]+)')

# One copy of what many clients got.
_texts: dict[str, str] = {}


class Client:
    """An EventSource, which goes on when the server answers with an error."""

    def __init__(self, number: int, channels: list[str], port: int) -> None:
        self.number = number
        #: Those that are reliable.
        self.channels = channels
        self.log: list[list[Any]] = []
        self.last_event_id = ""
        self.delivered = 0
        #: When it last got an event that was late.
        self.late_at = 0.0
        self._port = port
        self._retry = RECONNECT
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self.connection: Connection | None = None
        self.note("begin", "")

    def note(self, what: str, data: str) -> None:
        data = _texts.setdefault(data, data)
        self.log.append([round(time.monotonic(), 3), what, data, self.last_event_id])

    def connect(self) -> None:
        self._task = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        connection = socket.socket()
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        try:
            await loop.sock_connect(connection, ("127.0.0.1", self._port))
            await loop.create_connection(lambda: Connection(self), sock=connection)
        except OSError:
            connection.close()
            self.come_back()

    def come_back(self) -> None:
        delay = self._retry * random.uniform(0.7, 1.3)
        self._timer = asyncio.get_running_loop().call_later(delay, self.connect)

    def begin(self) -> None:
        """Be another client, which wants all that the log holds."""
        if self.connection is None:
            return
        self.connection.leave()
        self.last_event_id = ",".join(f"{channel}:0" for channel in sorted(self.channels))
        self.note("begin", self.last_event_id)
        self.connect()

    def has(self, targets: dict[str, int]) -> bool:
        """Return whether it has got as far on each of its channels."""
        positions = parse_positions(self.last_event_id)
        return all(positions.get(channel, -1) >= targets[channel] for channel in self.channels)

    def request(self) -> bytes:
        channels = [*self.channels, LOOSE] if self.number % 4 == 0 else self.channels
        query = urlencode([("channel", channel) for channel in channels])
        lines = [f"GET /events/?{query} HTTP/1.1", "Host: 127.0.0.1", "Accept: text/event-stream"]
        if self.last_event_id:
            lines.append(f"Last-Event-ID: {self.last_event_id}")
        self.note("connect", "")
        return "\r\n".join([*lines, "", ""]).encode()

    def receive_lost(self, how: str, parser: SSEParser) -> None:
        if parser.retries:
            self._retry = parser.retries[-1] / 1000
        self.connection = None
        self.note("lost", how)
        self.come_back()


class Connection(asyncio.Protocol):
    """One response: HTTP/1.1 with chunks, and the event stream in it."""

    def __init__(self, client: Client) -> None:
        self._client: Client | None = client
        self._rest = b""
        self._has_head = False
        self._ended = False
        self._parser = SSEParser(strict=True, last_event_id=client.last_event_id)
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) and self._client is not None
        self.transport = transport
        self._client.connection = self
        transport.write(self._client.request())

    def pause(self, seconds: float) -> None:
        """Read nothing for a while."""
        assert self.transport is not None and self._client is not None
        self._client.note("paused", "")
        self.transport.pause_reading()
        asyncio.get_running_loop().call_later(seconds, self._resume)

    def _resume(self) -> None:
        assert self.transport is not None
        if self._client is not None:
            self._client.note("resumed", "")
            self.transport.resume_reading()

    def leave(self) -> None:
        assert self.transport is not None
        self._client = None
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._client is None:
            return
        try:
            self._take(data)
        except AssertionError as error:
            assert self.transport is not None
            self._client.note("broken", str(error))
            self.transport.abort()

    def _take(self, data: bytes) -> None:
        self._rest += data
        if not self._has_head:
            head, found, rest = self._rest.partition(b"\r\n\r\n")
            if not found:
                return
            status, *fields = head.decode("latin-1").lower().split("\r\n")
            assert status.startswith("http/1.1 200 "), f"the status is 200; found {status!r}"
            headers = dict(field.split(": ", 1) for field in fields)
            kind = headers.get("content-type", "")
            assert kind.startswith("text/event-stream"), f"it is an event stream; found {kind!r}"
            assert headers.get("transfer-encoding") == "chunked", f"no chunks; {head!r}"
            self._has_head, self._rest = True, rest
        while (end := self._rest.find(b"\r\n")) >= 0:
            assert not self._ended, f"nothing follows the last chunk; found {self._rest!r}"
            size = int(self._rest[:end], 16)
            stop = end + 2 + size
            if len(self._rest) < stop + 2:
                return
            chunk = self._rest[end + 2 : stop]
            assert self._rest[stop : stop + 2] == b"\r\n", "a chunk has the size it says"
            self._rest = self._rest[stop + 2 :]
            self._ended = not size
            if self._ended:
                self._parser.close()
                assert self._parser.failed or self._parser.retries, "an end says when to come back"
            self._parse(chunk)
        if self._ended:  # the server would keep the connection for another request
            assert self.transport is not None
            self.transport.abort()

    def _parse(self, chunk: bytes) -> None:
        client = self._client
        assert client is not None
        for event in self._parser.feed(chunk):
            client.last_event_id = event.last_event_id
            if event.type != "keep-alive":
                client.note(event.type, event.data)
            if event.type == "message":
                client.delivered += 1
                sent = SENT.search(event.data)
                if sent and time.monotonic() - float(sent[1]) > LATE:
                    client.late_at = time.monotonic()
        client.last_event_id = self._parser.last_event_id

    def connection_lost(self, exc: Exception | None) -> None:
        if self._client is not None:
            how = "ended" if self._ended else type(exc).__name__ if exc else "cut off"
            self._client.receive_lost(how, self._parser)


class Clients:
    """All clients of the process, and what it is told to do with them."""

    def __init__(self, order: dict[str, Any]) -> None:
        source = random.Random(f"clients {order['seed']}")
        channels = order["channels"]
        self._clients = [
            Client(number, source.sample(channels, source.randint(1, 3)), order["port"])
            for number in range(order["clients"])
        ]
        self._targets: dict[str, int] | None = None
        self._caught_up: dict[int, float] = {}
        for client in self._clients:  # not all at once
            asyncio.get_running_loop().call_later(client.number / 300, client.connect)

    def receive_order(self, order: dict[str, Any]) -> None:
        kind = order["do"]
        if kind == "targets":
            self._targets = order["targets"]
        elif kind == "finish":
            self._write(order["file"])
        else:
            source = random.Random(order["seed"])
            count = math.ceil(order["share"] * len(self._clients))
            for client in source.sample(self._clients, count):
                if kind == "newcomers":
                    client.begin()
                elif client.connection is not None:
                    assert kind == "slow"
                    client.connection.pause(order["seconds"] * source.uniform(0.5, 1))

    def _write(self, path: str) -> None:
        places: dict[str, int] = {}
        for client in self._clients:
            for entry in client.log:
                entry[2] = places.setdefault(entry[2], len(places))
        with open(path, "w") as file:
            file.write(json.dumps(list(places)) + "\n")
            for client in self._clients:
                file.write(json.dumps([client.number, client.channels, client.log]) + "\n")

    def figures(self) -> dict[str, Any]:
        targets = self._targets
        if targets is not None:
            for client in self._clients:
                if client.number not in self._caught_up and client.has(targets):
                    self._caught_up[client.number] = time.monotonic()
        calm = time.monotonic() - CALM
        return {
            "calm": sum(c.connection is not None and c.late_at < calm for c in self._clients),
            "connected": sum(client.connection is not None for client in self._clients),
            "opened": sum(client.last_event_id != "" for client in self._clients),
            "delivered": sum(client.delivered for client in self._clients),
            "caught_up": len(self._caught_up),
        }


async def main() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    clients = Clients(json.loads(await reader.readline()))

    async def report() -> None:
        while True:
            print(json.dumps(clients.figures()), flush=True)
            await asyncio.sleep(0.3)

    reporting = asyncio.create_task(report())
    async for line in reader:
        order = json.loads(line)
        clients.receive_order(order)
        if order["do"] == "finish":
            break
    reporting.cancel()


if __name__ == "__main__":
    asyncio.run(main())
