"""Run a benchmark: ``python -m benchmarks fanout``; ``--help`` lists what there is.

A benchmark is a module of this package that has:

- a docstring of one line: what is measured;
- ``cases(options)``: what is compared, in the order of the table, as functions that measure once
  and return figures by their names;
- ``add_options(parser)``: its own options, whose defaults are a full run, and ``SMALL``: some of
  them with the values of a quick one;
- ``RATIOS``: which figures are compared to those of the case ``BASELINE``, or for some cases to
  those of another one: ``BASELINES``, if there are such;
- ``NOT_SHOWN``: what it does not show.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.databases import NotInstalled

from .client import Client
from .measure import cores, machine
from .peers import versions

Row = dict[str, float]
Case = Callable[[Client], Row]
#: The figure by which a benchmark says how busy the client was, from 0 to 1.
CLIENT = "client's core"


def benchmarks() -> dict[str, ModuleType]:
    """Return all benchmarks by their names."""
    found = {}
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        # The plots need matplotlib, which not everybody has.
        if not module.ispkg and not module.name.startswith("_") and module.name != "plots":
            imported = importlib.import_module(f"{__package__}.{module.name}")
            if hasattr(imported, "cases"):
                found[module.name] = imported
    return found


def main() -> int:
    found = benchmarks()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="What streams, sends and reads cost."
    )
    commands = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    own = {}
    for name, module in found.items():
        own[name] = commands.add_parser(name, help=module.__doc__, description=module.__doc__)
        own[name].add_argument("--cases", help="some of them: comma-separated; by default all")
        own[name].add_argument("--json", type=Path, help="write all figures to this file")
        module.add_options(own[name])
    every = commands.add_parser("all", help="All of these.")
    every.add_argument("--json-folder", type=Path, help="write the figures of each to a file here")
    for one in (*own.values(), every):
        one.add_argument("--repeat", type=int, default=3, help="rounds; the medians are shown")
        one.add_argument("--small", action="store_true", help="quickly, for a first look")
    options = parser.parse_args()

    if options.name != "all":
        return run(found[options.name], own[options.name], options)
    failures = 0
    for name, module in found.items():
        print(f"\n{name}: {module.__doc__}")
        arguments = [name, f"--repeat={options.repeat}", *(["--small"] if options.small else [])]
        if options.json_folder:
            options.json_folder.mkdir(parents=True, exist_ok=True)
            arguments.append(f"--json={options.json_folder / name}.json")
        failures += run(module, own[name], parser.parse_args(arguments))
    return min(1, failures)


def run(module: ModuleType, parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Run a benchmark; return how many times a case failed."""
    if options.small:
        vars(options).update(getattr(module, "SMALL", {}))
    cases: dict[str, Case] = module.cases(options)
    if options.cases:
        # Names of cases contain commas, too.
        rest = options.cases
        wanted = set()
        for name in sorted(cases, key=len, reverse=True):
            if name in rest:
                wanted.add(name)
                rest = rest.replace(name, "")
        if rest.strip(", "):
            parser.error(f"no such cases: {rest.strip(', ')}; there are {'; '.join(cases)}")
        cases = {name: case for name, case in cases.items() if name in wanted}
    server, reader = cores()
    if reader is None:
        print("There is only one core: the client is measured along.", file=sys.stderr)

    rounds: dict[str, list[Row]] = {}
    failures: dict[str, str] = {}
    client = Client(reader)
    started = time.monotonic()
    # Round by round, so that what disturbs the machine for a while disturbs all of them.
    for number in range(options.repeat):
        for name, case in cases.items():
            passed = f"{time.monotonic() - started:5.0f} s"
            progress = f"[{passed}] round {number + 1}/{options.repeat}: {name}"
            print(progress, file=sys.stderr)
            try:
                row = case(client)
            except NotInstalled as error:
                print(f"It is left out: {error}.", file=sys.stderr)
            except Exception as error:
                traceback.print_exc()
                failures[name] = repr(error)
                client.stop()
                client = Client(reader)
            else:
                rounds.setdefault(name, []).append(row)
                if row.get(CLIENT, 0) > 0.9:
                    print("The client's core was busy: it is measured along.", file=sys.stderr)
    client.stop()
    show(medians(rounds), module)
    print("\n" + module.NOT_SHOWN.strip() + "\n")
    for name, failure in failures.items():
        print(f"{name} failed: {failure}")
    if options.json:
        report: dict[str, Any] = {
            "benchmark": options.name,
            "title": module.__doc__,
            "date": time.strftime("%Y-%m-%d"),
            "machine": {**machine(), "server's core": server, "client's core": reader},
            "versions": versions(),
            "options": {key: str(value) for key, value in vars(options).items()},
            "ratios": ratios(medians(rounds), module),
            "medians": medians(rounds),
            "rounds": rounds,
            "failures": failures,
            "not shown": module.NOT_SHOWN.strip(),
        }
        options.json.write_text(json.dumps(report, indent=1))
    return len(failures)


def medians(rounds: dict[str, list[Row]]) -> dict[str, Row]:
    return {
        name: {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        for name, rows in rounds.items()
    }


def ratios(rows: dict[str, Row], module: ModuleType) -> dict[str, Row]:
    """Return figures as multiples of the baseline's."""
    found: dict[str, Row] = {}
    for name, row in rows.items():
        base = rows.get(getattr(module, "BASELINES", {}).get(name, module.BASELINE), {})
        found[name] = {
            f"{column} / {module.BASELINE}": row[column] / base[column]
            for column in module.RATIOS
            if column in row and base.get(column)
        }
    return found


def show(rows: dict[str, Row], module: ModuleType) -> None:
    """Print a table."""
    relative = ratios(rows, module)
    whole = {name: {**row, **relative[name]} for name, row in rows.items()}
    columns = list(dict.fromkeys(column for row in whole.values() for column in row))
    table = [["", *columns]]
    for name, row in whole.items():
        table.append([name, *(f"{row[key]:,.2f}" if key in row else "" for key in columns)])
    widths = [max(len(row[index]) for row in table) for index in range(len(columns) + 1)]
    for row in table:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *cells]))


if __name__ == "__main__":
    sys.exit(main())
