"""Streams that read ten channels each, beside streams that read one."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from .client import Client
from .fanout import fan_out
from .peers import PEERS, Peer

BASELINE = "1 channel"
RATIOS = ("µs CPU per delivery", "p99 ms")
NAMES = ("native", "native, storage", "Channels", "5.3.4 native", "5.3.4 native, storage")
BASELINES = {
    f"{name}, {number}": f"{name}, {BASELINE}"
    for name in NAMES
    for number in ("1 channel", "channels")
}
SMALL = {"streams": 20, "events": 20, "rate": 50}
NOT_SHOWN = """
All streams read the same channels, and the events go to these in turn, so that each stream gets
as many as with one channel. Not shown: streams whose channels differ, of which an event wakes
fewer."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--channels", type=int, default=10)
    parser.add_argument("--events", type=int, default=400)
    parser.add_argument("--rate", type=float, default=50, help="events a second")


def channels_of(peer: Peer, number: int) -> tuple[Peer, str]:
    """Return the peer whose streams read so many channels, and what lets it send to these."""
    query = "&".join(f"channel=test-{index}" for index in range(number))
    return replace(peer, path=f"/events/?{query}"), f"&{query}"


def cases(options: argparse.Namespace) -> dict[str, Callable[[Client], dict[str, float]]]:
    found = {}
    for name in NAMES:
        for label, number in (("1 channel", 1), ("channels", options.channels)):
            peer, query = channels_of(PEERS[name], number)
            found[f"{name}, {label}"] = partial(
                fan_out,
                peer=peer,
                streams=options.streams,
                events=options.events,
                rate=options.rate,
                query=query,
            )
    return found
