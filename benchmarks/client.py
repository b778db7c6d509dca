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
EVENT = re.compile(rb"^event: message\nid: [^:\n]+:(\d+)\n", re.MULTILINE)
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
    #: How busy this process was, from 0 to 1; near 1 it is the client that is measured.
    busy: float = 0.0


class _Streams:
    """The child's side."""

    def __init__(self) -> None:
        self.sockets: dict[int, socket.socket] = {}
        self.order: list[int] = []
        self.tails: dict[int, bytes] = {}
        self.poll = select.epoll()
        # Allocated once: new bytes of this size for each read took longer than the rest of it.
        self.buffer = memoryview(bytearray(1 << 18))

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

    def catch_up(
        self, address: tuple[str, int], requests: list[bytes], last: bytes, at_once: int
    ) -> tuple[float, list[list[int]]]:
        """Open streams and read each up to its last event; return the seconds, and all ids."""
        started = time.monotonic()
        unsent = iter(requests)
        waiting: set[int] = set()
        texts: dict[int, bytearray] = {}
        while True:
            while len(waiting) < at_once and (request := next(unsent, None)) is not None:
                connection = socket.create_connection(address)
                connection.send(request)
                connection.setblocking(False)
                number = connection.fileno()
                self.sockets[number] = connection
                texts[number] = bytearray()
                waiting.add(number)
                self.poll.register(number, select.EPOLLIN)
            if not waiting:
                break
            ready = self.poll.poll(60)
            if not ready:
                raise TimeoutError(f"{len(waiting)} streams did not catch up")
            for number, _ in ready:
                data = self.sockets[number].recv(1 << 18)
                if not data:
                    raise AssertionError(f"ended: {texts[number][-300:]!r}")
                if number in texts:
                    texts[number] += data
                    if last in texts[number][-len(data) - len(last) :]:
                        waiting.discard(number)
        seconds = time.monotonic() - started
        while ready := self.poll.poll(0.5):  # what comes twice
            for number, _ in ready:
                texts.setdefault(number, bytearray()).extend(self.sockets[number].recv(1 << 18))
        return seconds, [[int(found) for found in EVENT.findall(text)] for text in texts.values()]

    def read(self, events: int, quiet: float, sample: int) -> Reading:
        """Read until each stream has so many events, or nothing comes for ``quiet`` seconds."""
        counts = dict.fromkeys(self.order, 0)
        reading = Reading([])
        left = len(counts)
        started = last = time.monotonic()
        arrived: list[tuple[int, list[bytes]]] = []  # looked at when there is time for it
        first, used = 0.0, time.process_time()
        while left > 0:
            ready = self.poll.poll(quiet)
            if not ready:
                break
            first = first or time.monotonic()
            for number, _ in ready:
                try:
                    data = self.buffer[: self.sockets[number].recv_into(self.buffer)]
                except BlockingIOError:
                    continue
                if not data:
                    self.poll.unregister(number)
                    reading.ended += 1
                    left -= counts[number] < events
                    continue
                reading.bytes += len(data)
                text = self.tails[number] + data
                now = time.monotonic_ns()
                before = counts[number]
                found = STAMP.findall(text)
                end = 0
                if found:
                    end = text.rindex(found[-1]) + len(found[-1])
                    counts[number] += len(found)
                    arrived.append((now, found))
                    last = now / 1e9
                self.tails[number] = text[max(end, len(text) - LONGEST_STAMP) :]
                if before < events <= counts[number]:
                    left -= 1
        reading.seconds = last - started
        reading.busy = (time.process_time() - used) / max(1e-3, time.monotonic() - first)
        reading.received = list(counts.values())
        latencies = [now - int(stamp) for now, stamps in arrived for stamp in stamps]
        reading.latencies = [latency / 1e9 for latency in latencies[::sample]]
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

    def catch_up(
        self, port: int, requests: list[tuple[str, str]], last_id: int, *, at_once: int = 100
    ) -> tuple[float, list[list[int]]]:
        """Open streams, each with a path and headers of its own, and read up to an event.

        Return the seconds that it took, and the ids of all events by stream.
        """
        texts = [
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n{headers}\r\n"
            for path, headers in requests
        ]
        address = ("127.0.0.1", port)
        last = f":{last_id}\n".encode()
        result: tuple[float, list[list[int]]] = self._ask(
            "catch_up", address, [text.encode() for text in texts], last, at_once
        )
        return result

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
