"""What one process sends reaches the streams of all others, by every broker."""

from __future__ import annotations

import contextlib
import itertools
import json
from dataclasses import dataclass, field

import pytest

from tests import settings
from tests.conftest import manage
from tests.processes import Site, serve
from tests.redis_server import redis_cluster, redis_sentinel, redis_server

pytestmark = [pytest.mark.slow, pytest.mark.database]

WORKERS = 4
#: So many that each worker has some.
STREAMS = 16

DEPLOYMENTS = ["database", "redis"]
if settings.BACKEND == "sqlite":
    DEPLOYMENTS += ["redis-storage", "redis-cluster", "redis-sentinel", "channels", "several"]
#: Where another process's messages come at once, and not by polling.
IMMEDIATE = {*DEPLOYMENTS} - ({"database"} if settings.BACKEND != "postgresql" else set())

_numbers = itertools.count(1)


@dataclass
class Deployment:
    """Several workers, and how a process beside them is set up."""

    name: str
    site: Site
    database: str
    environment: dict[str, str] = field(default_factory=dict)

    def shell(self, code: str) -> None:
        """Run code in a process of its own, as ``manage.py shell`` does."""
        imports = (
            "from django_eventstream import send_event, channel_permission_changed\n"
            "from django.contrib.auth.models import Group, User\n"
        )
        manage(self.database, "shell", "-c", imports + code, **self.environment)

    @contextlib.contextmanager
    def streams(self, query: str, **headers: str):
        """Open streams, spread over the workers."""
        with contextlib.ExitStack() as stack:
            streams = []
            for _ in range(STREAMS):
                stream = self.site.open(f"/events/?{query}", **headers)
                streams.append(stack.enter_context(stream))
            for stream in streams:
                assert stream.next().type == "stream-open"
            yield streams


@pytest.fixture(scope="module", params=DEPLOYMENTS)
def deployment(request, shared_database):
    name = request.param
    with contextlib.ExitStack() as stack:
        environment = {"EVENTSTREAM_TEST_BROKER": name.partition("-")[0]}
        if name == "redis-cluster":
            cluster = stack.enter_context(redis_cluster(3))
            environment["EVENTSTREAM_TEST_REDIS"] = json.dumps(cluster.connection)
        elif name == "redis-sentinel":
            sentinel = stack.enter_context(redis_sentinel())
            environment["EVENTSTREAM_TEST_REDIS"] = json.dumps(sentinel.connection)
        elif name == "redis-storage":
            server = stack.enter_context(redis_server())
            del environment["EVENTSTREAM_TEST_BROKER"]  # it follows from the storage
            environment["EVENTSTREAM_TEST_STORAGE"] = "django_eventstream.storage.RedisStorage"
            environment["EVENTSTREAM_TEST_STORAGE_CONNECTION"] = server.url
        elif name != "database":
            server = stack.enter_context(redis_server())
            environment["EVENTSTREAM_TEST_REDIS"] = server.url
            environment["EVENTSTREAM_TEST_CHANNEL_LAYER"] = server.url
        if name == "several":
            environment["EVENTSTREAM_TEST_BROKER"] = "database,redis,channels"
        interval = "60" if name in IMMEDIATE else "0.3"
        environment["EVENTSTREAM_TEST_POLL_INTERVAL"] = interval
        site = stack.enter_context(
            serve(
                "uvicorn",
                database=shared_database,
                options=["--workers", str(WORKERS)],
                **environment,
            )
        )
        yield Deployment(name, site, shared_database, environment)
        output = site.process.output()
        assert "Traceback" not in output, output
        assert "WARNING" not in output, output


@pytest.fixture
def channel():
    return f"processes-{next(_numbers)}"


@pytest.mark.parametrize("kind", ["reliable", "loose"])
def test_events_of_another_process_reach_every_stream_in_order(deployment, channel, kind):
    channel = f"{kind}-{channel}"
    with deployment.streams(f"channel={channel}") as streams:
        deployment.shell(f"for n in range(200): send_event({channel!r}, 'message', n)")
        for stream in streams:
            assert [event.data for event in stream.take(200)] == [str(n) for n in range(200)]


def test_events_larger_than_what_databases_notify_arrive(deployment, channel):
    channels = [channel, f"loose-{channel}"]
    with deployment.streams("&".join(f"channel={name}" for name in channels)) as streams:
        deployment.shell(
            "text = 'ж' * 50_000\n"
            f"for name in {channels!r}: send_event(name, 'message', text, json_encode=False)"
        )
        for stream in streams:
            assert {event.data for event in stream.take(2)} == {"ж" * 50_000}


def test_kick_from_another_process_ends_the_users_streams_in_all(deployment, channel):
    group = f"g{channel.partition('-')[2]}"
    name = f"group-{group}-{channel}"
    user_id, cookie = deployment.site.log_in(f"user-{channel}", group)
    _, other = deployment.site.log_in(f"other-{channel}", group)
    with (
        deployment.streams(f"channel={name}&channel={channel}", Cookie=cookie) as streams,
        deployment.streams(f"channel={name}", Cookie=other) as others,
    ):
        deployment.shell(
            f"user = User.objects.get(pk={user_id}); user.groups.clear()\n"
            f"channel_permission_changed(user, {name!r})\n"
            f"send_event({name!r}, 'message', 'after')"
        )
        for stream in streams:
            error = stream.next()
            if deployment.name not in IMMEDIATE and error.type == "message":
                error = stream.next()  # polled, an event and a kick may overtake each other
            assert error.type == "stream-error", error
            assert json.loads(error.data)["condition"] == "forbidden"
            assert stream.next() is None
        for stream in others:
            assert stream.next().data == '"after"'


def test_users_are_skipped_in_all_processes(deployment, channel):
    for name in (channel, f"loose-{channel}"):
        user_id, cookie = deployment.site.log_in(f"user-{channel}")
        with (
            deployment.streams(f"channel={name}", Cookie=cookie) as skipped,
            deployment.streams(f"channel={name}") as others,
        ):
            deployment.shell(
                f"send_event({name!r}, 'message', 1, skip_user_ids=[{user_id}])\n"
                f"send_event({name!r}, 'message', 2)"
            )
            for stream in skipped:
                assert stream.next().data == "2"
            for stream in others:
                assert [event.data for event in stream.take(2)] == ["1", "2"]
