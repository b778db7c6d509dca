"""The end of processes, and clients that do not read: real servers first, then the parts."""

import asyncio
import contextlib
import errno
import itertools
import json
import multiprocessing
import os
import re
import selectors
import signal
import socket
import sys
import threading
import time

import pytest
from asgiref.sync import sync_to_async

from django_eventstream import brokers, hub, send_event, shutdown
from django_eventstream.disconnect import Connection, disconnect
from tests.processes import TIMEOUT, Process, Site, free_port, serve, wait_until
from tests.test_streaming import Client, reached

STREAMS = int(os.environ.get("EVENTSTREAM_TEST_SHUTDOWN_STREAMS", "500"))
#: Within how many seconds a server is to have ended.
LIMIT = 3.0


class Crowd:
    """Many clients that read streams, on one thread."""

    def __init__(self, port, path, count):
        self._selector = selectors.DefaultSelector()
        self.bodies = {}
        for _ in range(count):
            client = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            client.setblocking(False)
            self._selector.register(client, selectors.EVENT_READ)
            self.bodies[client] = bytearray()
            self._read(0)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        for client in self.bodies:
            client.close()
        self._selector.close()

    def _read(self, timeout):
        for key, _ in self._selector.select(timeout):
            data = b""
            with contextlib.suppress(ConnectionError):
                data = key.fileobj.recv(1 << 16)
            self.bodies[key.fileobj] += data
            if not data:
                self._selector.unregister(key.fileobj)

    def read_until(self, condition):
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < deadline, list(self.bodies.values())[:3]
            self._read(0.02)

    def wait_for(self, pattern):
        self.read_until(lambda: all(re.search(pattern, body) for body in self.bodies.values()))

    @property
    def retries(self):
        bodies = b"".join(self.bodies.values())
        return [int(delay) for delay in re.findall(rb"retry: (\d+)\n\n", bodies)]

    @property
    def are_complete(self):
        """Whether each body has the end that HTTP asks for, behind the stream's own."""
        return all(
            re.search(rb"retry: \d+\n\n\r\n0\r\n\r\n$", body) for body in self.bodies.values()
        )


class Stuck:
    """A client that opens a stream and does not read it."""

    def __init__(self, port, path):
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(TIMEOUT)
        self.socket.connect(("127.0.0.1", port))
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.socket.close()

    def read_to_the_end(self):
        """Read all that the system still has of the connection."""
        with contextlib.suppress(ConnectionError):
            while self.socket.recv(1 << 16):
                pass


def count_streams(site):
    return json.loads(site.request("GET", "/streams/")[2])["streams"]


def end(site, crowd, number=signal.SIGTERM):
    """Signal the server; return after how many seconds it had ended."""
    started = time.monotonic()
    site.process.popen.send_signal(number)
    crowd.read_until(lambda: site.process.popen.poll() is not None)
    return time.monotonic() - started


def assert_quiet(output):
    assert not re.search(r"Traceback|Error\b|ERROR|Exception|Warning:", output), output


#: What servers exit with when they were told to.
CODES = {"uvicorn": -signal.SIGTERM}

DEPLOYMENTS = [
    *("uvicorn", "uvicorn-workers", "hypercorn", "hypercorn-single", "hypercorn-workers"),
    *("granian", "daphne"),
]


@pytest.mark.slow
@pytest.mark.parametrize("server", DEPLOYMENTS)
def test_server_ends_with_complete_streams(shared_database, server):
    with serve(server, database=shared_database) as site:
        with Crowd(site.port, "/events/?channel=shutdown", STREAMS) as crowd:
            crowd.wait_for(b"stream-open")
            duration = end(site, crowd)
            crowd.wait_for(rb"retry: \d+\n\n")
            assert crowd.are_complete
            assert len(crowd.retries) == STREAMS
            # So that they do not come back all at once.
            assert len(set(crowd.retries)) > STREAMS / 2
            assert min(crowd.retries) >= 1500
            assert max(crowd.retries) <= 4500
        assert duration < LIMIT
        assert site.process.popen.returncode == CODES.get(server, 0)
        assert_quiet(without_lifespan(site.process.output()))


