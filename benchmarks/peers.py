"""What is measured side by side: each in a virtual environment and a process of its own."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

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


def cores() -> tuple[int | None, int | None]:
    """Return the server's core and the client's, or None where there is only one."""
    available = sorted(os.sched_getaffinity(0))
    return (available[0], available[1]) if len(available) > 1 else (None, None)


def environment(name: str) -> Path:
    """Return the Python of a virtual environment, which is made if need be."""
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


@dataclass(frozen=True)
class Peer:
    """Something that streams."""

    name: str
    venv: str = "ours"
    application: str = "project.asgi:application"
    path: str = "/events/?channel=test"
    server: str = "uvicorn"
    settings: dict[str, str] = field(default_factory=dict)


STORAGE = {"BENCHMARK_STORAGE": "1"}
CHANNELS = "project.asgi:through_channels"
FLOOR = Peer("floor", application="floor:application", path="/events/")
PEERS = {
    peer.name: peer
    for peer in [
        FLOOR,
        Peer("native"),
        Peer("native, storage", settings=STORAGE),
        Peer("Channels", application=CHANNELS),
        Peer("Channels, storage", application=CHANNELS, settings=STORAGE),
        Peer("5.3.4 native", "5.3.4"),
        Peer("5.3.4 native, storage", "5.3.4", settings=STORAGE),
        Peer("sse-starlette", "sse-starlette", "queues:application", "/events/"),
    ]
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

    def __init__(self, peer: Peer, popen: subprocess.Popen[bytes], port: int) -> None:
        self.peer = peer
        self.pid = popen.pid
        self.port = port

    def get(self, path: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        if response.status >= 400:
            raise RuntimeError(f"{self.peer.name}: {path} answers {response.status}")
        return response

    def send(self, count: int, rate: float = 0, size: int = 0, query: str = "") -> None:
        """Let the server send events, from one thread of its own."""
        self.get(f"/send/?count={count}&rate={rate}&size={size}{query}")


@contextlib.contextmanager
def serve(peer: Peer) -> Iterator[Running]:
    """Run a peer's server on the server's core."""
    python = environment(peer.venv)
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        variables = {
            **os.environ,
            "PYTHONPATH": str(HERE / "sites"),
            "DJANGO_SETTINGS_MODULE": "project.settings",
            "BENCHMARK_DATABASE": f"{folder}/benchmark.sqlite3",
            **peer.settings,
        }
        if peer.application.startswith("project"):
            migrate = [python, "-m", "django", "migrate", "-v0"]
            subprocess.run(migrate, env=variables, check=True, cwd=folder)
        core, _ = cores()
        with open(Path(folder, "log"), "wb") as log:
            popen = subprocess.Popen(
                [python, "-m", *_command(peer.server, peer.application, port)],
                env=variables,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=None if core is None else (lambda: os.sched_setaffinity(0, {core})),
            )
        try:
            deadline = time.monotonic() + 30
            while True:
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                if popen.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(
                        f"{peer.name} did not start:\n{Path(folder, 'log').read_text()}"
                    )
                time.sleep(0.05)
            yield Running(peer, popen, port)
        finally:
            popen.send_signal(signal.SIGKILL)
            popen.wait()
