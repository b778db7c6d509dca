"""A server of the tests' own, for what no real one does on demand.

It answers with the bytes that a test scripts, refuses, hangs and cuts connections, and records what
it was asked, and when.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qsl, urlsplit

from tests.processes import free_port, wait_until

STREAM = {"Content-Type": "text/event-stream"}


@dataclass
class Request:
    """A request, and the means to answer it. One connection carries one request."""

    time: float  # of time.monotonic()
    method: str
    target: str  # path and query as they came
    headers: dict[str, str]  # names in lower case; values as bytes in Latin-1
    socket: socket.socket = field(repr=False)
    #: Set when the connection has ended, by either side.
    gone: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> list[tuple[str, str]]:
        return parse_qsl(urlsplit(self.target).query, keep_blank_values=True)

    @property
    def last_event_id(self) -> str | None:
        """The position that it resumes from: that of the header, or else of the parameter."""
        values = [value for name, value in self.query if name == "lastEventId"]
        return self.headers.get("last-event-id", values[-1] if values else None)

    def is_open(self) -> bool:
        """Whether neither side has ended the connection."""
        if self.gone.is_set():
            return False
        # The thread that reads from it may not have had its turn since the client left.
        try:
            return self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def answer(
        self, status: int = 200, headers: Mapping[str, str] = STREAM, body: bytes = b""
    ) -> None:
        """Send the head of the answer, and the beginning of its body."""
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "Connection: close"]
        cors = {"Access-Control-Allow-Origin": self.headers.get("origin", "*")}
        if "origin" in self.headers:
            cors["Access-Control-Allow-Credentials"] = "true"
        lines += [f"{name}: {value}" for name, value in {**cors, **headers}.items() if value]
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        with contextlib.suppress(OSError):  # whoever has left does not hear it
            self.socket.sendall(data)

    def end(self) -> None:
        """Close the connection properly."""
        self.gone.set()
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """Break the connection off (RST)."""
        self.gone.set()
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.socket.shutdown(socket.SHUT_RD)  # wakes the thread that reads, which closes it


Answer = Callable[[Request], None]


def stream(*pieces: bytes, headers: Mapping[str, str] = STREAM, hold: bool = False) -> Answer:
    """Answer with a stream that ends, or, with ``hold``, is left open."""

    def answer(request: Request) -> None:
        request.answer(headers=headers)
        for piece in pieces:
            request.send(piece)
        if not hold:
            request.end()

    return answer


def status(code: int, headers: Mapping[str, str] = {}, body: bytes = b"") -> Answer:
    """Answer with something else."""

    def answer(request: Request) -> None:
        request.answer(code, headers, body)
        request.end()

    return answer


def redirect(location: str, code: int = 302) -> Answer:
    """Send elsewhere, each time."""
    return status(code, {"Location": location, "Cache-Control": "no-store"})


def hang(request: Request) -> None:
    """Answer nothing, and hold the connection."""


def cut(request: Request) -> None:
    """Answer nothing, and break the connection off."""
    request.cut()


class Wire:
    """Listens on a port of its own. What has no script waits for the test: see ``take``."""

    def __init__(self) -> None:
        self.port = free_port()
        #: All requests but preflights, in order.
        self.requests: list[Request] = []
        self.preflights: list[Request] = []
        #: The largest number of requests that were open at once.
        self.most_open = 0
        self._scripts: dict[str, list[Answer]] = {}
        self._waiting: list[Request] = []
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        self.listen()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def script(self, path: str, *answers: Answer) -> str:
        """Have the requests of a path answered, one after the other; return its URL.

        After the last one come 204.
        """
        self._scripts[path] = list(answers)
        return self.url(path)

    def take(self, path: str) -> Request:
        """Return the oldest request of a path without a script, once there is one."""

        def found() -> Request | None:
            with self._lock:
                for request in self._waiting:
                    if request.path == path:
                        self._waiting.remove(request)
                        return request
            return None

        request: Request = wait_until(found)
        return request

    def of(self, path: str) -> list[Request]:
        """Return the requests of a path."""
        with self._lock:
            return [request for request in self.requests if request.path == path]

    @property
    def open(self) -> int:
        """How many requests are open."""
        with self._lock:
            return self._count_open()

    def _count_open(self) -> int:
        return sum(request.is_open() for request in self.requests)

    def refuse(self) -> None:
        """Refuse connections from now on; those that are open stay."""
        if self._listener is not None:
            listener, self._listener = self._listener, None
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def listen(self) -> None:
        """Take connections again."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(128)
        self._listener = listener
        self._start(self._accept, listener)

    def cut_all(self) -> None:
        """Break all connections off."""
        with self._lock:
            requests = [request for request in self.requests if not request.gone.is_set()]
        for request in requests:
            request.cut()

    def close(self) -> None:
        """Stop, and leave nothing behind."""
        self.refuse()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()

    def _start(self, target: Callable[[socket.socket], None], argument: socket.socket) -> None:
        thread = threading.Thread(target=target, args=[argument], daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._connections.add(connection)
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with self._tracked(connection), contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                data = connection.recv(65536)
                if not data:
                    return
                head += data
            first, *lines = head.decode("latin-1").split("\r\n\r\n")[0].split("\r\n")
            method, target, _ = first.split(" ")
            headers = {name.lower(): value.strip(" \t") for name, _, value in map(_parts, lines)}
            request = Request(time.monotonic(), method, target, headers, connection)
            if method == "OPTIONS":
                self.preflights.append(request)
                asked = headers.get("access-control-request-headers", "")
                request.answer(204, {"Access-Control-Allow-Headers": asked})
                return
            self._answer(request)

    @contextlib.contextmanager
    def _tracked(self, connection: socket.socket) -> Iterator[None]:
        try:
            with connection:
                yield
        finally:
            with self._lock:
                self._connections.discard(connection)

    def _answer(self, request: Request) -> None:
        with self._lock:
            self.requests.append(request)
            self.most_open = max(self.most_open, self._count_open())
            script = self._scripts.get(request.path)
            if script is None:
                self._waiting.append(request)
                answer: Answer = hang
            else:
                answer = script.pop(0) if script else status(204)
        try:
            answer(request)
            while request.socket.recv(65536):
                pass
        finally:
            request.gone.set()


def _parts(line: str) -> tuple[str, str, str]:
    return line.partition(":")


@contextlib.contextmanager
def serve_bytes() -> Iterator[Wire]:
    wire = Wire()
    try:
        yield wire
    finally:
        wire.close()
