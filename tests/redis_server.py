"""Private Redis servers for tests: single ones, Clusters, and masters that Sentinel watches.

Each lives in a temporary folder, listens on a free port of the loopback interface, is stopped by
its process id, and can be killed, paused and started again on the same port.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from tests.databases import find_program
from tests.processes import Process, free_port, wait_until

#: What a server that is not there yet, or not ready, answers with.
NOT_READY = (redis.ConnectionError, redis.TimeoutError)


class RedisServer:
    """One server; its data survive a restart if it is persistent, and a kill too."""

    def __init__(self, folder: Path, *, persistent: bool = False, **options: Any) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        #: As version 5.3.4's settings name it.
        self.connection: dict[str, Any] = {"host": "127.0.0.1", "port": self.port, "db": 0}
        folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "port": self.port,
            "bind": "127.0.0.1",
            "dir": folder,
            "save": "",
            "appendonly": "yes" if persistent else "no",
            "loglevel": "warning",
            **{name.replace("_", "-"): value for name, value in options.items()},
        }
        self._command = [find_program("redis-server")]
        for name, value in settings.items():
            words = value if isinstance(value, tuple) else (value,)
            self._command += [f"--{name}", *map(str, words)]
        self.process: Process = self.start()

    def start(self) -> Process:
        """Start the server, and wait until it answers."""
        self.process = Process(self._command)
        try:
            wait_until(self.is_ready, alive=self.process)
        except BaseException:
            self.kill()
            raise
        return self.process

    def is_ready(self) -> bool:
        with self.client() as client, contextlib.suppress(*NOT_READY):
            return bool(client.ping())
        return False

    def client(self) -> redis.Redis:
        """Return a client of its own; close it."""
        return redis.Redis(**self.connection, socket_timeout=5, decode_responses=True)

    def command(self, *arguments: Any) -> Any:
        """Have the server do something."""
        with self.client() as client:
            return client.execute_command(*arguments)

    def info(self) -> dict[str, Any]:
        with self.client() as client:
            return dict(client.info("everything"))

    def kill(self) -> None:
        """End the server at once."""
        self.process.kill()
        self.process.forget()

    def restart(self) -> None:
        """Kill the server if it runs, and start it on the same port."""
        if self.process.popen.poll() is None:
            self.kill()
        self.start()

    def pause(self) -> None:
        """Let the server hang: connections stay, and are not answered."""
        os.kill(self.process.popen.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.process.popen.pid, signal.SIGCONT)


class RedisCluster:
    """Servers that share the slots of a Cluster."""

    def __init__(self, nodes: list[RedisServer]) -> None:
        self.nodes = nodes
        self.port = nodes[0].port
        self.url = f"redis://127.0.0.1:{self.port}"
        #: A configuration as the settings take it.
        self.connection: dict[str, Any] = {"host": "127.0.0.1", "port": self.port, "cluster": True}

    def node_of(self, key: str) -> RedisServer:
        """Return the node that holds a key."""
        slot = self.nodes[0].command("CLUSTER", "KEYSLOT", key)
        return self.nodes[slot * len(self.nodes) // 16384]


class RedisSentinel:
    """A master, its replica, and sentinels that watch them."""

    service_name = "main"

    def __init__(self, servers: list[RedisServer], sentinels: list[RedisServer]) -> None:
        self.servers = servers
        self.sentinels = sentinels
        #: A configuration as the settings take it.
        self.connection: dict[str, Any] = {
            "sentinels": [("127.0.0.1", sentinel.port) for sentinel in sentinels],
            "service_name": self.service_name,
        }

    def master(self) -> RedisServer:
        """Return the server that the sentinels name."""
        _, port = self.sentinels[0].command(
            *("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service_name)
        )
        (server,) = (server for server in self.servers if server.port == int(port))
        return server

    def fail_over(self) -> RedisServer:
        """Kill the master, and return the replica that has taken its place."""
        old = self.master()
        old.kill()
        wait_until(lambda: self.master() is not old, timeout=30)
        new = self.master()
        wait_until(lambda: new.info()["role"] == "master")
        return new


@contextlib.contextmanager
def redis_server(*, persistent: bool = False, **options: Any) -> Iterator[RedisServer]:
    """Run one server; ``options`` are those of ``redis.conf``, with underscores."""
    with _folder() as folder, _running(RedisServer(folder, persistent=persistent, **options)) as it:
        yield it


@contextlib.contextmanager
def redis_cluster(nodes: int = 1) -> Iterator[RedisCluster]:
    """Run a Cluster of masters."""
    with _folder() as folder, contextlib.ExitStack() as stack:
        bus_ports = [free_port() for _ in range(nodes)]
        servers = [
            stack.enter_context(
                _running(
                    RedisServer(
                        folder / str(number),
                        cluster_enabled="yes",
                        cluster_port=bus_port,
                        cluster_node_timeout=2000,
                    )
                )
            )
            for number, bus_port in enumerate(bus_ports)
        ]
        for number, server in enumerate(servers):
            first, end = -(-16384 * number // nodes), -(-16384 * (number + 1) // nodes)
            server.command("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
            if number:
                servers[0].command("CLUSTER", "MEET", "127.0.0.1", server.port, bus_ports[number])

        def is_whole() -> bool:
            wanted = {
                "cluster_state:ok",
                "cluster_slots_assigned:16384",
                f"cluster_known_nodes:{nodes}",
            }
            return all(wanted <= set(node.command("CLUSTER", "INFO").split()) for node in servers)

        wait_until(is_whole)
        yield RedisCluster(servers)


@contextlib.contextmanager
def redis_sentinel(sentinels: int = 1) -> Iterator[RedisSentinel]:
    """Run a master, a replica, and sentinels that fail over after three seconds."""
    with _folder() as folder, contextlib.ExitStack() as stack:
        options: dict[str, Any] = {"repl_diskless_sync_delay": 0}
        master = stack.enter_context(_running(RedisServer(folder / "master", **options)))
        replica = stack.enter_context(
            _running(
                RedisServer(folder / "replica", replicaof=("127.0.0.1", master.port), **options)
            )
        )
        wait_until(lambda: replica.info()["master_link_status"] == "up")
        watching = [
            stack.enter_context(
                _running(_Sentinel(folder / f"sentinel-{number}", master.port, sentinels))
            )
            for number in range(sentinels)
        ]

        def know_each_other() -> bool:
            for sentinel in watching:
                answer = sentinel.command("SENTINEL", "MASTER", RedisSentinel.service_name)
                if not isinstance(answer, dict):  # until redis-py 8
                    answer = dict(zip(answer[::2], answer[1::2], strict=True))
                known = int(answer["num-slaves"]), int(answer["num-other-sentinels"])
                if known != (1, sentinels - 1):
                    return False
            return True

        wait_until(know_each_other)
        yield RedisSentinel([master, replica], watching)


class _Sentinel(RedisServer):
    def __init__(self, folder: Path, master_port: int, sentinels: int) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self.connection = {"host": "127.0.0.1", "port": self.port}
        folder.mkdir()
        name = RedisSentinel.service_name
        config = folder / "sentinel.conf"  # a sentinel writes what it learns to its file
        config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor {name} 127.0.0.1 {master_port} {sentinels // 2 + 1}\n"
            # Not sooner: a busy machine may keep a server waiting, and what is published while
            # nobody can be asked for the master is a gap.
            f"sentinel down-after-milliseconds {name} 3000\n"
            f"sentinel failover-timeout {name} 3000\n"
        )
        self._command = [find_program("redis-server"), str(config), "--sentinel"]
        self.process = self.start()


@contextlib.contextmanager
def _running(server: RedisServer) -> Iterator[RedisServer]:
    try:
        yield server
    finally:
        if server.process.popen.poll() is None:
            server.kill()


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="eventstream-redis-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
