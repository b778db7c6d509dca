"""Streams that a real Pushpin holds: what can only go wrong there."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest

from tests import settings
from tests.conftest import manage
from tests.control import Control, control
from tests.processes import EventSource, Site, free_port, serve, wait_until
from tests.pushpin import Pushpin, pushpin

pytestmark = [pytest.mark.slow, pytest.mark.database]

#: How many streams are held where their number matters; by hand more.
STREAMS = int(os.environ.get("EVENTSTREAM_TEST_HELD_STREAMS", "200"))

SERVERS = ["gunicorn", "uvicorn"] if settings.BACKEND == "sqlite" else ["gunicorn"]

_numbers = itertools.count(1)


@dataclass
class Setup:
    """A site, the proxy in front of it, and what is between its senders and the proxy."""

    #: The site as senders reach it, and as clients do.
    site: Site
    clients: Site
    proxy: Pushpin
    control: Control
    database: str
    environment: dict[str, str]

    def open(self, path: str, last_event_id: str = "", **headers: str) -> EventSource:
        """Open a stream through the proxy, and read its first event."""
        stream = self.clients.open(path, last_event_id, **headers)
        stream.opening = stream.next()
        assert stream.opening.type == "stream-open", stream.opening
        return stream


@contextlib.contextmanager
def set_up(server: str, database: str, **environment: str) -> Iterator[Setup]:
    port = free_port()
    with (
        pushpin(port, sig_key=environment.pop("sig_key", "changeme")) as proxy,
        control(proxy.control_uri) as between,
    ):
        environment = {"EVENTSTREAM_TEST_GRIP_URL": between.uri, **environment}
        with serve(server, database=database, port=port, **environment) as site:
            clients = Site(site.process, proxy.port)
            yield Setup(site, clients, proxy, between, database, environment)


@pytest.fixture(scope="module", params=SERVERS)
def setup(request, shared_database):
    with set_up(request.param, shared_database) as setup:
        yield setup


@pytest.fixture
def channel():
    return f"pushpin-{next(_numbers)}"


def message(channel: str, data: Any, **more: Any) -> dict[str, Any]:
    return {"channel": channel, "event_type": "message", "data": data, **more}


def numbers(events: list[Any]) -> list[Any]:
    return [json.loads(event.data) for event in events]


# What gets lost


def test_lost_event_is_repaired_when_the_next_one_comes(setup, channel):
    with setup.open(f"/events/?channel={channel}") as stream:
        setup.site.send(message(channel, 1))
        assert numbers([stream.next()]) == [1]
        setup.control.mode = "lose"
        setup.site.send(message(channel, 2), message(channel, 3))
        wait_until(lambda: len(setup.control.items) and setup.control.items[-1]["id"] == "3")
        setup.control.mode = "pass"
        setup.site.send(message(channel, 4))
        assert numbers(stream.take(3)) == [2, 3, 4]
        setup.site.send(message(channel, 5))
        assert numbers(stream.take(1)) == [5]
        assert stream.last_event_id == f"{channel}:5"


def test_proxy_that_is_down_fails_no_sender_and_is_caught_up_later(setup, channel):
    loose = f"loose-{channel}"
    warned = setup.site.process.output().count("cannot be reached")
    with setup.open(f"/events/?channel={channel}&channel={loose}") as stream:
        setup.control.mode = "fail"
        sent = setup.site.send(*(message(channel, n) for n in range(5)), message(loose, "x"))
        assert sent == [1, 2, 3, 4, 5, None]
        tries = setup.control.count
        wait_until(lambda: setup.control.count > tries + 1)
        assert setup.site.send(message(channel, 5, async_publish=False)) == [6]
        setup.control.mode = "pass"
        received = numbers(stream.take(7))
        received.remove("x")  # of another process, it may be, with a pause of its own
        assert received == [0, 1, 2, 3, 4, 5]
    wait_until(lambda: "can be reached again" in setup.site.process.output())
    # Once per outage and process: gunicorn has two.
    assert 1 <= setup.site.process.output().count("cannot be reached") - warned <= 2


def test_proxy_that_does_not_answer_holds_up_no_sender(setup, channel):
    with setup.open(f"/events/?channel={channel}") as stream:
        setup.control.released.clear()
        setup.control.mode = "hang"
        begun = time.monotonic()
        setup.site.send(*(message(channel, n) for n in range(20)))
        assert time.monotonic() - begun < 3
        setup.control.mode = "pass"
        setup.control.released.set()
        assert numbers(stream.take(20)) == list(range(20))


def test_what_a_proxy_may_have_taken_is_not_repeated_on_an_unreliable_channel(setup, channel):
    loose = f"loose-{channel}"
    with setup.open(f"/events/?channel={loose}") as stream:
        setup.control.mode = "cut"
        setup.site.send(message(loose, 1))
        tries = setup.control.count
        wait_until(lambda: setup.control.count > tries)
        setup.control.mode = "pass"
        reset = stream.next()
        assert (reset.type, json.loads(reset.data)) == ("stream-reset", {"channels": [loose]})
        setup.site.send(message(loose, 2))
        assert numbers(stream.take(1)) == [2]


def test_event_that_is_too_large_for_the_proxy_comes_from_the_log(setup, channel):
    with setup.open(f"/events/?channel={channel}") as stream:
        setup.site.send(message(channel, 1))
        large = "x" * 1_500_000
        setup.site.send(message(channel, large), message(channel, 3))
        assert numbers(stream.take(3)) == [1, large, 3]


# Who goes away


def test_client_resumes_after_the_proxy_was_killed(shared_database, channel):
    with set_up("gunicorn", shared_database) as setup:
        path = f"/events/?channel={channel}"
        stream = setup.open(path)
        setup.site.send(message(channel, 1))
        assert numbers([stream.next()]) == [1]
        position = stream.last_event_id
        setup.proxy.kill()
        with contextlib.suppress(OSError, http.client.HTTPException):
            stream.next()
        stream.close()
        setup.site.send(message(channel, 2), message(channel, 3))
        setup.proxy.start()
        with setup.open(path, position) as stream:
            assert numbers(stream.take(2)) == [2, 3]
            setup.site.send(message(channel, 4))
            assert numbers(stream.take(1)) == [4]


def test_streams_outlive_the_site(shared_database, channel):
    port = free_port()
    with pushpin(port) as proxy:
        environment = {"EVENTSTREAM_TEST_GRIP_URL": proxy.control_uri}
        with serve("gunicorn", database=shared_database, port=port, **environment) as site:
            clients = Site(site.process, proxy.port)
            stream = clients.open(f"/events/?channel={channel}")
            assert stream.next().type == "stream-open"
            site.send(message(channel, 1))
            assert numbers([stream.next()]) == [1]
            site.process.kill()
        with serve("uvicorn", database=shared_database, port=port, **environment) as site:
            site.send(message(channel, 2))
            assert numbers([stream.next()]) == [2]
        stream.close()


def test_event_of_a_management_command_arrives(setup, channel):
    with setup.open(f"/events/?channel={channel}") as stream:
        code = f"import django_eventstream as e; e.send_event({channel!r}, 'message', 'done')"
        manage(setup.database, "shell", "-c", code, **setup.environment)
        assert numbers([stream.next()]) == ["done"]


# Resuming


def test_resuming_client_gets_250_missed_events_in_pages(setup, channel):
    # Too many for the first response, which Pushpin takes 100,000 bytes of.
    setup.site.send(*(message(channel, [n, "%" * 900]) for n in range(250)))
    with setup.open(f"/events/?channel={channel}", f"{channel}:0") as stream:
        events = stream.take(250)
        assert numbers(events) == [[n, "%" * 900] for n in range(250)]
        assert events[-1].last_event_id == f"{channel}:250"
        setup.site.send(message(channel, "live"))
        assert numbers([stream.next()]) == ["live"]
    assert setup.proxy.requests(rf"lastEventId={quote(f'{channel}:')}")


def test_missed_event_larger_than_the_first_response_may_be_arrives(setup, channel):
    setup.site.send(message(channel, 1), message(channel, "x" * 2_000_000), message(channel, 3))
    with setup.open(f"/events/?channel={channel}", f"{channel}:0") as stream:
        assert [len(event.data) for event in stream.take(3)] == [1, 2_000_002, 1]


@pytest.mark.parametrize("name", ["日" * 240, "%" * 240, "a b,c:d;e=f\"g'h<i>j(k)l\\m"])
def test_name_survives_pages_kicks_and_skipping(setup, channel, name):
    name = f"anonymous-{channel}{name}"[:255]
    other = f"loose-{channel}{name}"[:255]
    user_id, cookie = setup.site.log_in("ann")
    setup.site.send(*(message(name, [n, "x" * 900]) for n in range(150)))
    path = f"/events/?channel={quote(name)}"
    with (
        setup.open(path, f"{quote(name)}:0") as stream,
        setup.open(path, Cookie=cookie) as known,
        setup.open(f"/events/?channel={quote(other)}", Cookie=cookie) as loose,
    ):
        assert [n for n, _ in numbers(stream.take(150))] == list(range(150))
        setup.site.send(message(name, "for others", skip_user_ids=[user_id]))
        assert numbers(stream.take(1)) == ["for others"]
        assert stream.last_event_id == f"{quote(name)}:151"
        setup.site.send(message(name, "%I 100%"), message(other, "%I 100%"))
        assert numbers([stream.next(), known.next()]) == ["%I 100%", "%I 100%"]
        assert numbers([loose.next()]) == ["%I 100%"]
        assert known.last_event_id == f"{quote(name)}:152"
        setup.site.request("GET", f"/forbid-anonymous/{quote(name, safe='')}/")
        error = stream.next()
        assert (error.type, json.loads(error.data)["channels"]) == ("stream-error", [name])
        assert stream.next() is None
        setup.site.send(message(name, "still"))
        assert numbers([known.next()]) == ["still"]


def test_stream_of_ten_channels_is_held_and_resumed(setup, channel):
    names = [f"{channel}-{'日' * 20}-{n}" for n in range(9)] + [f"loose-{channel}"]
    path = "/events/?" + "&".join(f"channel={quote(name)}" for name in names)
    with setup.open(path) as stream:
        setup.site.send(*(message(name, name) for name in names))
        assert sorted(numbers(stream.take(10))) == sorted(names)
        position = stream.last_event_id
        assert position == ",".join(f"{quote(name)}:1" for name in sorted(names[:9]))
    setup.site.send(*(message(name, [name, n]) for name in names for n in range(30)))
    with setup.open(path, position) as stream:
        events = numbers(stream.take(270))
        for name in names[:9]:
            assert [n for sender, n in events if sender == name] == list(range(30))


def test_prefix_is_used_everywhere(shared_database, channel):
    with set_up("gunicorn", shared_database, EVENTSTREAM_TEST_GRIP_PREFIX="shop:") as setup:
        name = f"anonymous-{channel} %"
        with setup.open(f"/events/?channel={quote(name)}") as stream:
            setup.site.send(message(name, 1))
            assert numbers([stream.next()]) == [1]
            assert stream.last_event_id == f"{quote(name)}:1"
            setup.control.mode = "lose"
            setup.site.send(message(name, 2))
            wait_until(lambda: setup.control.items[-1]["id"] == "2")
            setup.control.mode = "pass"
            setup.site.send(message(name, 3))
            assert numbers(stream.take(2)) == [2, 3]
            setup.site.request("GET", f"/forbid-anonymous/{quote(name)}/")
            assert stream.next().type == "stream-error"
        channels = {item["channel"] for item in setup.control.items}
        assert channels == {f"shop:events-{quote(name)}", "shop:user-anonymous"}


# Permissions


def test_kick_ends_one_of_three_users_streams_also_the_second_time(setup, channel):
    group = f"g{next(_numbers)}"
    private = f"group-{group}-x"
    names = [f"{name}-{channel}" for name in ("ann", "bob", "eve")]
    cookies = [setup.site.log_in(name, group)[1] for name in names]
    path = f"/events/?channel={private}&channel={channel}"
    streams = [setup.open(path, Cookie=cookie) for cookie in cookies]
    for round_ in range(2):
        begun = time.monotonic()
        setup.site.request("GET", f"/forbid/{names[1]}/{group}/{private}/")
        error = streams[1].next()
        assert (error.type, error.last_event_id) == ("stream-error", "error")
        assert json.loads(error.data)["channels"] == [private]
        assert streams[1].next() is None
        assert time.monotonic() - begun < 1
        setup.site.send(message(private, round_))
        assert numbers([streams[0].next(), streams[2].next()]) == [round_, round_]
        # Allowed again, and kicked again right after.
        _, cookie = setup.site.log_in(names[1], group)
        streams[1].close()
        streams[1] = setup.open(path, Cookie=cookie)
    for stream in streams:
        stream.close()


def test_permission_that_was_lost_without_a_word_is_found_when_the_proxy_asks(
    shared_database, channel
):
    with set_up("gunicorn", shared_database, EVENTSTREAM_TEST_GRIP_INTERVAL="5") as setup:
        group = f"g{next(_numbers)}"
        private = f"group-{group}-100%"
        _, cookie = setup.site.log_in(f"sue-{channel}", group)
        path = f"/events/?channel={quote(private)}"
        with setup.open(path, Cookie=cookie) as stream:
            groups = "__import__('django.contrib.auth.models').contrib.auth.models.Group.objects"
            manage(setup.database, "shell", "-c", f"{groups}.get(name={group!r}).delete()")
            error = stream.next()
            assert error.type == "stream-error"
            assert json.loads(error.data)["channels"] == [private]
            assert json.loads(error.data)["text"].endswith("100%")
            assert stream.next() is None


# Few requests


def test_held_streams_cost_few_requests(setup, channel):
    path = f"/events/?channel={channel}&held={channel}"
    asked = rf"held={channel}&.*link=next"
    streams = [setup.open(path) for _ in range(STREAMS)]
    wait_until(lambda: setup.proxy.requests(asked))
    setup.site.send(message(channel, "all"))
    for stream in streams:
        assert numbers([stream.next()]) == ["all"]
        stream.close()
    assert len(setup.proxy.requests(rf"held={channel}$")) == STREAMS
    # Pushpin asks once for streams that have their link in common, and stand at the same place.
    assert len(set(setup.proxy.requests(asked))) == 1
    assert len(setup.proxy.requests(asked)) <= STREAMS / 10


# Signatures


@pytest.mark.parametrize("server", SERVERS)
def test_only_a_proxy_with_the_key_is_believed(shared_database, channel, server):
    key = "k" * 32
    environment = {"EVENTSTREAM_TEST_GRIP_VERIFY_KEY": key}
    with set_up(server, shared_database, sig_key=key, **environment) as setup:
        with setup.open(f"/events/?channel={channel}") as stream:
            setup.site.send(message(channel, 1))
            assert numbers([stream.next()]) == [1]
    environment = {"EVENTSTREAM_TEST_GRIP_VERIFY_KEY": "x" * 32}
    with set_up(server, shared_database, sig_key=key, **environment) as setup:
        with setup.clients.open(f"/events/?channel={channel}") as stream:
            event = stream.next()
            # It is streamed like to anybody, where the server can.
            assert event.type == ("stream-open" if server == "uvicorn" else "stream-error")
            assert "channel=events-" not in setup.proxy.output()


# Others


def test_direct_and_proxied_clients_live_together(shared_database, channel):
    with set_up("uvicorn", shared_database) as setup:
        path = f"/events/?channel={channel}"
        with setup.open(path) as proxied, setup.site.open(path) as direct:
            assert direct.next().type == "stream-open"
            for n in range(3):
                setup.site.send(message(channel, n))
                assert numbers([proxied.next(), direct.next()]) == [n, n]
            assert proxied.body == direct.body


def test_zeromq_carries_events_too(shared_database, channel):
    port = free_port()
    with pushpin(port) as proxy:
        environment = {"EVENTSTREAM_TEST_GRIP_ZMQ": proxy.push_spec}
        with serve("gunicorn", database=shared_database, port=port, **environment) as site:
            with Site(site.process, proxy.port).open(f"/events/?channel={channel}") as stream:
                assert stream.next().type == "stream-open"
                site.send(message(channel, "100%"), message(channel, 2))
                assert numbers(stream.take(2)) == ["100%", 2]


# All at once


def test_every_event_arrives_once_and_in_order_whatever_gets_lost(setup, channel):
    """Readers come and go, publishes get lost, fail, or are cut off; by hand more of it."""
    rounds = int(os.environ.get("EVENTSTREAM_TEST_PUSHPIN_ROUNDS", "12"))
    chance = random.Random(rounds)
    path = f"/events/?channel={channel}"
    received: list[list[int]] = [[], [], []]
    streams = [setup.open(path) for _ in received]
    positions = [stream.opening.last_event_id for stream in streams]
    total = 0
    for _ in range(rounds):
        setup.control.mode = chance.choice(["pass", "lose", "fail", "cut", "pass"])
        setup.control.released.clear()
        count = chance.randrange(1, 12)
        setup.site.send(*(message(channel, total + n) for n in range(count)))
        total += count
        if chance.random() < 0.5:  # a reader leaves, with what it has so far
            reader = chance.randrange(len(streams))
            streams[reader].close()
            streams[reader] = setup.open(path, positions[reader])
        if chance.random() < 0.4:  # all catch up
            setup.control.mode = "pass"
            setup.site.send(message(channel, total))
            total += 1
            for reader, stream in enumerate(streams):
                received[reader] += numbers(stream.take(total - len(received[reader])))
                positions[reader] = stream.last_event_id
    setup.control.mode = "pass"
    setup.site.send(message(channel, total))
    total += 1
    for reader, stream in enumerate(streams):
        received[reader] += numbers(stream.take(total - len(received[reader])))
        assert received[reader] == list(range(total))
        assert stream.last_event_id == f"{channel}:{total}"
        stream.close()
