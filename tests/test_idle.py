"""A stream that waits holds no thread and no database connection."""

import contextlib
import json
import os
from pathlib import Path

import pytest

from tests import settings
from tests.processes import serve, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.database]

STREAMS = int(os.environ.get("EVENTSTREAM_TEST_STREAMS", "1000"))


def count_connections(site, database):
    """Return how many connections to the database the server has."""
    process = Path(f"/proc/{site.process.popen.pid}")
    files = []
    for descriptor in (process / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            files.append(os.readlink(descriptor))
    if settings.BACKEND == "sqlite":
        return files.count(database)
    lines = [line.split() for line in (process / "net/tcp").read_text().splitlines()[1:]]
    port = f":{int(settings.PORT):04X}"
    return sum(
        remote.endswith(port) and f"socket:[{inode}]" in files
        for _, _, remote, *_, inode in (line[:10] for line in lines)
    )


def count_threads(site):
    return json.loads(site.request("GET", "/threads/")[2])["threads"]


@pytest.mark.parametrize("application", ["application", "through_channels"])
def test_idle_streams_hold_no_thread_and_no_connection(shared_database, application):
    channel = f"idle-{application}"
    with serve("uvicorn", application, database=shared_database) as site:
        _, cookie = site.log_in("idler")
        path = f"/events/?channel={channel}&channel=users-{channel}"
        streams = []
        try:
            for _ in range(STREAMS):
                streams.append(site.open(path, Cookie=cookie))
            for stream in streams:
                assert stream.next().type == "stream-open"
            # The reading threads' own idle time is a few seconds.
            wait_until(lambda: count_threads(site) <= 12)
            wait_until(lambda: count_connections(site, shared_database) <= 8)
            site.send({"channel": channel, "event_type": "message", "data": 1})
            for stream in streams:
                assert stream.next().data == "1"
        finally:
            for stream in streams:
                stream.close()
        site.send({"channel": channel, "event_type": "message", "data": 2})
        wait_until(lambda: count_threads(site) <= 12)
        assert "Error" not in site.process.output(), site.process.output()
