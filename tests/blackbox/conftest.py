"""Deployments: each test here runs against every server, native and through Channels."""

import itertools
import os

import pytest

from tests import settings
from tests.processes import serve

DEPLOYMENTS = {
    "uvicorn": ("uvicorn", "application", {}),
    "uvicorn-channels": ("uvicorn", "through_channels", {}),
    "daphne": ("daphne", "application", {}),
    "daphne-channels": ("daphne", "through_channels", {}),
    "hypercorn": ("hypercorn", "application", {}),
    "hypercorn-channels": ("hypercorn", "through_channels", {}),
    "granian": ("granian", "application", {}),
    "granian-channels": ("granian", "through_channels", {}),
    "runserver": ("runserver", "application", {}),
    "runserver-daphne": ("runserver", "", {"EVENTSTREAM_TEST_RUNSERVER": "daphne"}),
    "async-manager": (
        "uvicorn",
        "application",
        {"EVENTSTREAM_TEST_CHANNELMANAGER": "AsyncChannelManager"},
    ),
    "async-manager-channels": (
        "uvicorn",
        "through_channels",
        {"EVENTSTREAM_TEST_CHANNELMANAGER": "AsyncChannelManager"},
    ),
}
# Servers do not care for the database: on the other databases one of them is enough.
NAMES = list(DEPLOYMENTS) if settings.BACKEND == "sqlite" else ["uvicorn"]
NAMES = os.environ.get("EVENTSTREAM_TEST_DEPLOYMENTS", "").split() or NAMES


@pytest.fixture(scope="session", params=NAMES)
def site(request, shared_database):
    """A deployment."""
    server, application, environment = DEPLOYMENTS[request.param]
    environment = {"EVENTSTREAM_TEST_KEEP_ALIVE": "2", **environment}
    with serve(server, application, database=shared_database, **environment) as site:
        site.name = request.param
        yield site


_numbers = itertools.count(1)


@pytest.fixture
def channel():
    """A channel that no other test uses."""
    return f"channel-{next(_numbers)}"
