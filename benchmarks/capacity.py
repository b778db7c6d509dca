"""What a stream costs to open, to hold and to write to: the unit costs of a capacity model."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

from .client import Client
from .measure import memory
from .peers import FLOOR, PEERS, Peer, Running, serve

BASELINE = "floor"
RATIOS = ("KB per stream", "ms CPU to open", "µs CPU per delivery")
NAMES = ("native, storage", "Channels, storage", "Pushpin", "nchan")
SMALL = {"streams": 150, "events": 5, "rate": 10}
NOT_SHOWN = """
Memory is that of the processes (PSS), without what the kernel has for each socket, a few KB when
idle. Pushpin's figures are those of the proxy and of the project together: opening goes through
both. Not shown: TLS, which the proxy in front of either ends."""

#: Streams that are there before memory is read: what the first ones import is not theirs.
FIRST = 100


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--events", type=int, default=20)
    parser.add_argument("--rate", type=float, default=4, help="events a second")


def cases(options: argparse.Namespace) -> dict[str, Callable[[Client], dict[str, float]]]:
    peers = [FLOOR, *(PEERS[name] for name in NAMES if name in PEERS)]
    return {peer.name: partial(_measure, peer=peer, options=options) for peer in peers}


def _measure(client: Client, *, peer: Peer, options: argparse.Namespace) -> dict[str, float]:
    more = options.streams - FIRST
    with serve(peer) as server:
        client.open(server.clients, peer.path, FIRST, marker=peer.marker)
        held, used = _memory(server), server.cpu()
        client.open(server.clients, peer.path, more, marker=peer.marker)
        opened = server.cpu()
        grown = _memory(server)
        client.start_reading(3)
        server.send(3, 10)
        client.result()
        before = server.cpu()
        client.start_reading(options.events)
        server.send(options.events, options.rate)
        reading = client.result()
        after = server.cpu()
        client.close_streams()
    delivered = sum(min(count, options.events) for count in reading.received)
    return {
        "delivered": delivered / (options.streams * options.events),
        "KB per stream": (grown - held) / more,
        "ms CPU to open": (opened - used) / more * 1e3,
        "µs CPU per delivery": (after - before) / max(1, delivered) * 1e6,
        "client's core": reading.busy,
    }


def _memory(server: Running) -> float:
    return sum(memory(pid)["PSS"] for pid in [server.pid, *server.proxies])
