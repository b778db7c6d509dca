"""One event to many streams, paced."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial

from .client import Client
from .peers import BASELINES, PEERS, Peer, serve_many

__all__ = ["BASELINES"]
BASELINE = "floor"
RATIOS = ("µs CPU per delivery", "p99 ms")
SMALL = {"streams": 50, "events": 20, "rate": 50}
NOT_SHOWN = """
Not shown: what TLS, proxies and slow networks cost, and clients that read slowly. CPU is the
server's user and system time, sender included; latency is from just before the send to the client's
read, and includes waiting behind the other streams. The kernel's work for the loopback counts in
part. What PostgreSQL uses is not counted, nor what posts to nchan; both are on the server's core.
Pushpin has storage, and its figure is that of the proxy and of the project together.
Bare Django has no channels, ids or permissions."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--events", type=int, default=200)
    parser.add_argument("--rate", type=float, default=20, help="events a second; 0: unpaced")
    parser.add_argument("--size", type=int, default=0, help="characters added to each event")


def cases(options: argparse.Namespace) -> dict[str, Callable[[Client], dict[str, float]]]:
    return {
        name: partial(
            fan_out,
            peer=peer,
            streams=options.streams,
            events=options.events,
            rate=options.rate,
            size=options.size,
        )
        for name, peer in PEERS.items()
    }


def fan_out(
    client: Client,
    peer: Peer,
    *,
    streams: int,
    events: int,
    rate: float,
    size: int = 0,
    query: str = "",
    processes: int = 1,
) -> dict[str, float]:
    """Send so many events, so many a second (0: unpaced), to so many streams of all processes."""
    with serve_many(peer, processes) as servers:
        for server in servers:
            client.open(server.clients, peer.path, streams // processes, marker=peer.marker)
        client.start_reading(3)
        servers[0].send(3, 50, query=query)  # what is imported or connected at first
        client.result()
        before = sum(server.cpu() for server in servers)
        client.start_reading(events)
        servers[0].send(events, rate, size, query)
        reading = client.result()
        after = sum(server.cpu() for server in servers)
        client.close_streams()
    delivered = sum(min(count, events) for count in reading.received)
    latencies = sorted(reading.latencies) or [float("nan")]
    return {
        "delivered": delivered / (len(reading.received) * events),
        "µs CPU per delivery": (after - before) / max(1, delivered) * 1e6,
        "p50 ms": statistics.median(latencies) * 1e3,
        "p99 ms": latencies[int(len(latencies) * 0.99)] * 1e3,
        "seconds": reading.seconds,
        "bytes per delivery": reading.bytes / max(1, delivered),
        "client's core": reading.busy,
    }
