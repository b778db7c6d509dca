"""How the cost of a delivery grows with streams, channels, the size of events, and processes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

from .client import Client
from .fanout import fan_out
from .multichannel import channels_of
from .peers import FLOOR, NATIVE, PEERS
from .processes import REDIS

BASELINE = "floor"
RATIOS = ("µs CPU per delivery",)
STREAMS = (10, 100, 500, 1000, 2000, 4000)
SIZES = (100, 1_000, 10_000)
CHANNELS = (1, 2, 5, 10)
PROCESSES = (1, 2, 4, 8)
BASELINES = {
    f"native, {number} {what}": f"floor, {number} {what}"
    for what, numbers in (("streams", STREAMS), ("characters", SIZES))
    for number in numbers
}
SMALL = {"most": 100, "deliveries": 1000}
NOT_SHOWN = """
Each case makes as many deliveries a second: the more streams, the fewer events. An event that wakes
few streams has its own cost, of sending it and of waking the loop, shared by few. All processes are
on one core, and Redis on the same."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--deliveries", type=int, default=40_000)
    parser.add_argument("--per-second", type=int, default=8_000, help="deliveries a second")
    parser.add_argument(
        "--streams", type=int, default=500, help="where their number stays the same"
    )
    parser.add_argument("--most", type=int, default=4000, help="streams, at most")


def cases(options: argparse.Namespace) -> dict[str, Callable[[Client], dict[str, float]]]:
    def run(streams: int) -> partial[dict[str, float]]:
        return partial(
            fan_out,
            streams=streams,
            events=max(5, options.deliveries // streams),
            rate=options.per_second / streams,
        )

    same = run(min(options.streams, options.most))
    found: dict[str, Callable[[Client], dict[str, float]]] = {}
    for number in STREAMS:
        if number <= options.most:
            found[f"floor, {number} streams"] = partial(run(number), peer=FLOOR)
            found[f"native, {number} streams"] = partial(run(number), peer=NATIVE)
            storage = PEERS["native, storage"]
            found[f"native, storage, {number} streams"] = partial(run(number), peer=storage)
    for number in SIZES:
        found[f"floor, {number} characters"] = partial(same, peer=FLOOR, size=number)
        found[f"native, {number} characters"] = partial(same, peer=NATIVE, size=number)
    for number in CHANNELS:
        peer, query = channels_of(NATIVE, number)
        found[f"native, {number} channels"] = partial(same, peer=peer, query=query)
    for number in PROCESSES:
        found[f"native, {number} processes"] = partial(same, peer=REDIS, processes=number)
    return found
