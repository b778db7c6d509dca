"""The benchmarks run; what they measure is not looked at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import benchmarks

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow

#: Where not all cases shall be tried: there are many, or some need what they take long to start.
CASES = {
    "append": "bare transaction,send_event",
    "bulk": "send_event,send_events of 100",
    "fanout": "floor,bare Django,Channels, storage",
    "burst": "floor,native",
    "multichannel": "native, channels",
    "processes": "2 processes, Redis",
    "latency": "native, SQLite",
    "connect": "bare Django,native, storage, session",
    "idle": "floor,Channels, storage",
    "storm": "native, storage, cold,native, storage, nothing missed",
    "capacity": "floor,native, storage",
    "growth": "floor, 100 streams,native, 100 streams",
}


def run(module: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        # Peers are this package and the floor, for there are no other environments.
        env={**os.environ, "BENCHMARK_PYTHON": sys.executable, "DJANGO_SETTINGS_MODULE": ""},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", benchmarks())
def test_benchmark_runs(name, tmp_path):
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("needs Linux")
    file = tmp_path / f"{name}.json"
    cases = ["--cases", CASES[name]] if name in CASES else []
    shown = run("benchmarks", name, "--small", "--repeat=1", f"--json={file}", *cases)
    report = json.loads(file.read_text())
    assert report["failures"] == {}
    for case, row in report["medians"].items():
        assert case in shown
        assert row.get("delivered", 1) == 1, (case, row)
    assert report["not shown"] in shown


def test_page_is_filled_from_what_a_run_wrote(tmp_path):
    reports = tmp_path / "reports"
    page = tmp_path / "page.md"
    page.write_text("Before\n<!-- figures fanout: delivered -->\n<!-- end -->\nAfter\n")
    reports.mkdir()
    report = {
        "date": "2026-01-01",
        "options": {"repeat": "3", "streams": "500"},
        "medians": {"floor": {"delivered": 1.0, "p99 ms": 2}},
        "ratios": {},
        "failures": {},
    }
    (reports / "fanout.json").write_text(json.dumps(report))
    run("benchmarks.tables", str(reports), str(page))
    filled = page.read_text()
    assert "| floor | 1 |\n\n<sub>2026-01-01, medians of 3 rounds; streams 500</sub>" in filled
    assert filled.endswith("<!-- end -->\nAfter\n")
    run("benchmarks.tables", str(reports), str(page))
    assert page.read_text() == filled


def test_plots_are_drawn_from_what_a_run_wrote(tmp_path):
    reports = tmp_path / "reports"
    reports.mkdir()
    medians = {"floor": {"µs CPU per delivery": 1.0, "p99 ms": 2}}
    (reports / "fanout.json").write_text(json.dumps({"medians": medians}))
    medians = {f"native, {number} streams": {"µs CPU per delivery": 1.0} for number in (1, 10)}
    (reports / "growth.json").write_text(json.dumps({"medians": medians}))
    drawn = run("benchmarks.plots", str(reports), str(tmp_path / "images")).split()
    assert len(drawn) == 3
    assert all(Path(file).read_text().rstrip().endswith("</svg>") for file in drawn)
