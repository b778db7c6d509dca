"""RedisStorage, on real servers: alone, in a Cluster, behind Sentinel."""

import contextlib
import json
import socket
import socketserver
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import transaction
from django.test import override_settings

from django_eventstream import get_current_event_id, send_event
from django_eventstream.event import Event
from django_eventstream.exceptions import EventDoesNotExist
from django_eventstream.storage import RedisStorage, get_storage
from django_eventstream.storage import redis as module
from django_eventstream.storage.base import read_page
from django_eventstream.testing import StorageContractTests
from tests.processes import wait_until
from tests.redis_server import redis_cluster, redis_sentinel, redis_server
from tests.test_streaming import connect, data

pytestmark = pytest.mark.slow


def make_storage(connection, **options):
    with override_settings(EVENTSTREAM_STORAGE_CONNECTION={**connection, **options}):
        return RedisStorage()


class OnRedis(StorageContractTests):
    run_server = staticmethod(redis_server)

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        stack = contextlib.ExitStack()
        cls.addClassCleanup(stack.close)
        cls.server = stack.enter_context(cls.run_server())

    def servers(self):
        return [self.server]

    def make_storage(self):
        for server in self.servers():
            server.command("FLUSHALL")
        return make_storage(self.server.connection)

    def forget_before(self, storage, channel, event_id):
        client = storage._connect()
        for number in range(1, event_id):
            client.delete(storage._prefix(channel) + str(number).encode())


class OnCluster(OnRedis):
    @staticmethod
    def run_server():
        return redis_cluster(3)

    def servers(self):
        return self.server.nodes

    def test_channels_are_spread_over_the_nodes(self):
        names = [f"channel-{number}" for number in range(30)] + ["{", "}", "{}", "}{", "{a}b"]
        for name in names:
            self.append(name, "1", "2")
        assert self.storage.get_current_ids(names) == dict.fromkeys(names, 2)
        assert [len(self.storage.get_events(name, 0)) for name in names] == [2] * len(names)
        for server in self.server.nodes:
            assert server.command("DBSIZE") > 0
        assert self.storage.raise_counters(10) == len(names)
        assert self.storage.get_current_ids(names) == dict.fromkeys(names, 12)

    def test_node_that_was_restarted_is_found_again(self):
        self.append("a", "1")
        self.server.node_of("event_counter:{a}").restart()  # without its data
        wait_until(lambda: succeeds(self.storage.get_current_id, "a"))
        assert self.storage.get_current_id("a") == 0


def succeeds(function, *arguments):
    try:
        function(*arguments)
    except (redis.RedisError, redis.exceptions.RedisClusterException):
        return False
    return True


@pytest.fixture(scope="module")
def running_server():
    with redis_server() as server:
        yield server


@pytest.fixture
def server(running_server):
    """A server without data."""
    running_server.command("FLUSHALL")
    running_server.command("CONFIG", "RESETSTAT")
    return running_server


@pytest.fixture
def storage(server):
    return make_storage(server.connection)


@pytest.fixture
def project(server, settings):
    """A project with its log on the server."""
    settings.EVENTSTREAM_STORAGE_CLASS = "django_eventstream.storage.RedisStorage"
    settings.EVENTSTREAM_STORAGE_CONNECTION = server.connection
    settings.EVENTSTREAM_BROKER = "memory"
    settings.EVENTSTREAM_CHANNELMANAGER_CLASS = (
        "django_eventstream.channelmanager.DefaultChannelManager"
    )
    settings.EVENTSTREAM_POLL_INTERVAL = 0.05
    return settings


def append(storage, channel, count):
    return [storage.append_event(channel, "m", str(n)).id for n in range(1, count + 1)]


def ids(events):
    return [event.id for event in events]


def check_missing(storage, channel, last_id, current_id):
    with pytest.raises(EventDoesNotExist) as caught:
        storage.get_events(channel, last_id)
    assert caught.value.current_id == current_id


# Round trips


def calls(server):
    """Return how often clients and scripts called each command."""
    return {
        name.removeprefix("cmdstat_"): value["calls"]
        for name, value in server.info().items()
        if name.startswith("cmdstat_")
    }


def test_each_call_is_one_round_trip(server, storage):
    append(storage, "a", 1)
    storage.get_events("a", 0)  # both scripts are known to the server now
    server.command("CONFIG", "RESETSTAT")
    append(storage, "a", 10)
    storage.get_events("a", 1)
    assert calls(server)["evalsha"] == 11
    assert not {"eval", "script|load", "multi", "ping"} & calls(server).keys()
    server.command("CONFIG", "RESETSTAT")
    storage.poll([f"channel-{number}" for number in range(1000)])
    assert calls(server)["mget"] == 1
    assert "get" not in calls(server)


