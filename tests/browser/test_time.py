"""The example clock: a page, a server, and a process that sends."""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime

import pytest
from playwright.sync_api import Page, expect

from tests.browser.visitors import CONTRASTS, SERVER_FAILS, Visitors
from tests.examples import EXAMPLES, Example
from tests.processes import TIMEOUT, free_port

APPLICATION = "clock.asgi:application"

# Collects each time that the page shows, and each word about the connection.
WATCH = """
window.times = [];
window.states = [];
document.addEventListener("DOMContentLoaded", () => {
  const state = document.getElementById("state");
  // A change tells what was there before it: the list lacks what is there now.
  new MutationObserver((changes) => {
    for (const { oldValue } of changes) window.times.push(oldValue);
  }).observe(document.getElementById("time"), {
    attributeFilter: ["datetime"],
    attributeOldValue: true,
  });
  new MutationObserver(() => {
    window.states.push(state.textContent);
  }).observe(state, { childList: true });
});
"""


@pytest.fixture
def example(tmp_path) -> Example:
    return Example("time", tmp_path)


def seconds_shown(page: Page) -> list[float]:
    times = page.evaluate("() => [...times, document.getElementById('time').dateTime]")
    return [
        datetime.fromisoformat(time.replace("Z", "+00:00")).timestamp() for time in times if time
    ]


def wait_for_seconds(page: Page, count: int) -> None:
    """Wait until so many more are shown."""
    page.evaluate("(count) => { window.enough = times.length + count; }", count)
    page.wait_for_function("() => times.length >= enough")


@contextlib.contextmanager
def shown(visitors: Visitors, example: Example, **options: object) -> Iterator[Page]:
    page = visitors.come(**options).new_page()
    page.add_init_script(WATCH)
    page.goto(example.url)
    expect(page.locator("#state")).to_have_text("Live")
    yield page


@pytest.mark.parametrize("server", ["daphne", "uvicorn"])
def test_clock_goes_on_without_gap_or_repetition_when_the_server_is_killed(
    visitors, example, server
):
    visitors.expected = SERVER_FAILS
    with example.start("tick"):
        with example.serve(server, APPLICATION) as site, shown(visitors, example) as page:
            wait_for_seconds(page, 3)
            site.process.kill()
            expect(page.locator("#state")).to_have_text("Connection lost, trying again…")
            before = len(seconds_shown(page))
            lost = page.evaluate("() => Date.now()")
            page.wait_for_function("(lost) => Date.now() - lost > 2500", arg=lost)
            assert len(seconds_shown(page)) == before
        with example.serve(server, APPLICATION):
            expect(page.locator("#state")).to_have_text("Live")
            wait_for_seconds(page, 5)
            seconds = seconds_shown(page)
            assert seconds == [seconds[0] + number for number in range(len(seconds))]
            # One before is listed as "nothing yet", for the one that is shown now.
            lit, listed = page.evaluate(
                "() => [document.querySelectorAll('#dots .on, #dots .now').length, times.length]"
            )
            assert lit == listed
            states = page.evaluate("() => states")
            assert states == ["Live", "Connection lost, trying again…", "Live"]


def test_clock_goes_on_without_repetition_when_the_sender_is_killed(visitors, example):
    with example.serve("uvicorn", APPLICATION):
        with example.start("tick") as sender, shown(visitors, example) as page:
            wait_for_seconds(page, 3)
            sender.kill()
            expect(page.locator("#state")).to_have_text("Nobody sends the time")
            before = seconds_shown(page)
        with example.start("tick"):
            wait_for_seconds(page, 3)
            expect(page.locator("#state")).to_have_text("Live")
            seconds = seconds_shown(page)
            assert seconds[: len(before)] == before
            after = seconds[len(before) :]
            assert after[0] > before[-1]
            assert after == [after[0] + number for number in range(len(after))]
            visitors.leave()  # before the server does


def test_clock_is_in_time(visitors, example):
    with example.start("tick"), example.serve("uvicorn", APPLICATION):
        with shown(visitors, example) as page:
            page.evaluate(
                """
                () => {
                  window.late = [];
                  const time = document.getElementById("time");
                  new MutationObserver(() => late.push(Date.now() - new Date(time.dateTime)))
                    .observe(time, { attributeFilter: ["datetime"] });
                }
                """
            )
            page.wait_for_function("() => late.length >= 6")
            late = sorted(page.evaluate("() => late"))
            assert late[0] >= 0
            assert late[len(late) // 2] < 500  # the poll interval, and a busy computer
            visitors.leave()  # before the server does


def test_clock_can_be_read_on_any_screen(visitors, example):
    with example.start("tick"), example.serve("uvicorn", APPLICATION):
        for width, colours in itertools.product([320, 390], ["light", "dark"]):
            screen = {"width": width, "height": 640}
            with shown(visitors, example, viewport=screen, color_scheme=colours) as page:
                wait_for_seconds(page, 1)
                contrasts = page.evaluate(CONTRASTS)
                assert {"Live", "manage.py\xa0tick"} <= {text for _, text in contrasts}
                assert [found for found in contrasts if found[0] < 4.5] == []
                assert page.evaluate("() => document.documentElement.scrollWidth") == width
                # It would be read out every second.
                expect(page.get_by_role("timer")).to_have_attribute("aria-live", "off")
                expect(page.get_by_role("status")).to_have_text("Live")
            visitors.leave()  # before the server does


def test_script_that_is_told_to_end_leaves_no_process_behind(tmp_path):
    for name in ("scripts", "examples/time"):
        shutil.copytree(EXAMPLES.parent / name, tmp_path / name)
    shutil.copy(EXAMPLES.parent / "setup.py", tmp_path)
    # Nothing is installed where this says that it is there.
    python = tmp_path / ".venv-chat/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    installed = (
        'printf "%s %s %s\\n" "$PWD" "$("$0" -VV)" "$(cksum <setup.py)" >.venv-chat/installed'
    )
    subprocess.run(["sh", "-c", installed, python], cwd=tmp_path, check=True)
    with subprocess.Popen(
        [tmp_path / "scripts/time"],
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "clock.settings",
            "PYTHONPATH": str(EXAMPLES.parent),
            "TIME_PORT": str(free_port()),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as script:
        said = iter(script.stdout.readline, "")
        assert any("Clock: http://127.0.0.1:" in line for line in said)
        script.terminate()
        # All that it started writes there, too: this returns when the last one has ended.
        script.communicate(timeout=TIMEOUT)


def test_clock_has_less_than_sixty_lines_of_python():
    files = (EXAMPLES / "time").rglob("*.py")
    assert 0 < sum(len(file.read_text().splitlines()) for file in files) < 60
