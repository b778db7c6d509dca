"""Run a benchmark: ``python -m benchmarks fanout``; ``--help`` lists what there is."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from . import fanout
from .client import Client
from .peers import FLOOR, PEERS, cores

Row = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("benchmark", choices=["fanout", "burst"], help="what is measured")
    parser.add_argument("--peers", default="", help="comma-separated; by default all")
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--events", type=int, default=200)
    parser.add_argument("--rate", type=float, default=20, help="events a second (fanout)")
    parser.add_argument("--size", type=int, default=0, help="characters added to each event")
    parser.add_argument("--repeat", type=int, default=3, help="rounds; the medians are shown")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()

    names = [FLOOR.name, *filter(lambda name: name != FLOOR.name, PEERS)]
    if options.peers:
        wanted = options.peers.split(",")
        if unknown := set(wanted) - set(names):
            parser.error(f"no such peers: {', '.join(unknown)}; there are {', '.join(names)}")
        names = [name for name in names if name in wanted]
    rate = 0 if options.benchmark == "burst" else options.rate
    server, reader = cores()
    if reader is None:
        print("There is only one core: the client is measured along.", file=sys.stderr)

    rounds: dict[str, list[Row]] = {name: [] for name in names}
    client = Client(reader)
    started = time.monotonic()
    # Round by round, so that what disturbs the machine for a while disturbs all of them.
    for number in range(options.repeat):
        for name in names:
            passed = f"{time.monotonic() - started:5.0f} s"
            progress = f"[{passed}] round {number + 1}/{options.repeat}: {name}"
            print(progress, file=sys.stderr)
            rounds[name].append(
                fanout.fan_out(
                    client,
                    PEERS[name],
                    streams=options.streams,
                    events=options.events,
                    rate=rate,
                    size=options.size,
                )
            )
    client.stop()
    medians = {
        name: {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        for name, rows in rounds.items()
    }
    show(medians)
    print(fanout.NOT_SHOWN)
    if options.json:
        machine = {
            "platform": platform.platform(),
            "python": sys.version,
            "cores": [server, reader],
        }
        settings: dict[str, Any] = {**vars(options), "json": str(options.json)}
        report = {"machine": machine, "options": settings, "rounds": rounds}
        options.json.write_text(json.dumps(report, indent=1))


def show(rows: dict[str, Row]) -> None:
    """Print a table; the last columns are ratios to the floor."""
    columns = list(next(iter(rows.values())))
    floor = rows.get(FLOOR.name)
    ratios = ["µs CPU per delivery", "p99 ms"] if floor else []
    heads = ["", *columns, *(f"{name} / floor" for name in ratios)]
    table = [heads]
    for name, row in rows.items():
        cells = [name, *(f"{row[column]:.2f}" for column in columns)]
        if floor:
            cells += [f"{row[column] / floor[column]:.2f}" for column in ratios]
        table.append(cells)
    widths = [max(len(row[index]) for row in table) for index in range(len(heads))]
    for row in table:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


if __name__ == "__main__":
    main()
