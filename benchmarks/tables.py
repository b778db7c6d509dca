"""Fill the tables of a page: ``python -m benchmarks.tables FOLDER [docs/performance.md]``.

The folder is what ``python -m benchmarks all --json-folder FOLDER`` wrote. A table stands between
``<!-- figures NAME: column; column -->`` and ``<!-- end -->``; NAME is that of a benchmark,
``machine`` or ``model``. Only those are filled whose benchmark is in the folder.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

PLACE = re.compile(r"(<!-- figures (\w+)(?:: ([^>]*?))? -->\n).*?(<!-- end -->)", re.DOTALL)
#: The packages whose versions are told.
PACKAGES = (
    *("Python", "Django", "channels", "django-eventstream", "sse-starlette"),
    *("uvicorn", "uvloop", "daphne", "Hypercorn", "granian", "psycopg", "redis"),
)


def table(report: dict[str, Any], columns: list[str]) -> str:
    rows = {
        name: {**row, **report["ratios"].get(name, {})} for name, row in report["medians"].items()
    }
    columns = columns or list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = ["| " + " | ".join(["", *columns]) + " |", "|---|" + "---:|" * len(columns)]
    for name, row in rows.items():
        if any(column in row for column in columns):
            cells = [number(row[column]) if column in row else "" for column in columns]
            lines.append("| " + " | ".join([name, *cells]) + " |")
    lines += [f"| {name} | failed |" for name in report["failures"] if name not in rows]
    return "\n".join(lines) + "\n\n" + told(report) + "\n"


#: Options that say nothing about the figures.
OTHER_OPTIONS = {"name", "json", "cases", "small"}


def told(report: dict[str, Any]) -> str:
    """Return how the figures of a table came about."""
    options = {
        name: value for name, value in report["options"].items() if name not in OTHER_OPTIONS
    }
    rounds = options.pop("repeat")
    told = [f"{name.replace('_', ' ')} {value}" for name, value in sorted(options.items())]
    what = "one round" if rounds == "1" else f"medians of {rounds} rounds"
    return f"<sub>{report['date']}, {what}; {', '.join(told)}</sub>"


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def machine(report: dict[str, Any]) -> str:
    lines = ["| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in report["machine"].items()]
    for name, found in report["versions"].items():
        told = [f"{package} {found[package]}" for package in PACKAGES if package in found]
        lines.append(f"| environment “{name}” | {', '.join(told)} |")
    return "\n".join(lines) + "\n"


def model(capacity: dict[str, Any], growth: dict[str, Any]) -> str:
    """Return what a million streams take that get an event each ten seconds."""
    streams, per_second, keep_alives = 1_000_000, 100_000, 50_000
    # What a process does for an event besides writing it: from more and more of them.
    fewest, most = (growth["medians"][f"native, {number} processes"] for number in (1, 8))
    more = most["µs CPU per delivery"] - fewest["µs CPU per delivery"]
    per_event = more * int(growth["options"]["streams"]) / (8 - 1)
    lines = [
        "| | memory | cores: writing | cores: opening all within 5 minutes |",
        "|---|---:|---:|---:|",
    ]
    for name, row in capacity["medians"].items():
        writing = (per_second + keep_alives) * row["µs CPU per delivery"] / 1e6
        opening = streams / 300 * row["ms CPU to open"] / 1e3
        memory = streams * row["KB per stream"] / 1e6
        lines.append(f"| {name} | {memory:.0f} GB | {writing:.1f} | {opening:.1f} |")
    told = (
        f"\nBesides, each event costs each process {max(0.0, per_event):,.0f} µs to take in from "
        "Redis, however many streams it has.\n"
    )
    return "\n".join(lines) + "\n" + told


def fill(page: str, reports: dict[str, dict[str, Any]]) -> str:
    def filled(match: re.Match[str]) -> str:
        start, name, columns, end = match.groups()
        if name == "machine":
            return start + machine(reports["fanout"]) + end if "fanout" in reports else match[0]
        if name == "model":
            if not {"capacity", "growth"} <= set(reports):
                return match[0]
            return start + model(reports["capacity"], reports["growth"]) + end
        if name not in reports:
            return match[0]
        return start + table(reports[name], columns.split("; ") if columns else []) + end

    return PLACE.sub(filled, page)


def main() -> None:
    folder = Path(sys.argv[1])
    page = Path(sys.argv[2] if len(sys.argv) > 2 else "docs/performance.md")
    reports = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    page.write_text(fill(page.read_text(), reports))


if __name__ == "__main__":
    main()
