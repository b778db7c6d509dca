"""What one process sends reaches the streams of all others, by every broker."""

from __future__ import annotations

import contextlib
import itertools
import json
from dataclasses import dataclass, field

import pytest

from tests import settings
from tests.conftest import manage
from tests.databases import pgbouncer, postgresql
from tests.processes import Site, serve, wait_until
from tests.redis_server import redis_cluster, redis_sentinel, redis_server

pytestmark = pytest.mark.slow

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


@pytest.mark.database
@pytest.mark.parametrize("kind", ["reliable", "loose"])
def test_events_of_another_process_reach_every_stream_in_order(deployment, channel, kind):
    channel = f"{kind}-{channel}"
    with deployment.streams(f"channel={channel}") as streams:
        deployment.shell(f"for n in range(200): send_event({channel!r}, 'message', n)")
        for stream in streams:
            assert [event.data for event in stream.take(200)] == [str(n) for n in range(200)]


@pytest.mark.database
def test_events_larger_than_what_databases_notify_arrive(deployment, channel):
    channels = [channel, f"loose-{channel}"]
    with deployment.streams("&".join(f"channel={name}" for name in channels)) as streams:
        deployment.shell(
            "text = 'ж' * 50_000\n"
            f"for name in {channels!r}: send_event(name, 'message', text, json_encode=False)"
        )
        for stream in streams:
            assert {event.data for event in stream.take(2)} == {"ж" * 50_000}


@pytest.mark.database
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


@pytest.mark.database
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


# What fails in between


@contextlib.contextmanager
def one_worker(database: str, **environment: str):
    """Serve from one process."""
    with serve("uvicorn", database=database, **environment) as site:
        yield Deployment("", site, database, environment)


def test_streams_go_on_when_redis_comes_back(shared_database, channel):
    loose = f"loose-{channel}"
    with redis_server() as server:
        environment = {
            "EVENTSTREAM_TEST_REDIS": server.url,
            "EVENTSTREAM_TEST_POLL_INTERVAL": "60",
        }
        with (
            one_worker(shared_database, **environment) as deployment,
            deployment.site.open(f"/events/?channel={channel}&channel={loose}") as stream,
        ):
            assert stream.next().type == "stream-open"
            server.kill()
            wait_until(lambda: "does not hear" in deployment.site.process.output())
            deployment.shell(  # which neither fails nor waits for long
                "import time; from django_eventstream.brokers import get_brokers\n"
                "get_brokers(); began = time.monotonic()\n"
                f"send_event({channel!r}, 'message', 'down'); send_event({loose!r}, 'message', 0)\n"
                "assert time.monotonic() - began < 1"
            )
            server.start()
            events = stream.take(2)
            assert [event.type for event in events if event.data == '"down"'] == ["message"]
            (reset,) = (event for event in events if event.type == "stream-reset")
            assert json.loads(reset.data) == {"channels": [loose]}
            deployment.shell(f"for name in {[channel, loose]!r}: send_event(name, 'message', 'up')")
            assert [event.data for event in stream.take(2)] == ['"up"'] * 2


def test_where_a_pooler_swallows_notifications_polling_goes_on(channel):
    with postgresql() as server, pgbouncer(server.port) as port:
        environment = {
            "EVENTSTREAM_TEST_DATABASE": "postgresql",
            "EVENTSTREAM_TEST_DATABASE_PORT": str(port),
            "EVENTSTREAM_TEST_POLL_INTERVAL": "0.3",
        }
        group = f"g{channel.partition('-')[2]}"
        name = f"group-{group}-{channel}"
        manage("postgres", "migrate", "-v0", **environment)
        with one_worker("postgres", **environment) as deployment:
            user_id, cookie = deployment.site.log_in(f"user-{channel}", group)
            query = f"channel={name}&channel=loose-{channel}"
            with deployment.site.open(f"/events/?{query}", Cookie=cookie) as stream:
                assert stream.next().type == "stream-open"
                wait_until(lambda: "LISTEN has no effect" in deployment.site.process.output())
                deployment.shell(
                    f"send_event({name!r}, 'message', 1); send_event('loose-{channel}', 'm', 2)"
                )
                assert {event.data for event in stream.take(2)} == {"1", "2"}
                deployment.shell(
                    f"user = User.objects.get(pk={user_id}); user.groups.clear()\n"
                    f"channel_permission_changed(user, {name!r})"
                )
                assert stream.next().type == "stream-error"
            assert deployment.site.process.output().count("LISTEN has no effect") == 1


def test_a_full_channel_layer_is_a_gap(shared_database, channel):
    loose = f"loose-{channel}"
    with redis_server() as server:
        environment = {
            "EVENTSTREAM_TEST_BROKER": "channels",
            "EVENTSTREAM_TEST_CHANNEL_LAYER": server.url,
            "EVENTSTREAM_TEST_CAPACITY": "10",
        }
        with (
            one_worker(shared_database, **environment) as deployment,
            deployment.site.open(f"/events/?channel={loose}") as stream,
        ):
            assert stream.next().type == "stream-open"
            deployment.shell(
                "import time\n"
                "for n in range(310):\n"
                f"    send_event({loose!r}, 'message', n)\n"
                "    if n >= 300: time.sleep(0.2)  # so that there is room again"
            )
            position, is_told, resets = -1, False, 0
            while position < 309:
                event = stream.next()
                if event.type == "stream-reset":
                    is_told = True
                    resets += 1
                else:
                    number = int(event.data)
                    assert number == position + 1 or (is_told and number > position)
                    position, is_told = number, False
            assert resets


def test_what_another_thread_writes_is_written_before_a_command_ends(shared_database, channel):
    def run(code):
        return manage(shared_database, "shell", "-c", code)

    run(
        "from django.db import transaction\n"
        "from django_eventstream import send_event\n"
        "with transaction.atomic():\n"
        f"    send_event('loose-{channel}', 'message', 1, on_commit=False)"
    )
    texts = run(
        "from django_eventstream.models import BrokerMessage\n"
        "print(*BrokerMessage.objects.values_list('text', flat=True))"
    )
    assert f"loose-{channel}" in texts
