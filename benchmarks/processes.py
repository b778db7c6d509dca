"""Streams spread over several processes, beside as many in one."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

from .client import Client
from .fanout import fan_out
from .peers import FLOOR, NATIVE, STORAGE, Peer

BASELINE = "one process"
RATIOS = ("µs CPU per delivery", "p99 ms")
SMALL = {"processes": 2, "streams": 40, "events": 10, "rate": 20}
NOT_SHOWN = """
All processes share one core, so this shows what they cost, and not what more cores gain. One of
them sends. What Redis and PostgreSQL use is not counted, but they are on the same core. Not shown:
the network between machines."""

REDIS = Peer("Redis", settings={"BENCHMARK_BROKER": "redis"}, needs=("redis",))
POSTGRESQL = Peer(
    "PostgreSQL", settings={**STORAGE, "BENCHMARK_BROKER": "database"}, needs=("postgresql",)
)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--events", type=int, default=40)
    parser.add_argument("--rate", type=float, default=5, help="events a second")


def cases(options: argparse.Namespace) -> dict[str, Callable[[Client], dict[str, float]]]:
    run = partial(fan_out, streams=options.streams, events=options.events, rate=options.rate)
    several = options.processes
    return {
        "floor": partial(run, peer=FLOOR),
        BASELINE: partial(run, peer=NATIVE),
        f"{several} processes, Redis": partial(run, peer=REDIS, processes=several),
        f"{several} processes, PostgreSQL": partial(run, peer=POSTGRESQL, processes=several),
    }
