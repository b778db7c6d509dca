"""One event to many streams."""

from __future__ import annotations

import statistics

from .client import Client
from .measure import cpu
from .peers import Peer, serve

NOT_SHOWN = """
Not shown: what TLS, proxies and slow networks cost, and clients that read slowly. CPU is the
server's user and system time, sender included; latency is from just before the send to the client's
read, and includes waiting behind the other streams. The kernel's work for the loopback counts in
part."""


def fan_out(
    client: Client, peer: Peer, *, streams: int, events: int, rate: float, size: int
) -> dict[str, float]:
    """Send so many events, so many a second (0: unpaced), to so many streams."""
    with serve(peer) as server:
        client.open(server.port, peer.path, streams, marker=b"stream-open")
        client.start_reading(3)
        server.send(3, 50)  # what is imported or connected at first is not measured
        client.result()
        before = cpu(server.pid)
        client.start_reading(events)
        server.send(events, rate, size)
        reading = client.result()
        after = cpu(server.pid)
        client.close_streams()
    delivered = sum(min(count, events) for count in reading.received)
    latencies = sorted(reading.latencies) or [float("nan")]
    return {
        "delivered": delivered / (streams * events),
        "µs CPU per delivery": (after - before) / max(1, delivered) * 1e6,
        "p50 ms": statistics.median(latencies) * 1e3,
        "p99 ms": latencies[int(len(latencies) * 0.99)] * 1e3,
        "seconds": reading.seconds,
        "bytes per delivery": reading.bytes / max(1, delivered),
    }
