"""How fast streams are opened."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from .client import Client
from .measure import cpu
from .peers import PEERS, Peer, Running, serve

BASELINE = "bare Django"
RATIOS = ("streams per second",)
#: Those with a session are compared to a view that loads its user.
BASELINES = {
    "bare Django, session": "bare Django, session",
    "native, storage, session": "bare Django, session",
    "Channels, storage, session": "bare Django, session",
}
SMALL = {"streams": 1000}
NOT_SHOWN = """
Not shown: TLS, which servers and proxies set up; permission checks of projects; more than one
process. Streams are open when their first block has come; a hundred are being opened at a time."""

NAMES = ["bare Django", "native, storage", "Channels, storage", "5.3.4 native, storage"]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--streams", type=int, default=4000)


def cases(options: argparse.Namespace) -> dict[str, Callable[[Client], dict[str, float]]]:
    def case(peer: Peer, *, session: bool) -> Callable[[Client], dict[str, float]]:
        return lambda client: connect(client, peer, streams=options.streams, session=session)

    found = {"floor": case(PEERS["floor"], session=False)}
    for session in (False, True):
        for name in NAMES:
            if not (session and name.startswith("5.3.4")):
                found[name + ", session" * session] = case(PEERS[name], session=session)
    return found


def connect(client: Client, peer: Peer, *, streams: int, session: bool) -> dict[str, float]:
    """Open so many streams, all by the same user or by none."""
    with serve(peer) as server:
        headers = log_in(server) if session else ""
        # What is imported at first is not measured.
        client.open(server.port, peer.path, 20, headers=headers, marker=peer.marker)
        client.close_streams()
        before = cpu(server.pid)
        seconds = client.open(server.port, peer.path, streams, headers=headers, marker=peer.marker)
        used = cpu(server.pid) - before
        client.close_streams()
    return {"streams per second": streams / seconds, "ms CPU per stream": used / streams * 1e3}


def log_in(server: Running) -> str:
    """Return the header lines of a user's requests."""
    cookie = server.get("/bare/log-in/").getheader("Set-Cookie", "").partition(";")[0]
    return f"Cookie: {cookie}\r\n"
