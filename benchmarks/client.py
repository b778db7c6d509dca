"""Many streams, read by one process on a core of its own: epoll over raw sockets.

It must not be what is measured, so it parses nothing: it looks for the time that each event's data
carries as ``"t": NANOSECONDS`` (of ``time.monotonic_ns``, which all processes share).
"""

from __future__ import annotations

import multiprocessing
import os
import re
import select
import socket
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

STAMP = re.compile(rb'"t": ?(\d+)[,}]')
#: No stamp is longer: what of one may wait for the rest of it.
LONGEST_STAMP = 40
#: What shows that a stream is open: the first event that any of the peers sends, or the headers.
OPEN = b"\r\n\r\n"


@dataclass
class Reading:
    """What came on all streams."""

    #: Events by stream.
    received: list[int]
    #: From the stamp to here, in seconds, of all events or every n-th.
    latencies: list[float] = field(default_factory=list)
    bytes: int = 0
    #: When the last event came.
    seconds: float = 0.0
    #: Streams that the server ended.
    ended: int = 0


class _Streams:
    """The child's side."""

    def __init__(self) -> None:
        self.sockets: dict[int, socket.socket] = {}
        self.order: list[int] = []
        self.tails: dict[int, bytes] = {}
        self.poll = select.epoll()

    def open(
        self, address: tuple[str, int], requests: list[bytes], marker: bytes, at_once: int
    ) -> float:
        """Open a stream for each request; return the seconds until all showed the marker."""
        started = time.monotonic()
        waiting: dict[int, bytes] = {}
        unsent = iter(requests)
        left = len(requests)
        more = True
        while left:
            while more and len(waiting) < at_once:
                request = next(unsent, None)
                if request is None:
                    more = False
                    break
                connection = socket.create_connection(address)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.send(request)
                connection.setblocking(False)
                number = connection.fileno()
                self.sockets[number] = connection
                self.order.append(number)
                waiting[number] = b""
                self.poll.register(number, select.EPOLLIN)
            ready = self.poll.poll(60)
            if not ready:
                raise TimeoutError(f"{left} streams did not open; {waiting.popitem()[1][-200:]!r}")
            for number, _ in ready:
                data = self.sockets[number].recv(1 << 16)
                if number not in waiting:
                    continue
                head = waiting[number] + data
                if marker in head and OPEN in head:
                    if not head.startswith(b"HTTP/1.1 200"):
                        raise AssertionError(f"refused: {head[:300]!r}")
                    del waiting[number]
                    self.tails[number] = b""
                    left -= 1
                elif not data:
                    raise AssertionError(f"ended before it was open: {head[-300:]!r}")
                else:
                    waiting[number] = head
        return time.monotonic() - started

    def read(self, events: int, quiet: float, sample: int) -> Reading:
        """Read until each stream has so many events, or nothing comes for ``quiet`` seconds."""
        counts = dict.fromkeys(self.order, 0)
        reading = Reading([])
        left = len(counts)
        started = last = time.monotonic()
        seen = 0
        while left > 0:
            ready = self.poll.poll(quiet)
            if not ready:
                break
            for number, _ in ready:
                try:
                    data = self.sockets[number].recv(1 << 18)
                except BlockingIOError:
                    continue
                if not data:
                    self.poll.unregister(number)
                    reading.ended += 1
                    left -= counts[number] < events
                    continue
                reading.bytes += len(data)
                text = self.tails[number] + data
                end = 0
                now = time.monotonic_ns()
                before = counts[number]
                for match in STAMP.finditer(text):
                    end = match.end()
                    seen += 1
                    counts[number] += 1
                    if seen % sample == 0:
                        reading.latencies.append((now - int(match[1])) / 1e9)
                self.tails[number] = text[max(end, len(text) - LONGEST_STAMP) :]
                if before < events <= counts[number]:
                    left -= 1
                if end:
                    last = now / 1e9
        reading.seconds = last - started
        reading.received = list(counts.values())
        return reading

    def close(self) -> None:
        for connection in self.sockets.values():
            connection.close()  # which takes it out of the poll
        self.sockets.clear()
        self.order.clear()
        self.tails.clear()


def _serve(pipe: Connection, core: int | None) -> None:
    if core is not None:
        os.sched_setaffinity(0, {core})
    streams = _Streams()
    while (order := pipe.recv()) is not None:
        name, arguments = order
        try:
            pipe.send((True, getattr(streams, name)(*arguments)))
        except Exception as error:
            pipe.send((False, repr(error)))


class Client:
    """The reading process; ``core`` is the number of the CPU that it has for itself."""

    def __init__(self, core: int | None) -> None:
        self._pipe, there = multiprocessing.Pipe()
        # Not forked: a copy of this process would have its threads' locks, too.
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=_serve, args=[there, core], daemon=True)
        self._process.start()

    def open(
        self,
        port: int,
        path: str,
        count: int,
        *,
        headers: str = "",
        marker: bytes = OPEN,
        at_once: int = 100,
    ) -> float:
        """Open streams; return the seconds that it took."""
        request = (
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n{headers}\r\n"
        ).encode()
        requests = [request] * count
        return float(self._ask("open", ("127.0.0.1", port), requests, marker, at_once))

    def start_reading(self, events: int, *, quiet: float = 5.0, sample: int = 1) -> None:
        """Begin to read; `result` waits for the end."""
        self._pipe.send(("read", (events, quiet, sample)))

    def result(self) -> Any:
        done, value = self._pipe.recv()
        if not done:
            raise RuntimeError(f"the client failed: {value}")
        return value

    def close_streams(self) -> None:
        self._ask("close")

    def _ask(self, name: str, *arguments: object) -> Any:
        self._pipe.send((name, arguments))
        return self.result()

    def stop(self) -> None:
        self._pipe.send(None)
        self._process.join(10)