def test_scripts_that_the_server_forgot_are_sent_again(server, storage):
    append(storage, "a", 1)
    server.command("SCRIPT", "FLUSH")
    assert append(storage, "a", 1) == [2]
    assert ids(storage.get_events("a", 0)) == [1, 2]


def test_page_stops_at_the_limit_however_large(storage):
    append(storage, "a", 3)
    assert len(storage.get_events("a", 0, limit=10**9)) == 3


# What is kept


def test_events_expire_and_counters_do_not(server, storage):
    append(storage, "a", 1)
    assert 86_000_000 < server.command("PTTL", "event:a:1") <= 86_400_000
    assert server.command("PTTL", "event_counter:a") == -1
    with override_settings(EVENTSTREAM_RETENTION=1.5):
        append(storage, "a", 1)
    assert 0 < server.command("PTTL", "event:a:2") <= 1500


def test_expired_events_are_a_reset(server, storage):
    append(storage, "a", 4)
    for number in (1, 2):
        server.command("PEXPIRE", f"event:a:{number}", 0)
    check_missing(storage, "a", 0, 4)
    check_missing(storage, "a", 1, 4)
    assert ids(storage.get_events("a", 2)) == [3, 4]
    for number in (3, 4):
        server.command("PEXPIRE", f"event:a:{number}", 0)
    check_missing(storage, "a", 3, 4)
    assert storage.get_events("a", 4) == []
    assert append(storage, "a", 1) == [5]


def test_evicted_event_ends_a_page(server, storage):
    append(storage, "a", 4)
    server.command("DEL", "event:a:3")
    assert ids(storage.get_events("a", 0)) == [1, 2]
    check_missing(storage, "a", 2, 4)


def test_limit_is_kept_by_each_append(server, storage):
    with override_settings(EVENTSTREAM_MAX_EVENTS_PER_CHANNEL=20):
        append(storage, "a", 50)
        assert server.command("DBSIZE") == 1 + 20
    with override_settings(EVENTSTREAM_MAX_EVENTS_PER_CHANNEL=3):
        append(storage, "a", 1)
        assert server.command("DBSIZE") == 1 + 3
    check_missing(storage, "a", 47, 51)
    assert ids(storage.get_events("a", 48)) == [49, 50, 51]


def test_full_server_refuses_an_event_and_keeps_its_number(server, storage):
    append(storage, "a", 1)
    server.command("CONFIG", "SET", "maxmemory", 1)
    try:
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            append(storage, "a", 1)
    finally:
        server.command("CONFIG", "SET", "maxmemory", 0)
    assert append(storage, "a", 1) == [2]
    assert len(storage.get_events("a", 0)) == 2


# What is lost


def test_flushed_server_counts_anew_and_old_positions_are_a_reset(server, storage):
    append(storage, "a", 5)
    server.command("FLUSHALL")
    check_missing(storage, "a", 5, 0)
    assert append(storage, "a", 2) == [1, 2]
    for position in (3, 5):
        check_missing(storage, "a", position, 2)
    assert ids(storage.get_events("a", 0)) == [1, 2]


def test_numbers_that_a_sender_knows_are_not_given_again_after_a_loss(server, storage):
    append(storage, "a", 5)
    # A replica that had heard of the first three events has become the master.
    server.command("SET", "event_counter:a", 3)
    server.command("DEL", "event:a:4", "event:a:5")
    assert append(storage, "a", 2) == [6, 7]
    check_missing(storage, "a", 3, 7)  # has missed what is lost
    assert ids(storage.get_events("a", 5)) == [6, 7]  # has not


def test_evicted_counter_is_made_again_from_what_the_sender_knows(server, storage):
    append(storage, "a", 5)
    server.command("DEL", "event_counter:a")
    check_missing(storage, "a", 5, 0)
    assert append(storage, "a", 1) == [6]
    assert ids(storage.get_events("a", 0)) == [1, 2, 3, 4, 5, 6]


def test_senders_remember_a_limited_number_of_channels(storage, monkeypatch):
    monkeypatch.setattr(module, "REMEMBERED", 3)
    for number in range(20):
        append(storage, f"channel-{number}", 1)
        assert 1 <= len(storage._known) <= 3


