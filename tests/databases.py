"""Private database servers for tests, and a command that runs another one beside such a server.

    python -m tests.databases postgresql [--isolation REPEATABLE_READ] pytest -m database

A server lives in a temporary folder, listens on a free port of the loopback interface, and is
stopped by its process id.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.processes import Process, free_port, wait_until


class NotInstalled(Exception):
    """The server program is missing."""


def find_program(*names: str) -> str:
    """Return the path of the first program that is there."""
    folders = ["/usr/sbin", "/usr/bin", *sorted(glob.glob("/usr/lib/postgresql/*/bin"))[::-1]]
    path = os.pathsep.join([*folders, os.environ.get("PATH", "")])
    for name in names:
        if found := shutil.which(name, path=path):
            return os.path.realpath(found) if "postgresql" in os.path.realpath(found) else found
    raise NotInstalled(f"{names[0]} is not installed")


@contextlib.contextmanager
def postgresql() -> Iterator[Server]:
    """Run PostgreSQL, with the user ``postgres``."""
    import psycopg  # not needed for the others

    initdb, postgres = find_program("initdb"), find_program("postgres")
    with _folder("postgres") as (folder, user):
        data = folder / "data"
        _run([initdb, "-D", str(data), "-U", "postgres", "--auth=trust", "-N"], user)
        port = free_port()
        options = {
            "port": port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": folder,
            "fsync": "off",
            "max_connections": 100,
        }
        arguments = [part for name in options for part in ("-c", f"{name}={options[name]}")]
        command = [postgres, "-D", str(data), *arguments]

        def is_ready() -> bool:
            try:
                psycopg.connect(host="127.0.0.1", port=port, user="postgres").close()
            except psycopg.OperationalError:
                return False
            return True

        # SIGINT ends the clients' connections, SIGTERM would wait for them.
        yield from _serve(Server(port, command, is_ready, user=user, stop=signal.SIGINT))


@contextlib.contextmanager
def mariadb() -> Iterator[Server]:
    """Run MariaDB, with the user ``eventstream`` and the database ``test``."""
    install = find_program("mariadb-install-db", "mysql_install_db")
    daemon, client = find_program("mariadbd", "mysqld"), find_program("mariadb", "mysql")
    with _folder("mysql") as (folder, user):
        data, socket = folder / "data", folder / "socket"
        _run(
            [
                install,
                "--no-defaults",
                f"--datadir={data}",
                "--auth-root-authentication-method=normal",
                *([f"--user={user}"] if user else []),
            ]
        )
        port = free_port()
        command = [
            daemon,
            "--no-defaults",
            f"--datadir={data}",
            f"--socket={socket}",
            f"--port={port}",
            "--bind-address=127.0.0.1",
            f"--pid-file={folder / 'pid'}",
            "--innodb-flush-log-at-trx-commit=0",
            "--character-set-server=utf8mb4",
            *([f"--user={user}"] if user else []),
        ]
        login = [client, "--no-defaults", f"--socket={socket}", "-uroot"]

        def is_ready() -> bool:
            ping = subprocess.run([*login, "-e", "SELECT 1"], capture_output=True)
            return ping.returncode == 0

        for server in _serve(Server(port, command, is_ready)):
            _run(
                [
                    *login,
                    "-e",
                    "CREATE OR REPLACE USER eventstream@'127.0.0.1' IDENTIFIED BY 'eventstream';"
                    "GRANT ALL ON *.* TO eventstream@'127.0.0.1';"
                    "CREATE OR REPLACE DATABASE test CHARACTER SET utf8mb4",
                ]
            )
            yield server


@contextlib.contextmanager
def pgbouncer(server_port: int) -> Iterator[int]:
    """Run pgbouncer in transaction mode before PostgreSQL; give its port."""
    program = find_program("pgbouncer")
    with _folder("postgres") as (folder, user):
        port = free_port()
        config = folder / "pgbouncer.ini"
        config.write_text(
            f"""[databases]
* = user=postgres host=127.0.0.1 port={server_port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
"""
        )
        config.chmod(0o644)

        def is_ready() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        with Process([program, str(config)], user=user) as process:
            wait_until(is_ready, alive=process)
            yield port


class Server:
    """A database server, which can be stopped, killed and started again."""

    def __init__(
        self,
        port: int,
        command: list[str],
        is_ready: Callable[[], bool],
        *,
        user: str | None = None,
        stop: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.port = port
        self._command = command
        self._user = user
        self._stop = stop
        self._is_ready = is_ready
        self._process: Process | None = None

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        deadline = time.monotonic() + 60
        while True:
            self._process = Process(self._command, user=self._user, stop=self._stop)
            try:
                wait_until(self._is_ready, timeout=60, alive=self._process)
                return
            except AssertionError:
                # Killed, it leaves children that take a moment to notice, and holds to its place.
                if self._process.popen.poll() is None or time.monotonic() > deadline:
                    raise
                self._process.forget()
                time.sleep(0.2)

    def stop(self) -> None:
        """Have the server end, and wait until it has."""
        if self._process is not None:
            self._process.__exit__()
            self._process = None

    def kill(self) -> None:
        """End the server at once, by SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.forget()
        self._process = None


SERVERS: dict[str, Callable[[], contextlib.AbstractContextManager[Server]]] = {
    "postgresql": postgresql,
    "mariadb": mariadb,
}


def _serve(server: Server) -> Iterator[Server]:
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def _folder(account: str) -> Iterator[tuple[Path, str | None]]:
    """Make a folder for a server; as root for its own account, for it refuses to run as root."""
    folder = Path(tempfile.mkdtemp(prefix=f"eventstream-{account}-"))
    user = account if os.geteuid() == 0 else None
    try:
        if user:
            shutil.chown(folder, user)
        yield folder, user
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(command: list[str], user: str | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, user=user, cwd="/")
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stdout}{done.stderr}")


def main(arguments: list[str]) -> int:
    """Start the server that the first argument names and run the others as a command."""
    backend, *command = arguments
    isolation = ""
    if command[0] == "--isolation":
        _, isolation, *command = command
    if command[0] in ("pytest", "coverage"):
        command = [sys.executable, "-m", *command]
    with SERVERS[backend]() as server:
        environment = {
            **os.environ,
            "EVENTSTREAM_TEST_DATABASE": backend,
            "EVENTSTREAM_TEST_DATABASE_PORT": str(server.port),
            "EVENTSTREAM_TEST_ISOLATION": isolation,
        }
        return subprocess.run(command, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
