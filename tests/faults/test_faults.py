"""A few runs of the harness that are short enough for every day; see docs/reliability.md."""

import os

import pytest

from tests.databases import NotInstalled, find_program
from tests.faults import harness
from tests.faults.harness import run
from tests.faults.report import Plan
from tests.faults.schedule import BACKENDS, FAULTS

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("EVENTSTREAM_TEST_SEED", "1"))
SMALL = {"clients": 40, "rate": 270, "channels": 8, "workers": 2, "senders": 2}
DELIVERIES = 7000
PROGRAMS = {"postgresql": "initdb", "redis": "redis-server"}


def need(backend):
    for part in backend.split("-"):
        try:
            find_program(PROGRAMS.get(part, "sh"))
        except NotInstalled as error:
            pytest.skip(str(error))


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_event_arrives_once_and_in_order_or_a_reset_does(backend):
    need(backend)
    report = run(Plan(backend, seed=SEED, deliveries=DELIVERIES, **SMALL))
    assert report.deviations == [], str(report)
    assert report.figures.delivered >= DELIVERIES
    assert set(report.faults) == set(FAULTS[backend])


@pytest.mark.parametrize(
    ("defect", "found"), [("lose", "without a reset"), ("repeat", "repeated: channel-")]
)
def test_harness_finds_a_planted_defect(monkeypatch, defect, found):
    monkeypatch.setattr(
        harness, "CATCH_UP_LIMIT", 3.0
    )  # a client that lost the last one never does
    report = run(Plan("sqlite-database", seed=SEED, deliveries=1500, defect=defect, **SMALL))
    assert any(found in deviation for deviation in report.deviations), str(report)
    assert report.plan.command in str(report)
    assert f"--seed {SEED}" in report.plan.command
