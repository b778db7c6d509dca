"""Real processes for tests, and a client that reads their streams."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.core.sseparser import SSEParser

# Tests hold thousands of streams; processes inherit the limit.
_, _most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(_most, 65_536), _most))

# A shell has what it starts in the background ignore SIGINT, and processes inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

#: For how many seconds anything may take before a test fails.
TIMEOUT = 20.0


def free_port() -> int:
    """Return a port that nobody listens on."""
    # Below those that outgoing connections get, one of which could take it before the server.
    for _ in range(100):
        port = random.SystemRandom().randrange(10_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def need(program: str) -> str:
    """Return the path of a program of Debian's; where it is missing the test is skipped."""
    if found := shutil.which(program):
        return found
    pytest.skip(f"needs {program} (on Debian: apt-get install {program})")


def wait_until(
    condition: Callable[[], Any], *, timeout: float = TIMEOUT, alive: Process | None = None
) -> Any:
    """Return the condition's first true value; fail after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if alive is not None and alive.popen.poll() is not None:
            raise AssertionError(f"{alive.command[0]} ended:\n{alive.output()}")
        if time.monotonic() > deadline:
            output = f"\n{alive.output()}" if alive else ""
            raise AssertionError(f"not within {timeout} s: {condition}{output}")
        time.sleep(0.02)
    return value


class Process:
    """A process whose output is kept, ended with the ``with`` block."""

    def __init__(
        self,
        command: list[str],
        *,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        stop: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.command = command
        self._stop = stop
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by __exit__)
        self.popen = subprocess.Popen(
            command,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            user=user,
            cwd="/" if user else None,
            start_new_session=True,
        )

    def output(self) -> str:
        """Return what the process has printed so far."""
        log = self._log.fileno()
        return os.pread(log, os.fstat(log).st_size, 0).decode(errors="replace")

    def kill(self) -> None:
        """End the process, and its children, at once."""
        for pid in _processes_of_session(self.popen.pid):  # some make groups of their own
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.popen.wait()

    def forget(self) -> None:
        """Drop the output of a process that has ended."""
        self._log.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.popen.send_signal(self._stop)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(10)
        self.kill()
        self.forget()


def _processes_of_session(session: int) -> list[int]:
    pids = []
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                # The name, in parentheses, may contain anything.
                fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == session:
                    pids.append(int(entry.name))
    return pids


#: How each server is started: with the path of an ASGI application and a port.
ASGI_SERVERS: dict[str, Callable[[str, int], list[str]]] = {
    "uvicorn": lambda app, port: ["uvicorn", app, "--port", str(port), "--log-level", "warning"],
    "uvicorn-workers": lambda app, port: [
        *("uvicorn", app, "--port", str(port), "--log-level", "warning", "--workers", "2"),
    ],
    "daphne": lambda app, port: ["daphne", "-b", "127.0.0.1", "-p", str(port), "-v0", app],
    "hypercorn": lambda app, port: ["hypercorn", app, "-b", f"127.0.0.1:{port}"],
    "hypercorn-single": lambda app, port: [
        *("hypercorn", app, "-b", f"127.0.0.1:{port}", "--workers", "0"),
    ],
    "hypercorn-workers": lambda app, port: [
        *("hypercorn", app, "-b", f"127.0.0.1:{port}", "--workers", "2"),
    ],
    "granian": lambda app, port: [
        *("granian", "--interface", "asgi", "--host", "127.0.0.1", "--port", str(port)),
        *("--no-ws", "--log-level", "warning", app),
    ],
}


class Site:
    """The tests' project, served by a real process; tests talk to it over HTTP."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.port = port

    def request(
        self,
        method: str,
        path: str,
        body: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT,
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Return status, headers and body of a response that ends."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def send(self, *events: dict[str, Any], **order: Any) -> list[int | None]:
        """Have events sent; return their ids."""
        body = json.dumps({"events": events, **order})
        status, _, content = self.request("POST", "/send/", body)
        assert status == 200, content
        ids: list[int | None] = json.loads(content)["ids"]
        return ids

    def open(self, path: str, last_event_id: str = "", **headers: str) -> EventSource:
        """Open a stream."""
        if last_event_id:
            headers["Last-Event-ID"] = last_event_id
        return EventSource(self.port, path, headers)

    def log_in(self, name: str, *groups: str) -> tuple[int, str]:
        """Log a user in; return the user's id and the value of the Cookie header."""
        query = "&".join(f"group={group}" for group in groups)
        status, headers, content = self.request("GET", f"/login/{name}/?{query}")
        assert status == 200, content
        cookies = [cookie.split(";")[0] for cookie in headers.get_all("Set-Cookie", [])]
        return json.loads(content)["id"], "; ".join(cookies)


class EventSource:
    """One open stream, read by a strict parser."""

    def __init__(self, port: int, path: str, headers: Mapping[str, str]) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        self._connection.request("GET", path, headers=dict(headers))
        self.response = self._connection.getresponse()
        self.parser = SSEParser(strict=True)
        self._events: list[Any] = []
        self.ended = False
        #: That of the event returned last.
        self.last_event_id = ""
        #: All bytes so far.
        self.body = b""

    def __enter__(self) -> EventSource:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave."""
        self.response.close()
        self._connection.close()

    def next(self) -> Any:
        """Return the next event, but no keep-alive; None at the end of the stream."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            while self._events:
                event = self._events.pop(0)
                self.last_event_id = event.last_event_id
                if event.type != "keep-alive":
                    return event
            if self.ended:
                return None
            assert time.monotonic() < deadline, f"nothing but keep-alives for {TIMEOUT} s"
            self.pull()

    def pull(self) -> None:
        """Read once."""
        data = self.response.read1(1 << 16)
        self.body += data
        if not data:
            self.ended = True
            self.parser.close()
        self._events += self.parser.feed(data)

    def take(self, count: int) -> list[Any]:
        """Return the next events."""
        return [self.next() for _ in range(count)]


@contextlib.contextmanager
def serve(
    server: str,
    application: str = "application",
    *,
    database: str,
    port: int | None = None,
    options: Sequence[str] = (),
    **settings: str,
) -> Iterator[Site]:
    """Serve the tests' project; ``options`` are of the server's command line."""
    port = port or free_port()
    environment = {
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "EVENTSTREAM_TEST_DATABASE_NAME": database,
        **settings,
    }
    if server == "runserver":
        command = ["tests.project.manage", "runserver", f"127.0.0.1:{port}", "--noreload"]
    elif server == "gunicorn":
        command = [
            *("gunicorn", "-b", f"127.0.0.1:{port}", "--workers", "2", "--log-level", "warning"),
            *("--no-control-socket", "tests.project.wsgi:application"),
        ]
    else:
        command = ASGI_SERVERS[server](f"tests.project.asgi:{application}", port)
    with Process([sys.executable, "-m", *command, *options], env=environment) as process:
        site = Site(process, port)

        def answers() -> bool:
            try:
                return site.request("GET", "/threads/")[0] == 200
            except OSError:
                return False

        wait_until(answers, alive=process, timeout=60)
        yield site