def without_lifespan(output):
    """Drop what servers say of applications that do not speak the lifespan protocol."""
    return re.sub(r"(?i)^.*lifespan.*$", "", output, flags=re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("server", ["uvicorn", "hypercorn", "granian", "daphne"])
def test_streams_through_channels_are_complete_at_an_interrupt(shared_database, server):
    with serve(server, "through_channels", database=shared_database) as site:
        with Crowd(site.port, "/events/?channel=shutdown", STREAMS // 5) as crowd:
            crowd.wait_for(b"stream-open")
            duration = end(site, crowd, signal.SIGINT)
            crowd.wait_for(rb"retry: \d+\n\n")
            assert crowd.are_complete
        assert duration < LIMIT
        assert site.process.popen.returncode == 0
        assert_quiet(without_lifespan(site.process.output()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("server", "application"),
    [
        ("uvicorn", "application"),
        ("uvicorn", "through_channels"),
        ("hypercorn", "application"),
        ("granian", "application"),
        ("granian", "through_channels"),
        ("daphne", "application"),
    ],
)
def test_client_that_does_not_read_holds_up_neither_the_others_nor_the_end(
    shared_database, server, application
):
    with serve(server, application, database=shared_database) as site:
        with (
            Crowd(site.port, "/events/?channel=shutdown", 20) as crowd,
            Stuck(site.port, "/events/?channel=loose-stuck"),
        ):
            crowd.wait_for(b"stream-open")
            wait_until(lambda: count_streams(site) == 21)
            site.request("GET", "/burst/loose-stuck/40/?size=200000")
            started = time.monotonic()
            site.process.popen.send_signal(signal.SIGTERM)
            crowd.wait_for(rb"retry: \d+\n\n")
            assert time.monotonic() - started < 1
            crowd.read_until(lambda: site.process.popen.poll() is not None)
            assert time.monotonic() - started < LIMIT
            assert crowd.are_complete
        assert_quiet(without_lifespan(site.process.output()))


@pytest.mark.slow
@pytest.mark.parametrize("application", ["application", "through_channels"])
@pytest.mark.parametrize("server", ["uvicorn", "hypercorn", "granian"])
def test_client_that_does_not_read_is_cut_off_and_delays_nobody(
    shared_database, server, application
):
    # The hub's clock goes by the keep-alives.
    settings = {"EVENTSTREAM_TEST_SEND_TIMEOUT": "2", "EVENTSTREAM_TEST_KEEP_ALIVE": "1"}
    path = "/events/?channel=loose-cut"
    with serve(server, application, database=shared_database, **settings) as site:
        with Stuck(site.port, path) as stuck, Crowd(site.port, path, 1) as crowd:
            (body,) = crowd.bodies.values()
            crowd.wait_for(b"stream-open")
            wait_until(lambda: count_streams(site) == 2)
            burst = threading.Thread(
                target=site.request, args=["GET", "/burst/loose-cut/40/?size=200000"]
            )
            burst.start()
            crowd.read_until(lambda: body.count(b"event: message") == 40)
            burst.join()
            for number in itertools.count():
                started = time.monotonic()
                site.send({"channel": "loose-cut", "event_type": "message", "data": number})
                crowd.read_until(lambda: f"data: {number}\n".encode() in body[-1000:])  # noqa: B023
                assert time.monotonic() - started < 1
                if count_streams(site) == 1:
                    break
            stuck.read_to_the_end()
            assert count_streams(site) == 1
        assert_quiet(without_lifespan(site.process.output()))


@pytest.mark.slow
def test_switched_off_it_leaves_all_to_the_server(shared_database):
    settings = {"EVENTSTREAM_TEST_NO_CLEAN_SHUTDOWN": "1"}
    with serve("daphne", database=shared_database, **settings) as site:
        with Crowd(site.port, "/events/?channel=shutdown", 3) as crowd:
            crowd.wait_for(b"stream-open")
            end(site, crowd)
            assert crowd.retries == []


# runserver


@contextlib.contextmanager
def reloading(tmp_path, database, kind):
    """Run the project's ``runserver`` with its reloader; yield it with a file that it watches."""
    watched = tmp_path / "watched_settings.py"
    watched.write_text("from tests.settings import *\n")
    port = free_port()
    environment = {
        "DJANGO_SETTINGS_MODULE": "watched_settings",
        "EVENTSTREAM_TEST_DATABASE_NAME": database,
        "EVENTSTREAM_TEST_RUNSERVER": kind,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.getcwd()]),
    }
    command = [sys.executable, "-m", "tests.project.manage", "runserver", f"127.0.0.1:{port}"]
    with Process(command, env=environment) as process:
        site = Site(process, port)
        wait_until(lambda: get_process_id(site), alive=process, timeout=60)
        yield site, watched


def get_process_id(site):
    """Return the id of the process that answers, None if there is none."""
    try:
        return json.loads(site.request("GET", "/streams/")[2])["process"]
    except OSError:
        return None


def is_running(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["django", "daphne"])
def test_runserver_reloads_and_ends_with_streams_open(tmp_path, shared_database, kind):
    with reloading(tmp_path, shared_database, kind) as (site, watched):
        before = get_process_id(site)
        # The reloader has to have seen the file once, to notice that it changed.
        wait_until(lambda: "Watching" in site.process.output(), alive=site.process)
        with Crowd(site.port, "/events/?channel=shutdown", 10) as crowd:
            crowd.wait_for(b"stream-open")
            change(watched, lambda: not is_running(before))
            crowd.wait_for(rb"retry: \d+\n\n")
        wait_until(lambda: get_process_id(site) not in (None, before), alive=site.process)
        with Crowd(site.port, "/events/?channel=shutdown", 10) as crowd:
            crowd.wait_for(b"stream-open")
            after = get_process_id(site)
            wait_until(lambda: site.process.output().count("Watching") == 2)
            started = time.monotonic()
            os.kill(after, signal.SIGINT)  # as Ctrl-C does
            crowd.wait_for(rb"retry: \d+\n\n")
            wait_until(lambda: not is_running(after))
            assert time.monotonic() - started < LIMIT
        assert_quiet(site.process.output().replace("WARNING: This is a development server", ""))


def change(file, was_noticed):
    """Change a file until that was noticed."""
    deadline = time.monotonic() + TIMEOUT
    while not was_noticed():
        assert time.monotonic() < deadline
        os.utime(file)
        time.sleep(0.1)


# The parts: a signal that nobody else uses stands for those that servers get


SIGNAL = signal.SIGUSR1


@pytest.fixture
def signals(monkeypatch):
    """Have the library catch signals in this process; return those that are handed on."""
    handed_on = []
    monkeypatch.setattr(shutdown, "SIGNALS", (SIGNAL,))
    monkeypatch.setattr(shutdown, "_end", shutdown.End())
    monkeypatch.setattr(shutdown.threads, "is_testing", lambda: False)
    monkeypatch.setattr(shutdown, "DRAIN_TIME", 0.5)
    before = signal.signal(SIGNAL, lambda number, frame: handed_on.append(number))
    yield handed_on
    signal.signal(SIGNAL, before)


@pytest.fixture(autouse=True)
def project(settings):
    settings.EVENTSTREAM_STORAGE_CLASS = "tests.test_streaming.FlakyStorage"
    settings.EVENTSTREAM_PADDING = 0


async def read(client):
    """Read a stream to its end, in a task of its own, as servers do."""
    while await client.pull():
        pass
    return client.body


async def open_streams(count):
    clients = [Client("loose-a") for _ in range(count)]
    for client in clients:
        assert (await client.next()).type == "stream-open"
    return clients


async def test_signal_is_handed_on_when_the_streams_have_ended(signals):
    clients = await open_streams(3)
    tasks = [asyncio.ensure_future(read(client)) for client in clients]
    signal.raise_signal(SIGNAL)
    assert signals == []
    for body in await asyncio.gather(*tasks):
        assert re.fullmatch(rb"event: stream-open\ndata: *\n\nretry: \d+\n\n", body)
    await reached(lambda: signals == [SIGNAL])
    # Those who come now are turned away, for the server may be waiting for them.
    assert shutdown.is_stopping()
    assert re.fullmatch(rb"retry: \d+\n\n", await read(Client("loose-a")))


async def test_second_signal_is_handed_on_at_once_and_the_first_not_at_all(signals):
    # In a task that is not this one, for it is cancelled.
    client = await asyncio.ensure_future(open_one())
    signal.raise_signal(SIGNAL)
    assert signals == []
    signal.raise_signal(SIGNAL)
    assert signals == [SIGNAL]
    await reached(shutdown._end.drained.is_set)
    client.stream.leave()
    await asyncio.sleep(0)  # what was scheduled by then would run now
    assert signals == [SIGNAL]


async def test_a_repeated_sigterm_waits_with_the_first(signals):
    tasks = [asyncio.ensure_future(read(client)) for client in await open_streams(1)]
    handler = signal.getsignal(SIGNAL)
    for _ in range(3):
        handler(signal.SIGTERM, None)
    assert signals == []
    await asyncio.gather(*tasks)
    await reached(lambda: signals == [signal.SIGTERM])
    handler(signal.SIGTERM, None)
    assert signals == [signal.SIGTERM] * 2


async def test_streams_can_be_ended_without_a_signal(signals):
    tasks = [asyncio.ensure_future(read(client)) for client in await open_streams(2)]
    await asyncio.to_thread(shutdown.drain)
    for body in await asyncio.gather(*tasks):
        assert b"retry: " in body
    assert signals == []


async def test_third_signal_is_not_held_up_either(signals):
    tasks = [asyncio.ensure_future(read(client)) for client in await open_streams(1)]
    signal.raise_signal(SIGNAL)
    await asyncio.gather(*tasks)
    await reached(lambda: len(signals) == 1)
    signal.raise_signal(SIGNAL)
    assert len(signals) == 2


async def test_stream_that_is_not_read_is_cut_off_in_the_end(signals, monkeypatch, caplog):
    monkeypatch.setattr(shutdown, "DRAIN_TIME", 0.05)
    caplog.set_level("INFO")
    task = asyncio.ensure_future(read_once_and_block())
    await reached(lambda: hub.count_streams() == 1)
    signal.raise_signal(SIGNAL)
    with pytest.raises(asyncio.CancelledError):
        await task
    await reached(lambda: signals == [SIGNAL])
    assert "did not read the end" in caplog.text


async def read_once_and_block():
    """Read once, and then be blocked in sending that."""
    await anext(Client("loose-a").stream)
    await asyncio.Event().wait()


async def test_handler_that_comes_later_is_wrapped_in_turn(signals):
    (client,) = await open_streams(1)
    first = signal.getsignal(SIGNAL)
    later = []

    def handle(number, frame):
        later.append(number)
        first(number, frame)

    signal.signal(SIGNAL, handle)
    (other,) = await open_streams(1)
    assert signal.getsignal(SIGNAL) is not handle
    tasks = [asyncio.ensure_future(read(each)) for each in (client, other)]
    signal.raise_signal(SIGNAL)
    assert later == []
    await asyncio.gather(*tasks)
    await reached(lambda: later == [SIGNAL])
    assert signals == [SIGNAL]


async def test_signal_that_is_ignored_stays_so(signals):
    signal.signal(SIGNAL, signal.SIG_IGN)
    (client,) = await open_streams(1)
    assert signal.getsignal(SIGNAL) is signal.SIG_IGN
    client.stream.leave()


async def test_switched_off_it_catches_no_signal(signals, settings):
    settings.EVENTSTREAM_CLEAN_SHUTDOWN = False
    before = signal.getsignal(SIGNAL)
    (client,) = await open_streams(1)
    assert signal.getsignal(SIGNAL) is before
    client.stream.leave()


async def test_tests_of_projects_keep_their_signals(signals, monkeypatch):
    monkeypatch.setattr(shutdown.threads, "is_testing", lambda: True)
    before = signal.getsignal(SIGNAL)
    (client,) = await open_streams(1)
    assert signal.getsignal(SIGNAL) is before
    client.stream.leave()


async def test_other_threads_catch_no_signal(signals):
    before = signal.getsignal(SIGNAL)
    await asyncio.to_thread(shutdown.install)
    assert signal.getsignal(SIGNAL) is before


async def test_default_is_what_the_system_does(signals, monkeypatch):
    number = signal.SIGWINCH  # which does nothing by default
    monkeypatch.setattr(shutdown, "SIGNALS", (number,))
    before = signal.signal(number, signal.SIG_DFL)
    tasks = [asyncio.ensure_future(read(client)) for client in await open_streams(1)]
    assert isinstance(signal.getsignal(number), shutdown.SignalHandler)
    signal.raise_signal(number)
    await asyncio.gather(*tasks)
    await reached(lambda: signal.getsignal(number) is signal.SIG_DFL)
    signal.signal(number, before)


async def test_without_a_thread_the_signal_is_handed_on_at_once(signals, monkeypatch):
    (client,) = await open_streams(1)

    def fail(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    signal.raise_signal(SIGNAL)
    assert signals == [SIGNAL]
    client.stream.leave()


async def test_broker_that_fails_holds_up_nothing(signals, monkeypatch, caplog):
    def fail(timeout):
        raise OSError("gone")

    monkeypatch.setattr(brokers, "flush", fail)
    (client,) = await open_streams(1)
    client.stream.leave()
    signal.raise_signal(SIGNAL)
    await reached(lambda: signals == [SIGNAL])
    assert "OSError: gone" in caplog.text


async def test_event_of_hypercorn_ends_streams_and_a_signal_then_waits(signals, monkeypatch):
    event = multiprocessing.Event()
    process = multiprocessing.current_process()
    monkeypatch.setattr(process, "_kwargs", {"shutdown_event": event}, raising=False)
    clients = await open_streams(2)
    tasks = [asyncio.ensure_future(read(client)) for client in clients[1:]]
    event.set()
    await asyncio.gather(*tasks)
    # Hypercorn's parent terminates the other workers when the first one has ended.
    signal.raise_signal(SIGNAL)
    assert signals == []
    await read(clients[0])
    await reached(lambda: signals == [SIGNAL])


async def test_what_a_project_calls_like_the_event_of_hypercorn_is_left_alone(signals, monkeypatch):
    process = multiprocessing.current_process()
    monkeypatch.setattr(process, "_kwargs", {"shutdown_event": object()}, raising=False)
    (client,) = await open_streams(1)
    assert not shutdown._end.is_watching
    client.stream.leave()


class Loop:
    """An event loop on a thread of its own, as under ``runserver``."""

    def __enter__(self):
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        return self

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def __exit__(self, *exc_info):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


def test_main_thread_without_a_loop_waits_for_those_of_others(signals):
    shutdown.install()
    with Loop() as first, Loop() as second:
        tasks = [loop.run(read(loop.run(open_one()).result(TIMEOUT))) for loop in (first, second)]
        signal.raise_signal(SIGNAL)
        assert signals == [SIGNAL]
        assert all(b"retry: " in task.result(TIMEOUT) for task in tasks)


async def open_one():
    (client,) = await open_streams(1)
    return client


@pytest.fixture
def sigterm(signals):
    """Have SIGTERM caught as well."""
    shutdown.install()
    before = signal.signal(signal.SIGTERM, signal.getsignal(SIGNAL))
    yield
    signal.signal(signal.SIGTERM, before)


async def be_signalled(number):
    signal.raise_signal(number)


@pytest.mark.parametrize("number", [SIGNAL, signal.SIGTERM])
def test_signal_is_handed_on_even_if_the_main_loop_has_ended_meanwhile(
    signals, sigterm, monkeypatch, number
):
    monkeypatch.setattr(shutdown, "DRAIN_TIME", TIMEOUT)
    with Loop() as other:
        client = other.run(open_one()).result(TIMEOUT)  # which nobody reads yet
        asyncio.run(be_signalled(number))
        assert signals == []
        other.run(read(client)).result(TIMEOUT)
        wait_until(lambda: signals == [number])


def test_second_sigterm_is_handed_on_if_the_main_loop_does_not_run_any_more(signals, sigterm):
    with contextlib.closing(asyncio.new_event_loop()) as loop, Loop() as other:
        client = other.run(open_one()).result(TIMEOUT)
        loop.run_until_complete(be_signalled(signal.SIGTERM))
        assert signals == []
        signal.raise_signal(signal.SIGTERM)
        assert signals == [signal.SIGTERM]
        other.run(read(client)).result(TIMEOUT)


def test_streams_of_a_loop_that_is_closed_are_not_waited_for():
    client = asyncio.run(open_one())
    started = time.monotonic()
    assert hub.end_streams(TIMEOUT)
    assert time.monotonic() - started < TIMEOUT / 2
    client.stream.close()


# Clients that do not read


async def test_stream_whose_client_does_not_read_is_freed(settings):
    settings.EVENTSTREAM_KEEP_ALIVE_INTERVAL = 0.05
    settings.EVENTSTREAM_SEND_TIMEOUT = 1
    task = asyncio.ensure_future(read_once_and_block())
    async with reading("loose-a") as client:
        await reached(lambda: hub.count_streams() == 2)
        await reached(lambda: hub.count_streams() == 1)
        with pytest.raises(asyncio.CancelledError):
            await task
        send_event("loose-a", "m", 1)
        assert b"data: 1" in client.body or await seen(client, b"data: 1")


@contextlib.asynccontextmanager
async def reading(*channels):
    """Read a stream all the time."""
    client = Client(*channels)
    task = asyncio.ensure_future(read(client))
    await reached(lambda: b"stream-open" in client.body)
    try:
        yield client
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def seen(client, data):
    await reached(lambda: data in client.body)
    return True


async def test_old_stream_ends_and_its_client_loses_nothing(settings):
    settings.EVENTSTREAM_KEEP_ALIVE_INTERVAL = 0.05
    settings.EVENTSTREAM_MAX_STREAM_AGE = 0.2
    started = time.monotonic()
    client = Client("a")
    body = await read(client)
    assert time.monotonic() - started > 0.15
    assert re.search(rb"retry: \d+\n\n$", body)
    await sync_to_async(send_event)("a", "m", "meanwhile")
    client = Client("a", a=0)
    assert (await client.next()).type == "stream-open"
    assert json.loads((await client.next()).data) == "meanwhile"
    client.stream.leave()


# Breaking a connection


class Transport:
    def __init__(self):
        self.aborted = asyncio.Event()
        self.abort = self.aborted.set


class Server:
    """What uvicorn and hypercorn have in common."""

    def __init__(self):
        self.transport = Transport()

    async def send(self):
        await self.transport.aborted.wait()


async def blocked():
    """Return the task of an application that is blocked in sending, and its server."""
    server = Server()

    async def application():
        await server.send()

    task = asyncio.ensure_future(application())
    await asyncio.sleep(0)
    return task, server


async def test_transport_of_the_server_is_aborted():
    task, server = await blocked()
    disconnect(task, Connection.of({"http_version": "1.1", "client": ("127.0.0.1", 7)}))
    await task
    assert server.transport.aborted.is_set()


async def test_connection_with_other_requests_is_left_alone():
    task, server = await blocked()
    disconnect(task, Connection.of({"http_version": "2", "client": ("127.0.0.1", 7)}))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not server.transport.aborted.is_set()


async def test_connection_with_other_requests_is_broken_when_the_process_ends():
    task, server = await blocked()
    disconnect(task, Connection.of({"http_version": "2", "client": ("127.0.0.1", 7)}), is_last=True)
    await task
    assert server.transport.aborted.is_set()


@contextlib.contextmanager
def connected():
    """Yield the two ends of a connection: the client's and the server's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()) as client:
            accepted, _ = listener.accept()
            with accepted:
                yield client, accepted


async def wait_forever():
    task = asyncio.ensure_future(asyncio.Event().wait())
    await asyncio.sleep(0)
    return task


async def test_sockets_that_are_looked_at_block_as_before():
    with connected() as (ours, database):
        task = await wait_forever()
        socket.setdefaulttimeout(5)
        try:
            disconnect(task, Connection.of({"client": ("203.0.113.7", 7), "server": ("::", 80)}))
        finally:
            socket.setdefaulttimeout(None)
        assert os.get_blocking(ours.fileno())
        assert os.get_blocking(database.fileno())


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1"])
async def test_socket_is_found_by_its_peer(address):
    with connected() as (client, accepted):
        task = await wait_forever()
        port, server = client.getsockname()[1], accepted.getsockname()
        disconnect(task, Connection.of({"client": [address, str(port)], "server": server}))
        assert client.recv(1) == b""
        assert accepted.recv(1) == b""
        task.cancel()


async def test_connection_to_what_a_proxy_says_is_left_alone():
    with connected() as (ours, database):
        task = await wait_forever()
        disconnect(
            task, Connection.of({"client": database.getsockname(), "server": ("127.0.0.1", 8000)})
        )
        with pytest.raises(asyncio.CancelledError):
            await task
        ours.sendall(b"SELECT 1")
        assert database.recv(8) == b"SELECT 1"


@pytest.mark.parametrize(
    "client",
    [None, "", ["/socket"], ("/socket", None), ("::", "x"), ("203.0.113.7", 0), ("nonsense", 7)],
)
async def test_task_is_cancelled_where_no_connection_is_found(client):
    task = await wait_forever()
    disconnect(task, Connection.of({"client": client, "server": ("127.0.0.1", 8000)}))
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_task_is_cancelled_where_too_many_files_are_open(monkeypatch):
    def fail(path):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("os.listdir", fail)
    task = await wait_forever()
    disconnect(task, Connection.of({"client": ("203.0.113.7", 7), "server": ("127.0.0.1", 8000)}))
    with pytest.raises(asyncio.CancelledError):
        await task
