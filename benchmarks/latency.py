"""From the call of send_event to a client, one stream: what the way through a broker takes."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from operator import sub
from urllib.request import urlopen

from .client import Client
from .peers import FLOOR, NATIVE, PEERS, Peer, serve_many
from .processes import POSTGRESQL, REDIS

BASELINE = "floor"
RATIOS = ("p50 ms",)
SMALL = {"events": 20}
NOT_SHOWN = """
The time begins before send_event is called, so with storage it has the commit in it, which does
not wait for the disk; "from commit" begins after it. "To another process" means that one process
sends and another one has the stream. Not shown: networks, and the load of other streams, for which
see fanout and processes."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--events", type=int, default=200)
    parser.add_argument("--rate", type=float, default=40, help="events a second")


def cases(options: argparse.Namespace) -> dict[str, Callable[[Client], dict[str, float]]]:
    one = partial(_measure, options=options, processes=1)
    two = partial(_measure, options=options, processes=2)
    found = {
        "floor": partial(one, peer=FLOOR),
        "native": partial(one, peer=NATIVE),
        "native, SQLite": partial(one, peer=PEERS["native, storage"]),
        "native, PostgreSQL": partial(one, peer=PEERS["native, PostgreSQL"]),
        "to another process, Redis": partial(two, peer=REDIS),
        "to another process, PostgreSQL": partial(two, peer=POSTGRESQL),
    }
    if "Pushpin" in PEERS:
        found["through Pushpin"] = partial(one, peer=PEERS["Pushpin"])
    return found


def _measure(
    client: Client, *, peer: Peer, options: argparse.Namespace, processes: int
) -> dict[str, float]:
    is_stored = "BENCHMARK_STORAGE" in peer.settings
    if is_stored:
        peer = replace(peer, settings={**peer.settings, "BENCHMARK_COMMITS": "1"})
    with serve_many(peer, processes) as servers:
        client.open(servers[-1].clients, peer.path, 1, marker=peer.marker)
        client.start_reading(3)
        servers[0].send(3, 50)
        client.result()
        client.start_reading(options.events)
        servers[0].send(options.events, options.rate)
        reading = client.result()
        client.close_streams()
        delays = []
        if is_stored:
            with urlopen(f"http://127.0.0.1:{servers[0].port}/commits/") as response:
                delays = json.load(response)[3:]
    latencies = sorted(reading.latencies)
    row = {
        "delivered": reading.received[0] / options.events,
        "p50 ms": statistics.median(latencies) * 1e3,
        "p99 ms": latencies[int(len(latencies) * 0.99)] * 1e3,
        "longest ms": latencies[-1] * 1e3,
    }
    if is_stored:
        since = sorted(map(sub, reading.latencies, delays))
        row["p50 ms from commit"] = statistics.median(since) * 1e3
        row["p99 ms from commit"] = since[int(len(since) * 0.99)] * 1e3
    return row