def test_command_raises_the_counters(server, project):
    for channel in ("a", "b*[", "é"):
        send_event(channel, "m", 1)
    call_command("eventstream_raise_counters", by=1000, stdout=(out := Out()))
    assert out.text == "Raised 3 counters by 1000.\n"
    storage = get_storage()
    for position in (1, 2, 1000):
        check_missing(storage, "é", position, 1001)
    assert storage.get_events("é", 1001) == []
    assert send_event("é", "m", 1).id == 1002


def test_commands_say_what_there_is_to_do(project):
    send_event("a", "m", 1)
    call_command("eventstream_trim", stdout=(out := Out()))
    assert out.text == "Removed 0 events.\n"
    project.EVENTSTREAM_STORAGE_CLASS = "tests.storages.MemoryStorage"
    with pytest.raises(CommandError, match=r"MemoryStorage .* has no raise_counters"):
        call_command("eventstream_raise_counters")


class Out:
    text = ""

    def write(self, text):
        self.text += text


# Beside version 5.3.4


class Version5:
    """A process of version 5.3.4: what it asks of Redis."""

    def __init__(self, server):
        self.server = server

    def count(self, channel):
        return self.server.command("INCR", f"event_counter:{channel}")

    def store(self, channel, event_id, text):
        content = json.dumps({"type": "message", "data": text})
        self.server.command("SETEX", f"event:{channel}:{event_id}", 24 * 3600, content)

    def send(self, channel, text):
        event_id = self.count(channel)
        self.store(channel, event_id, text)
        return event_id

    def read(self, channel, last_id):
        events = []
        current_id = int(self.server.command("GET", f"event_counter:{channel}"))
        for event_id in range(last_id + 1, current_id + 1):
            if text := self.server.command("GET", f"event:{channel}:{event_id}"):
                content = json.loads(text)
                events.append((event_id, content["type"], content["data"]))
        return events


def test_events_and_numbers_of_version_5_go_on(server, storage):
    old = Version5(server)
    for channel in ("a", "A", "ä 1", "a:1", "{a}"):
        assert old.send(channel, f'"{channel}"') == 1
        assert append(storage, channel, 1) == [2]
        assert old.send(channel, "3") == 3
        texts = [f'"{channel}"', "1", "3"]
        assert [event.data for event in storage.get_events(channel, 0)] == texts
        assert [text for _, _, text in old.read(channel, 0)] == texts


def test_version_5_reads_events_for_some_users(server, storage):
    storage.append_event("a", "message", "é\ud7ff", skip_user_ids={"1"})
    assert Version5(server).read("a", 0) == [(1, "message", "é\ud7ff")]


def test_data_that_is_no_text_is_what_version_5_wrote(server, storage):
    for value in (7, None, {"a": 1}):
        Version5(server).send("a", value)
    assert [event.data for event in storage.get_events("a", 0)] == ["7", "None", "{'a': 1}"]


def test_number_whose_event_version_5_is_about_to_store_is_waited_for(server, storage, monkeypatch):
    old = Version5(server)
    append(storage, "a", 1)
    assert old.count("a") == 2
    monkeypatch.setattr(module.time, "sleep", lambda seconds: old.store("a", 2, "late"))
    assert storage.get_events("a", 1) == [Event("a", "message", "late", 2)]


def test_what_has_expired_is_not_waited_for(server, storage, monkeypatch):
    append(storage, "a", 3)
    server.command("DEL", "event:a:1", "event:a:2")
    monkeypatch.setattr(module.time, "sleep", None)
    for position in (0, 1):
        check_missing(storage, "a", position, 3)
    check_missing(storage, "a", 4, 3)


def test_number_without_an_event_is_a_reset(server, storage):
    append(storage, "a", 1)
    assert Version5(server).count("a") == 2  # and then it was killed
    append(storage, "a", 1)
    assert ids(storage.get_events("a", 0)) == [1]
    check_missing(storage, "a", 1, 3)
    assert ids(storage.get_events("a", 2)) == [3]


# Many at once

SENDER = """
import sys
from concurrent.futures import ThreadPoolExecutor
import django
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["django_eventstream"],
    EVENTSTREAM_STORAGE_CLASS="django_eventstream.storage.RedisStorage",
    EVENTSTREAM_STORAGE_CONNECTION=sys.argv[1],
)
django.setup()
from django_eventstream.storage import get_storage
"""

MANY = """
def send(thread):
    events = [
        get_storage().append_event("a", "m", f"{sys.argv[2]}-{thread}-{number}")
        for number in range(50)
    ]
    return [f"{event.id} {event.data}" for event in events]

with ThreadPoolExecutor() as pool:
    for lines in pool.map(send, range(4)):
        print(*lines, sep="\\n")
"""

