"""Run the faults by hand; see docs/reliability.md.

python -m tests.faults --backend postgresql-redis --clients 1000 --deliveries 200000 --seed 7
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

from tests.faults.harness import run
from tests.faults.report import Plan
from tests.faults.schedule import BACKENDS

HELP = {
    "clients": "how many streams",
    "deliveries": "how many events they get, together, at least",
    "rate": "how many they get in a second; with deliveries it says for how long there are faults",
    "channels": "how many channels the clients choose from",
    "workers": "how many server processes",
    "senders": "how many processes send",
    "defect": "break the package: lose or repeat",
}


class Progress:
    """A line that changes on a terminal, and one now and then elsewhere."""

    def __init__(self) -> None:
        self._told = 0.0

    def __call__(self, line: str) -> None:
        now = time.monotonic()
        if sys.stderr.isatty():
            print(f"\r{line[:150]:<150}", end="", file=sys.stderr, flush=True)
        elif now - self._told > 10:
            self._told = now
            print(line, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--backend", choices=BACKENDS, default="sqlite-database")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    for field in dataclasses.fields(Plan):
        if field.name == "seed":
            default = time.time_ns() % 10_000
            parser.add_argument("--seed", type=int, default=default, help="by default another one")
        elif field.name != "backend":
            kind = type(field.default)
            text = f"{HELP[field.name]} (default: {field.default or 'no'})"
            parser.add_argument(f"--{field.name}", type=kind, default=field.default, help=text)
    options = vars(parser.parse_args())
    path = options.pop("json")
    report = run(Plan(**options), Progress())
    print(f"\n{report}")
    if path:
        path.write_text(json.dumps(report.to_json(), indent=2) + "\n")
    return 1 if report.deviations else 0


if __name__ == "__main__":
    sys.exit(main())
