"""What it takes to store an event: one sender, and 16 processes at once."""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from .client import Client
from .peers import HERE, ROOT, cores, environment
from .services import SERVICES

BASELINE = "bare transaction"
RATIOS = (
    "SQLite, 1 sender",
    "PostgreSQL, 1 sender",
    "PostgreSQL, 16 on one channel",
    "PostgreSQL, 16 on 16 channels",
)
SMALL = {"seconds": 0.5, "senders": 4}
NOT_SHOWN = """
Figures are events a second. Senders are processes without streams, on one core, with PostgreSQL. It
does not wait for the disk (fsync=off): where it does, all ways of sending are nearer to each other,
for each waits for the disk once. SQLite is in WAL mode, synchronous=NORMAL, and what
16 senders do there is not shown: one at a time writes."""

Row = dict[str, float]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=3, help="how long each row's columns take")
    parser.add_argument("--senders", type=int, default=16, help="processes of the last two columns")


def cases(options: argparse.Namespace) -> dict[str, Callable[[Client], Row]]:
    rows = {
        BASELINE: ("ours", "bare", "memory"),
        "send_event": ("ours", "single", "memory"),
        "send_event, database broker": ("ours", "single", "database"),
        "5.3.4's send_event": ("5.3.4", "single", ""),
    }
    return {name: partial(_measure, options, *row) for name, row in rows.items()}


def _measure(options: argparse.Namespace, venv: str, way: str, broker: str, client: Client) -> Row:
    one, several = ["test"], [f"test-{number}" for number in range(options.senders)]
    with databases(venv, broker) as (sqlite, server):
        return {
            RATIOS[0]: send(venv, sqlite, way, one, options.seconds),
            RATIOS[1]: send(venv, server, way, one, options.seconds),
            RATIOS[2]: send(venv, server, way, one * options.senders, options.seconds),
            RATIOS[3]: send(venv, server, way, several, options.seconds),
        }


Variables = dict[str, str]


@contextlib.contextmanager
def databases(venv: str, broker: str) -> Iterator[tuple[Variables, Variables]]:
    """Make an SQLite database and a PostgreSQL server; give what senders have to know of each."""
    python = environment(venv)
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE / "sites"), *([str(ROOT)] * (venv == "ours"))]),
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "BENCHMARK_STORAGE": "1",
        "BENCHMARK_BROKER": broker,
    }
    with tempfile.TemporaryDirectory() as folder, SERVICES["postgresql"]() as told:
        sqlite = {**variables, "BENCHMARK_DATABASE": str(Path(folder, "benchmark.sqlite3"))}
        found = (sqlite, {**variables, **told})
        for each in found:
            migrate = [python, "-m", "django", "migrate", "-v0"]
            subprocess.run(migrate, env=each, check=True, cwd=folder)
        yield found


def send(venv: str, variables: Variables, way: str, channels: list[str], seconds: float) -> float:
    """Have a process send on each of the channels; return how many events a second there were."""
    core, _ = cores()
    done = subprocess.run(
        [environment(venv), "-m", "sender", way, str(seconds), *channels],
        env=variables,
        cwd=HERE / "sites",
        stdout=subprocess.PIPE,
        check=True,
        timeout=60 + seconds * 2,
        preexec_fn=None if core is None else (lambda: os.sched_setaffinity(0, {core})),
    )
    return float(done.stdout)
