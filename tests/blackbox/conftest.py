"""Deployments: each test here runs against every server, native and through Channels."""

import contextlib
import itertools
import os

import pytest

from tests import settings
from tests.processes import free_port, serve
from tests.pushpin import pushpin

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
# Behind Pushpin, all that a client says and hears goes through it.
BEHIND_PUSHPIN = {
    "pushpin-gunicorn": ("gunicorn", "application", {}),
    "pushpin-uvicorn": ("uvicorn", "application", {}),
    "pushpin-uvicorn-channels": ("uvicorn", "through_channels", {}),
    "pushpin-daphne": ("daphne", "application", {}),
}
# Servers do not care for the database: on the other databases one of them is enough.
NAMES = [*DEPLOYMENTS, *BEHIND_PUSHPIN]
if settings.BACKEND != "sqlite":
    NAMES = ["uvicorn", "pushpin-gunicorn"]
NAMES = os.environ.get("EVENTSTREAM_TEST_DEPLOYMENTS", "").split() or NAMES


@pytest.fixture(scope="session", params=NAMES)
def site(request, shared_database):
    """A deployment."""
    name = request.param
    server, application, environment = {**DEPLOYMENTS, **BEHIND_PUSHPIN}[name]
    environment = {"EVENTSTREAM_TEST_KEEP_ALIVE": "2", **environment}
    with contextlib.ExitStack() as stack:
        proxy, port = None, free_port()
        if name in BEHIND_PUSHPIN:
            proxy = stack.enter_context(pushpin(port))
            environment["EVENTSTREAM_TEST_GRIP_URL"] = proxy.control_uri
        site = stack.enter_context(
            serve(server, application, database=shared_database, port=port, **environment)
        )
        site.name = name
        site.proxy = proxy
        if proxy is not None:
            site.port = proxy.port
        yield site


_numbers = itertools.count(1)


@pytest.fixture
def channel():
    """A channel that no other test uses."""
    return f"channel-{next(_numbers)}"
