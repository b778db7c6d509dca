"""What streams cost on which nothing is sent."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from .client import Client
from .connect import log_in
from .measure import cpu, memory, open_files, threads
from .peers import PEERS, Peer, serve

BASELINE = "floor"
RATIOS = ("µs CPU per keep-alive",)
SMALL = {"streams": 1000, "seconds": 6.0}
NOT_SHOWN = """
Not shown: what the kernel holds for each connection, and TLS. Memory is the process's PSS with the
streams less that before, and so includes what the allocator keeps of opening them. Keep-alives come
every two seconds here, by default every 20."""

NAMES = [
    *("bare Django", "native", "native, storage", "Channels", "Channels, storage"),
    *("5.3.4 native", "5.3.4 native, storage"),
]
#: Seconds between keep-alives.
INTERVAL = 2


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--streams", type=int, default=4000)
    parser.add_argument("--seconds", type=float, default=10, help="for which CPU is measured")


def cases(options: argparse.Namespace) -> dict[str, Callable[[Client], dict[str, float]]]:
    def case(peer: Peer, *, session: bool = False) -> Callable[[Client], dict[str, float]]:
        return lambda client: idle(
            client, peer, streams=options.streams, seconds=options.seconds, session=session
        )

    found = {name: case(PEERS[name]) for name in ["floor", *NAMES]}
    for name in NAMES:
        if name.endswith("storage") and not name.startswith("5.3.4"):
            found[f"{name}, session"] = case(PEERS[name], session=True)
    return found


def idle(
    client: Client, peer: Peer, *, streams: int, seconds: float, session: bool
) -> dict[str, float]:
    """Hold so many streams open for so many seconds."""
    with serve(peer, {"BENCHMARK_KEEP_ALIVE": str(INTERVAL)}) as server:
        headers = log_in(server) if session else ""
        # What is imported, or started, for the first streams is not counted.
        client.open(server.port, peer.path, 50, headers=headers, marker=peer.marker)
        client.close_streams()
        time.sleep(1)
        memory_before = memory(server.pid)["PSS"]
        client.open(server.port, peer.path, streams, headers=headers, marker=peer.marker)
        time.sleep(7)  # threads that are not needed any more have ended
        held = memory(server.pid)["PSS"] - memory_before
        row = {
            "KB per stream": held / streams,
            "threads": float(threads(server.pid)),
            "open database files": float(
                sum(".sqlite3" in name for name in open_files(server.pid))
            ),
        }
        if peer.name == "bare Django":  # which sends none
            client.close_streams()
            return row
        client.start_reading(1, quiet=seconds)  # so that the client takes what comes
        before, started = cpu(server.pid), time.monotonic()
        time.sleep(seconds)
        used, passed = cpu(server.pid) - before, time.monotonic() - started
        row["µs CPU per keep-alive"] = used / passed * INTERVAL / streams * 1e6
    client.result()
    client.close_streams()
    return row
