"""What is measured side by side: each in a virtual environment and a process of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.databases import NotInstalled

from . import services
from .measure import cores, cpu, family, is_alive

HERE = Path(__file__).parent
ROOT = HERE.parent
#: Made when they are first needed; delete the folder to have the latest versions.
VENVS = Path(os.environ.get("BENCHMARK_VENVS", ROOT / ".venv-benchmarks"))
SERVERS = ["uvicorn", "daphne", "hypercorn", "granian"]
PACKAGES = {
    "ours": [str(ROOT) + "[redis,postgres]"],
    "5.3.4": ["django-eventstream==5.3.4"],
    "sse-starlette": ["sse-starlette", "starlette"],
}


def environment(name: str) -> Path:
    """Return the Python of a virtual environment, which is made if need be.

    If BENCHMARK_PYTHON names another one, that is "ours", and there are no others.
    """
    if named := os.environ.get("BENCHMARK_PYTHON"):
        if name != "ours":
            raise NotInstalled(f"{name} is not installed")
        return Path(named)
    python = VENVS / name / "bin" / "python"
    if not (VENVS / name / "complete").exists():
        print(f"Installing {' '.join(PACKAGES[name])} ...", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", VENVS / name], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        editable = ["-e"] if name == "ours" else []
        subprocess.run(
            [*pip, *SERVERS, "psycopg[binary]", "httptools", "uvloop", *editable, *PACKAGES[name]],
            check=True,
        )
        (VENVS / name / "complete").touch()
    return python


def versions() -> dict[str, dict[str, str]]:
    """Return the version of Python and of all packages in each environment that there is."""
    code = (
        "import importlib.metadata as m, json, platform;"
        "found = {d.metadata['Name']: d.version for d in m.distributions()};"
        "print(json.dumps({'Python': platform.python_version(), **found}))"
    )
    found = {}
    for name in PACKAGES:
        if (VENVS / name / "complete").exists() and not os.environ.get("BENCHMARK_PYTHON"):
            found[name] = json.loads(subprocess.check_output([environment(name), "-c", code]))
    return found


@dataclass(frozen=True)
class Peer:
    """Something that streams."""

    name: str
    venv: str = "ours"
    application: str = "project.asgi:application"
    path: str = "/events/?channel=test"
    server: str = "uvicorn"
    settings: dict[str, str] = field(default_factory=dict)
    #: Where it is told to send.
    sender: str = "/send/"
    #: What shows that a stream is open.
    marker: bytes = b"stream-open"
    #: What has to run beside it, from `services.SERVICES`.
    needs: tuple[str, ...] = ()
    #: Whether clients come through Pushpin.
    proxy: bool = False

    @property
    def sources(self) -> list[str]:
        return [str(ROOT)] if self.venv == "ours" else []


STORAGE = {"BENCHMARK_STORAGE": "1"}
CHANNELS = "project.asgi:through_channels"
FLOOR = Peer("floor", application="floor:application", path="/events/")
NATIVE = Peer("native")
BARE = Peer("bare Django", path="/bare/", sender="/bare/send/")
OTHER_SERVERS = [server for server in SERVERS if server != "uvicorn"]
PEERS = {
    peer.name: peer
    for peer in [
        FLOOR,
        BARE,
        NATIVE,
        Peer("native, storage", settings=STORAGE),
        Peer("native, PostgreSQL", settings=STORAGE, needs=("postgresql",)),
        Peer("Channels", application=CHANNELS),
        Peer("Channels, storage", application=CHANNELS, settings=STORAGE),
        Peer("5.3.4 native", "5.3.4"),
        Peer("5.3.4 native, storage", "5.3.4", settings=STORAGE),
        Peer("sse-starlette", "sse-starlette", "queues:application", "/events/"),
        Peer("Pushpin", settings=STORAGE, proxy=True),
        Peer("nchan", path="/events/", server="nginx", marker=b": hi"),
        *(
            replace(peer, name=f"{peer.name}, {server}", server=server)
            for server in OTHER_SERVERS
            for peer in [FLOOR, NATIVE]
        ),
    ]
    if (peer.server != "nginx" or services.has_nchan())
    and (not peer.proxy or services.has_pushpin())
}
#: The case to which another one is compared: on each server its own floor.
BASELINES = {
    f"{name}, {server}": f"floor, {server}"
    for server in OTHER_SERVERS
    for name in ("floor", "native")
}


def _command(server: str, application: str, port: int) -> list[str]:
    return {
        "uvicorn": ["uvicorn", application, "--port", str(port), "--log-level", "warning"],
        "daphne": ["daphne", "-b", "127.0.0.1", "-p", str(port), "-v0", application],
        "hypercorn": ["hypercorn", application, "-b", f"127.0.0.1:{port}", "--workers", "0"],
        "granian": [
            *("granian", "--interface", "asgi", "--host", "127.0.0.1", "--port", str(port)),
            *("--no-ws", "--log-level", "warning", application),
        ],
    }[server]


class Running:
    """A peer's server."""

    def __init__(self, peer: Peer, pid: int, port: int) -> None:
        self.peer = peer
        self.pid = pid
        self.port = port
        #: Where clients open streams: a proxy's, if there is one, whose processes are these.
        self.clients = port
        self.proxies: list[int] = []

    def cpu(self) -> float:
        """Return the seconds of CPU of the server, and of its proxy."""
        return sum(map(cpu, [self.pid, *self.proxies]))

    def get(self, path: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        if response.status >= 400:
            raise RuntimeError(f"{self.peer.name}: {path} answers {response.status}")
        return response

    def send(self, count: int, rate: float = 0, size: int = 0, query: str = "") -> None:
        """Let the server send events, from one thread of its own; for nginx a thread here does."""
        if self.peer.server == "nginx":
            threading.Thread(target=self._post, args=[count, rate, size], daemon=True).start()
        else:
            self.get(f"{self.peer.sender}?count={count}&rate={rate}&size={size}{query}")

    def _post(self, count: int, rate: float, size: int) -> None:
        if (core := cores()[0]) is not None:
            os.sched_setaffinity(0, {core})  # this thread's
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        started = time.monotonic()
        for number in range(count):
            if rate:
                time.sleep(max(0.0, started + number / rate - time.monotonic()))
            data = {"t": time.monotonic_ns(), "n": number, "padding": "x" * size}
            connection.request("POST", "/publish/", json.dumps(data))
            connection.getresponse().read()
        connection.close()


@contextlib.contextmanager
def serve(peer: Peer, variables: services.Variables | None = None) -> Iterator[Running]:
    """Run a peer's server on the server's core, and what it needs; ``variables`` are settings."""
    with contextlib.ExitStack() as stack:
        given = dict(peer.settings)
        for need in peer.needs:
            given.update(stack.enter_context(services.SERVICES[need]()))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        proxy = None
        if peer.proxy:
            proxy = stack.enter_context(services.pushpin(port))
            given["BENCHMARK_GRIP"] = proxy.control_uri
        if peer.server == "nginx":
            pid = stack.enter_context(services.nchan(port))
        else:
            pid = stack.enter_context(_serve(peer, port, {**given, **(variables or {})}))
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            if time.monotonic() > deadline or not is_alive(pid):
                raise RuntimeError(f"{peer.name} did not start")
            time.sleep(0.05)
        running = Running(peer, pid, port)
        if proxy:
            running.clients, running.proxies = proxy.port, proxy.pids
        yield running


@contextlib.contextmanager
def serve_many(peer: Peer, processes: int) -> Iterator[list[Running]]:
    """Run several servers, one process each, that share what they need."""
    with contextlib.ExitStack() as stack:
        given: services.Variables = {}
        for need in peer.needs:
            given.update(stack.enter_context(services.SERVICES[need]()))
        alone = replace(peer, needs=())
        yield [stack.enter_context(serve(alone, given)) for _ in range(processes)]


@contextlib.contextmanager
def _serve(peer: Peer, port: int, variables: services.Variables) -> Iterator[int]:
    python = environment(peer.venv)
    with tempfile.TemporaryDirectory() as folder, open(Path(folder, "log"), "wb") as log:
        variables = {
            **os.environ,
            # This folder's package, whichever the virtual environment was made from.
            "PYTHONPATH": os.pathsep.join([str(HERE / "sites"), *peer.sources]),
            "DJANGO_SETTINGS_MODULE": "project.settings",
            "BENCHMARK_DATABASE": f"{folder}/benchmark.sqlite3",
            **variables,
        }
        if peer.application.startswith("project"):
            migrate = [python, "-m", "django", "migrate", "-v0"]
            subprocess.run(migrate, env=variables, check=True, cwd=folder)
        with services.on_the_servers_core():
            popen = subprocess.Popen(
                [python, "-m", *_command(peer.server, peer.application, port)],
                env=variables,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            yield popen.pid
        except BaseException:
            print(Path(folder, "log").read_text()[-2000:], file=sys.stderr)
            raise
        finally:
            for each in family(popen.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
            popen.wait()