FORK = """
import os
storage = get_storage()
storage.append_event("a", "m", "parent")
if child := os.fork():
    storage.append_event("a", "m", "parent")
    assert os.waitpid(child, 0)[1] == 0
    storage.append_event("a", "m", "parent")
else:
    for _ in range(10):
        storage.append_event("a", "m", "child")
    os._exit(0)
"""


def run(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", SENDER + code, *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        cwd=Path(__file__).parent.parent,
    )
    return done.stdout


def test_processes_and_threads_share_one_order(server, storage):
    told = {}
    with ThreadPoolExecutor() as pool:
        for output in pool.map(lambda number: run(MANY, server.url, str(number)), range(3)):
            for line in output.splitlines():
                event_id, text = line.split()
                told[int(event_id)] = text
    assert sorted(told) == list(range(1, 601))
    stored = []
    while page := storage.get_events("a", len(stored)):
        stored += page
    assert {event.id: event.data for event in stored} == told
    # Each thread's events are in the order in which it sent them.
    for thread in {text.rpartition("-")[0] for text in told.values()}:
        numbers = [event.data for event in stored if event.data.startswith(thread + "-")]
        assert numbers == [f"{thread}-{number}" for number in range(50)]


def test_forked_child_has_connections_of_its_own(server, storage):
    run(FORK, server.url)
    texts = [event.data for event in storage.get_events("a", 0)]
    assert sorted(texts) == ["child"] * 10 + ["parent"] * 3


def test_connections_are_as_many_as_threads_that_wait_at_once(server, storage):
    before = server.info()["connected_clients"]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: append(storage, str(number), 1), range(200)))
    assert server.info()["connected_clients"] <= before + 4


# Servers that go


def test_restart_with_persistence_loses_nothing():
    with redis_server(persistent=True) as server:
        storage = make_storage(server.connection)
        append(storage, "a", 3)
        server.kill()
        with pytest.raises(redis.ConnectionError):
            append(storage, "a", 1)
        with pytest.raises(redis.ConnectionError):
            storage.get_events("a", 0)
        server.restart()
        assert ids(storage.get_events("a", 0)) == [1, 2, 3]
        assert append(storage, "a", 1) == [4]
        server.restart()
        # The connection in the pool is dead; neither call notices.
        assert append(storage, "a", 1) == [5]
        assert storage.get_current_id("a") == 5


@pytest.mark.parametrize("start", [redis_server, redis_cluster])
def test_append_without_an_answer_is_not_sent_again(start):
    with start() as running:
        storage = make_storage(running.connection, socket_timeout=1)
        append(storage, "a", 1)
        hanging = running if start is redis_server else running.nodes[0]
        hanging.pause()
        try:
            started = time.monotonic()
            assert not succeeds(append, storage, "a", 1)
            assert time.monotonic() - started < 10
            assert not succeeds(storage.get_events, "a", 0)
        finally:
            hanging.resume()
        # It was stored, once, when the server went on.
        wait_until(lambda: succeeds(storage.get_current_id, "a"))
        wait_until(lambda: storage.get_current_id("a") == 2)
        assert append(storage, "a", 1) == [3]


class Relay(socketserver.ThreadingTCPServer):
    """Stands between a client and a server, and cuts connections that wait for an answer."""

    daemon_threads = True
    #: How many scripts are still to be left without an answer.
    cuts = 0

    def __init__(self, port):
        self.port = port
        super().__init__(("127.0.0.1", 0), RelayedConnection)

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return super().__enter__()

    def __exit__(self, *exc_info):
        self.shutdown()
        super().__exit__(*exc_info)


class RelayedConnection(socketserver.BaseRequestHandler):
    def handle(self):
        with socket.create_connection(("127.0.0.1", self.server.port)) as upstream:
            while request := self.request.recv(1 << 16):
                upstream.sendall(request)
                answer = upstream.recv(1 << 16)
                if self.server.cuts and b"EVALSHA" in request:
                    self.server.cuts -= 1
                    return
                self.request.sendall(answer)


def test_lost_answer_is_an_error_to_a_sender_and_none_to_a_reader(server):
    with Relay(server.port) as relay:
        storage = make_storage({"port": relay.server_address[1]})
        append(storage, "a", 1)
        assert ids(storage.get_events("a", 0)) == [1]
        relay.cuts = 1
        with pytest.raises(redis.ConnectionError):
            append(storage, "a", 1)
        assert storage.get_current_id("a") == 2  # stored, and not a second time
        relay.cuts = 1
        assert ids(storage.get_events("a", 0)) == [1, 2]
        assert relay.cuts == 0
        assert append(storage, "a", 1) == [3]


