"""What a peer may need beside its server: PostgreSQL, Redis, Pushpin; and nginx with nchan.

They run on the server's core. What PostgreSQL and Redis use is not counted as the server's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests import databases, redis_server
from tests.pushpin import Pushpin
from tests.pushpin import pushpin as run_pushpin

from .measure import cores

Variables = dict[str, str]
NCHAN_MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")


@contextlib.contextmanager
def on_the_servers_core() -> Iterator[None]:
    """Start processes there."""
    available = os.sched_getaffinity(0)
    core, _ = cores()
    if core is not None:
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, available)


@contextlib.contextmanager
def postgresql() -> Iterator[Variables]:
    """Run PostgreSQL; give what tells the project of it. It does not wait for the disk."""
    with contextlib.ExitStack() as stack:
        with on_the_servers_core():
            server = stack.enter_context(databases.postgresql())
        yield {"BENCHMARK_POSTGRESQL": str(server.port), "BENCHMARK_DATABASE": "postgres"}


@contextlib.contextmanager
def redis() -> Iterator[Variables]:
    """Run Redis; give what tells the project of it."""
    with tempfile.TemporaryDirectory() as folder:
        with on_the_servers_core():
            server = redis_server.RedisServer(Path(folder))
        try:
            yield {"BENCHMARK_REDIS": server.url}
        finally:
            server.kill()


SERVICES = {"postgresql": postgresql, "redis": redis}


def has_pushpin() -> bool:
    return all(shutil.which(program) for program in ("pushpin", "zurl"))


@contextlib.contextmanager
def pushpin(target: int) -> Iterator[Pushpin]:
    """Run Pushpin in front of a port, without a limit to what it delivers in a second."""
    with contextlib.ExitStack() as stack:
        with on_the_servers_core():
            proxy = stack.enter_context(run_pushpin(target, message_rate=1_000_000))
        yield proxy


def has_nchan() -> bool:
    return NCHAN_MODULE.exists() and shutil.which("nginx", path="/usr/sbin:/usr/bin") is not None


@contextlib.contextmanager
def nchan(port: int) -> Iterator[int]:
    """Run nginx with nchan; give its process id. Events are posted to ``/publish/``."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "nginx.conf")
        config.write_text(f"""
load_module {NCHAN_MODULE};
{"user root;" if os.geteuid() == 0 else ""}
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 20000; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    nchan_message_buffer_length 1000;
    server {{
        listen 127.0.0.1:{port};
        location /events/ {{ nchan_subscriber eventsource; nchan_channel_id test; }}
        location /publish/ {{ nchan_publisher; nchan_channel_id test; }}
    }}
}}
""")
        with on_the_servers_core():
            # -e: what it has to say before it has read the configuration
            popen = subprocess.Popen(
                ["/usr/sbin/nginx", "-c", str(config), "-e", f"{folder}/error.log"],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        try:
            yield popen.pid
        finally:
            popen.send_signal(signal.SIGTERM)
            popen.wait()
