"""All clients reconnect at once, each of them behind."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from .client import Client
from .connect import connect
from .measure import cpu
from .peers import PEERS, Peer, serve

BASELINE = "native, storage"
RATIOS = ()
SMALL = {"clients": 300}
NOT_SHOWN = """
Clients are 100 events behind on one of 10 channels, and all connect at once; the time is until each
has got all of them. "Cold" is a process that never had a stream, "warm" one where others are open.
"Exactly once" is the share of clients that got each event once. Not shown: TLS, and clients that
come back spread over seconds, as this package asks them to."""

CHANNELS = 10


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--behind", type=int, default=100, help="events each of them missed")


def cases(options: argparse.Namespace) -> dict[str, Callable[[Client], dict[str, float]]]:
    def case(peer: Peer, *, warm: bool) -> Callable[[Client], dict[str, float]]:
        return lambda client: storm(client, peer, options.clients, options.behind, warm=warm)

    found: dict[str, Callable[[Client], dict[str, float]]] = {}
    for name in ("native, storage", "native, PostgreSQL", "Channels, storage"):
        counted = replace(PEERS[name], settings={**PEERS[name].settings, "BENCHMARK_READS": "1"})
        for warm in (False, True):
            found[f"{name}, {'warm' if warm else 'cold'}"] = case(counted, warm=warm)
        found[f"{name}, nothing missed"] = lambda client, peer=PEERS[name]: connect(
            client, peer, streams=options.clients, session=False
        )
    return found


def storm(client: Client, peer: Peer, clients: int, behind: int, *, warm: bool) -> dict[str, float]:
    with serve(peer) as server:
        names = [f"storm-{number}" for number in range(CHANNELS)]
        if warm:
            for name in names:
                client.open(server.port, f"/events/?channel={name}", 1, marker=peer.marker)
        query = "".join(f"&channel={name}" for name in names)
        server.get(f"/send/?count={behind * CHANNELS}&rate=0&size=0&wait=1{query}")
        requests = [
            (f"/events/?channel={name}", f"Last-Event-ID: {name}:0\r\n")
            for name in (names[number % CHANNELS] for number in range(clients))
        ]
        reads = int(server.get("/reads/").getheader("X-Reads", "0"))
        before = cpu(server.pid)
        seconds, ids = client.catch_up(server.port, requests, behind, at_once=clients)
        used = cpu(server.pid) - before
        reads = int(server.get("/reads/").getheader("X-Reads", "0")) - reads
        client.close_streams()
    wanted = Counter(range(1, behind + 1))
    return {
        "streams per second": clients / seconds,
        "events per second": clients * behind / seconds,
        "ms CPU per stream": used / clients * 1e3,
        "storage queries": reads,
        "exactly once": sum(Counter(got) == wanted for got in ids) / clients,
    }
