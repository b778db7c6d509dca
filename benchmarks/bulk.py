"""Many events by `send_events`, beside as many calls of `send_event`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

from .append import databases, send
from .client import Client

BASELINE = "send_event"
RATIOS = ("SQLite", "PostgreSQL", "PostgreSQL, database broker")
SMALL = {"seconds": 0.5}
NOT_SHOWN = """
Figures are events a second, of one sender without streams. PostgreSQL does not wait for the disk
(fsync=off): where it does, single events are slower, and many at once hardly."""

Row = dict[str, float]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=3, help="how long each column takes")


def cases(options: argparse.Namespace) -> dict[str, Callable[[Client], Row]]:
    rows = {BASELINE: "single", "send_events of 100": "100", "send_events of 1,000": "1000"}
    return {name: partial(_measure, options.seconds, way) for name, way in rows.items()}


def _measure(seconds: float, way: str, client: Client) -> Row:
    with databases("ours", "memory") as (sqlite, server):
        return {
            RATIOS[0]: send("ours", sqlite, way, ["test"], seconds),
            RATIOS[1]: send("ours", server, way, ["test"], seconds),
            RATIOS[2]: send(
                "ours", {**server, "BENCHMARK_BROKER": "database"}, way, ["test"], seconds
            ),
        }
