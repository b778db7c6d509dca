"""The sources of the browser scripts, in ``js/``, with the tools of package.json."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.processes import need

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


def npm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [need("npm"), *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )


def run(*arguments: str) -> str:
    done = npm(*arguments)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    """Install what package-lock.json names, if it is not there."""
    if npm("ls", "--all").returncode:
        run("ci", "--no-audit", "--no-fund")


def test_built_scripts_are_what_their_sources_give_and_small():
    output = run("run", "build", "--", "--check")
    assert output.count("bytes gzipped") == 3


def test_build_notices_changes(tmp_path):
    """The same on a copy of which a source, and another time a script, has changed."""
    for name in ("js", "package.json", "django_eventstream/static"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (tmp_path / name).parent.mkdir(exist_ok=True)
        copy(ROOT / name, tmp_path / name)
    (tmp_path / "node_modules").symlink_to(ROOT / "node_modules")

    def check() -> subprocess.CompletedProcess[str]:
        return npm("--prefix", str(tmp_path), "run", "build", "--", "--check")

    assert check().returncode == 0, check().stdout
    built = tmp_path / "django_eventstream/static/django_eventstream/eventsource.min.js"
    content = built.read_bytes()
    built.write_bytes(content + b"\n")
    assert "eventsource.min.js is not what its sources give" in check().stdout
    built.write_bytes(content)
    backoff = tmp_path / "js/backoff.js"
    backoff.write_text(backoff.read_text().replace("FIRST = 1000", "FIRST = 1001"))
    done = check()
    assert done.returncode == 1
    assert "reconnecting-eventsource.js is not what its sources give" in done.stdout


def test_types_are_right():
    run("run", "types")


def test_parts_without_a_browser():
    run("test")
