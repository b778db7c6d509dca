"""Draw the plots of the docs: ``python -m benchmarks.plots FOLDER docs/images``.

The folder is what ``python -m benchmarks all --json-folder FOLDER`` wrote. Needs matplotlib.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams.update(
    {"svg.hashsalt": "django-eventstream", "svg.fonttype": "none", "font.size": 9}
)

from matplotlib import pyplot  # noqa: E402 (after its backend is chosen)
from matplotlib.axes import Axes  # noqa: E402

OURS, OTHERS, FLOOR = "#0c7c59", "#a3a9b0", "#3b4048"
Rows = dict[str, dict[str, float]]


def load(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the reports of all benchmarks, by their names."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def bars(rows: Rows, column: str, title: str) -> pyplot.Figure:
    """Draw a figure of each case."""
    names = [name for name, row in rows.items() if column in row]
    figure, axes = pyplot.subplots(figsize=(7.5, 0.6 + 0.24 * len(names)), layout="constrained")
    colors = [
        FLOOR if name.startswith("floor") else OURS if is_ours(name) else OTHERS for name in names
    ]
    drawn = axes.barh(names, [rows[name][column] for name in names], color=colors)
    axes.bar_label(drawn, fmt="%.3g", padding=3)
    axes.margins(x=0.1)
    axes.invert_yaxis()
    axes.set_title(title, loc="left")
    _bare(axes)
    return figure


def is_ours(name: str) -> bool:
    return name.startswith(("native", "Channels", "Pushpin", "one process", "to another"))


def growth(rows: Rows) -> pyplot.Figure:
    """Draw how the cost of a delivery grows."""
    column = "µs CPU per delivery"
    figure, grid = pyplot.subplots(
        *(1, 4), figsize=(10, 2.8), layout="constrained", sharey=True, width_ratios=[5, 3, 3, 3]
    )
    for axes, what in zip(grid, ("streams", "characters", "channels", "processes"), strict=True):
        lines: dict[str, list[tuple[int, float]]] = {}
        for name, row in rows.items():
            if match := re.fullmatch(rf"(.+), (\d+) {what}", name):
                lines.setdefault(match[1], []).append((int(match[2]), row[column]))
        for name, points in lines.items():
            color = {"floor": FLOOR, "native": OURS}.get(name, "#e07a3f")
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, color=color, label=name)
        axes.set_xscale("log")
        axes.set_xlabel({"characters": "characters of an event"}.get(what, what))
        if points := next(iter(lines.values()), []):
            ticks = [at for at, _ in points]
            axes.set_xticks(ticks, [f"{at:,}" for at in ticks], fontsize=7)
            axes.minorticks_off()
        _bare(axes)
    # Events that few streams share would leave the others no room.
    shown = [row[column] for name, row in rows.items() if "storage" not in name]
    grid[0].set_ylim(0, 2 * max(shown))
    grid[0].set_ylabel(column)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    source, target = map(Path, sys.argv[1:])
    reports = load(source)
    figures = {}
    for name, column, title in [
        ("fanout", "µs CPU per delivery", "Server CPU per delivery, paced, µs"),
        ("fanout", "p99 ms", "From sending to receiving, 99 % of deliveries, ms"),
        ("latency", "p50 ms", "One stream: from send_event to the client, median, ms"),
        ("capacity", "KB per stream", "Memory of an open stream, KB"),
        ("connect", "streams per second", "Streams opened a second"),
    ]:
        rows = reports.get(name, {}).get("medians", {})
        if any(column in row for row in rows.values()):
            file = f"{name}-{re.sub('[^a-z0-9]+', '-', column.lower()).strip('-')}"
            figures[file] = bars(rows, column, title)
    if "growth" in reports:
        figures["growth"] = growth(reports["growth"]["medians"])
    target.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(target / f"performance-{name}.svg", metadata={"Date": None})
        print(target / f"performance-{name}.svg")


if __name__ == "__main__":
    main()
