"""Many events at once to many streams: sent by one thread, as fast as it can."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from . import fanout
from .client import Client
from .peers import BASELINES

__all__ = ["BASELINES"]
BASELINE = "floor"
RATIOS = ("µs CPU per delivery",)
SMALL = {"streams": 50, "events": 50}
NOT_SHOWN = """
Not shown: what TLS, proxies and slow networks cost. Whoever has fallen behind writes many events at
once, so a delivery costs less than when paced; the floor does not do that, and writes each. Latency
is mostly the time that an event waits behind those before it, also in the client."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--events", type=int, default=200)
    parser.add_argument("--size", type=int, default=0, help="characters added to each event")


def cases(options: argparse.Namespace) -> dict[str, Callable[[Client], dict[str, float]]]:
    options.rate = 0
    return fanout.cases(options)
