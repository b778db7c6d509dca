"""A private Pushpin, in front of a site of the tests."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import re
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.databases import find_program
from tests.processes import Process, free_port, wait_until

#: A path that only a starting proxy is asked for.
PROBE = "/.proxy-is-ready"

_CONFIG = """\
[global]
include={{libdir}}/internal.conf
rundir={folder}/run

[runner]
services=condure,pushpin-proxy,pushpin-handler
http_port={port}
logdir={folder}/log
log_level={log_level}
client_buffer_size=8192
client_maxconn=5000

[proxy]
routesfile=routes
sig_iss=pushpin
sig_key={sig_key}
zurl_out_specs=ipc://{folder}/zurl-in
zurl_out_stream_specs=ipc://{folder}/zurl-in-stream
zurl_in_specs=ipc://{folder}/zurl-out

[handler]
push_in_spec=ipc://{folder}/push-in
push_in_sub_specs=ipc://{folder}/push-in-sub
push_in_http_addr=127.0.0.1
push_in_http_port={control_port}
push_in_http_max_headers_size=10000
push_in_http_max_body_size=1000000
command_spec=ipc://{folder}/command
connection_subscription_max=20
message_rate={message_rate}
message_hwm=25000
message_wait=5000
id_cache_ttl=60
"""

_ZURL_CONFIG = """\
[General]
in_spec=ipc://{folder}/zurl-in
in_stream_spec=ipc://{folder}/zurl-in-stream
out_spec=ipc://{folder}/zurl-out
in_req_spec=ipc://{folder}/zurl-req
defpolicy=allow
max_open_requests=2000
buffer_size=200000
timeout=600
in_hwm=1000
out_hwm=1000
"""


class Pushpin:
    """The proxy, which listens for clients on ``port`` and for publishers on ``control_port``."""

    def __init__(
        self, folder: Path, target: int, sig_key: str, log_level: int, message_rate: int
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.control_port = free_port()
        for name in ("run", "log"):
            (folder / name).mkdir()
        values = {
            "folder": folder,
            "port": self.port,
            "control_port": self.control_port,
            "sig_key": sig_key,
            "log_level": log_level,
            "message_rate": message_rate,
        }
        (folder / "pushpin.conf").write_text(_CONFIG.format(**values))
        (folder / "zurl.conf").write_text(_ZURL_CONFIG.format(**values))
        self._target = target
        self._processes: list[Process] = []

    @property
    def control_uri(self) -> str:
        """Where publishers connect."""
        return f"http://127.0.0.1:{self.control_port}"

    @property
    def push_spec(self) -> str:
        """Where publishers connect that use ZeroMQ."""
        return f"ipc://{self.folder}/push-in"

    @property
    def pids(self) -> list[int]:
        """Its processes, which have children."""
        return [process.popen.pid for process in self._processes]

    def start(self) -> None:
        """Start it, and wait until it takes clients and publishers."""
        zurl = [find_program("zurl"), f"--config={self.folder / 'zurl.conf'}"]
        pushpin = [find_program("pushpin"), f"--config={self.folder / 'pushpin.conf'}", "-m"]
        # Its parts connect some time after it takes requests: what comes earlier can be lost.
        with _probe() as port:
            routes = f"*,path_beg={PROBE} 127.0.0.1:{port}\n* 127.0.0.1:{self._target}\n"
            (self.folder / "routes").write_text(routes)
            self._processes = [Process(zurl), Process(pushpin)]
            wait_until(self._holds, alive=self._processes[1])
        wait_until(lambda: _answers(self.control_port), alive=self._processes[1])

    def _holds(self) -> bool:
        """Return whether a stream can be held now."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
        try:
            connection.request("GET", PROBE)
            return connection.getresponse().read1(5) == b"ready"
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def kill(self) -> None:
        """End it, without a word to anybody."""
        for process in self._processes:
            process.kill()
            process.forget()
        self._processes = []

    def requests(self, pattern: str) -> list[str]:
        """Return the requests that it made to the site, those that match a pattern."""
        # As zurl, which makes them, logs them.
        found = re.findall(r"IN id=\S+ GET http://[^/ ]+(/\S*)", self.output())
        return [path for path in found if re.search(pattern, path)]

    def output(self) -> str:
        """Return its log."""
        return "".join(process.output() for process in self._processes)


@contextlib.contextmanager
def pushpin(
    target: int = 1, *, sig_key: str = "changeme", log_level: int = 2, message_rate: int = 2500
) -> Iterator[Pushpin]:
    """Run Pushpin in front of the site on the port ``target``; by default as it is packaged."""
    # A short path: those of sockets have 107 bytes at most.
    folder = Path(tempfile.mkdtemp(prefix="pushpin-", dir="/tmp"))
    proxy = Pushpin(folder, target, sig_key, log_level, message_rate)
    try:
        proxy.start()
        yield proxy
    finally:
        proxy.kill()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _probe() -> Iterator[int]:
    """Serve a stream to be held, on the port that is returned."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            for header in ("Grip-Hold: stream", "Grip-Channel: ready", "Content-Length: 5"):
                self.send_header(*header.split(": "))
            self.end_headers()
            self.wfile.write(b"ready")

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=[0.02]).start()
        try:
            yield server.server_port
        finally:
            server.shutdown()


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