def test_sentinel_fails_over_to_a_replica_that_goes_on():
    with redis_sentinel() as running:
        storage = make_storage(running.connection)
        append(storage, "a", 3)
        replica = next(s for s in running.servers if s is not running.master())
        wait_until(lambda: replica.command("GET", "event_counter:a") == "3")
        running.fail_over()
        wait_until(lambda: succeeds(storage.get_current_id, "a"))
        assert ids(storage.get_events("a", 0)) == [1, 2, 3]
        assert append(storage, "a", 1) == [4]


def test_read_only_replica_is_an_error_to_the_sender(server):
    with redis_server(replicaof=("127.0.0.1", server.port)) as replica:
        storage = make_storage(replica.connection)
        with pytest.raises(redis.exceptions.ReadOnlyError):
            append(storage, "a", 1)


# In a project


@pytest.mark.django_db(transaction=True)
def test_event_of_a_transaction_is_appended_after_the_commit(project, server):
    with transaction.atomic():
        assert send_event("a", "m", 1, skip_user_ids=[7]).id is None
        assert get_storage().get_current_id("a") == 0
    assert get_storage().get_events("a", 0) == [Event("a", "m", "1", 1, frozenset({"7"}))]
    with contextlib.suppress(ZeroDivisionError), transaction.atomic():
        send_event("a", "m", 2)
        _ = 1 / 0
    assert get_current_event_id(["a"]) == "a:1"


def test_missing_package_names_the_remedy(project, monkeypatch):
    for name in ("storage.redis", "redisclients"):
        monkeypatch.delitem(sys.modules, f"django_eventstream.{name}")
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ImproperlyConfigured, match=r"pip install django-eventstream\[redis\]"):
        get_storage()


def test_error_of_redis_reaches_the_sender(project):
    project.EVENTSTREAM_STORAGE_CONNECTION = "redis://127.0.0.1:1"
    with pytest.raises(redis.ConnectionError):
        send_event("a", "m", 1)


async def test_stream_resumes_from_the_log_and_goes_on_live(project, server):
    storage = make_storage(server.connection)  # another process
    for text in ("1", "2", "3"):
        storage.append_event("a", "m", text)
    async with connect("a", a=1) as client:
        (opened, *events) = await client.take(3)
        assert (opened.type, opened.last_event_id) == ("stream-open", "a:1")
        assert data(events) == [2, 3]
        storage.append_event("a", "m", "4")
        event = await client.next()
        assert (event.data, event.last_event_id) == ("4", "a:4")


async def test_expired_events_reset_a_stream_that_resumes(project, server):
    storage = make_storage(server.connection)
    append(storage, "a", 3)
    server.command("PEXPIRE", "event:a:2", 0)
    async with connect("a", a=1) as client:
        _, reset = await client.take(2)
        assert (reset.type, reset.last_event_id) == ("stream-reset", "a:3")
        assert json.loads(reset.data) == {"channels": ["a"]}
        append(storage, "a", 1)
        assert (await client.next()).last_event_id == "a:4"


async def test_flushed_server_resets_open_streams(project, server):
    storage = make_storage(server.connection)
    append(storage, "a", 3)
    async with connect("a", a=3) as client:
        assert (await client.next()).type == "stream-open"
        server.command("FLUSHALL")
        reset = await client.next()
        assert (reset.type, reset.last_event_id) == ("stream-reset", "a:0")
        append(storage, "a", 1)
        assert (await client.next()).last_event_id == "a:1"


async def test_stream_waits_while_redis_is_away(project, server, caplog):
    with redis_server(persistent=True) as own:
        project.EVENTSTREAM_STORAGE_CONNECTION = own.connection
        storage = make_storage(own.connection)
        append(storage, "a", 1)
        async with connect("a", a=1) as client:
            assert (await client.next()).type == "stream-open"
            own.kill()
            project.EVENTSTREAM_KEEP_ALIVE_INTERVAL = 0.05
            while "Cannot read the event log" not in caplog.text:
                await client.pull()
            own.restart()
            append(storage, "a", 1)
            event = await client.next()
            while event.type == "keep-alive":
                event = await client.next()
            assert event.last_event_id == "a:2"


def test_positions_are_held_to_the_contract(storage):
    append(storage, "a", 2)
    assert ids(read_page(storage, "a", 1, 10)) == [2]
    assert read_page(storage, "a", 2, 10) == []
    with pytest.raises(EventDoesNotExist):
        read_page(storage, "a", 3, 10)
