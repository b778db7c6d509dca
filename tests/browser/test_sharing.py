"""EventStream: one connection for all tabs, among real tabs and real servers."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Error, Page

from tests.browser.streams import (
    count_streams,
    events,
    open_tab,
    send,
    show,
    wait_for,
    wait_for_events,
    wait_for_streams,
    watch,
)
from tests.browser.wire import Wire, stream
from tests.processes import Site, serve, wait_until

#: Each test has a channel of its own.
_names = itertools.count()


@pytest.fixture
def server() -> str:
    """Return the one that is enough where nothing is about the server."""
    return "uvicorn"


@pytest.fixture
def channel() -> str:
    return f"shared-{next(_names)}"


@pytest.fixture
def url(channel: str) -> str:
    return f"/events/?channel={channel}"


def open_tabs(
    context: BrowserContext, site: Site, url: str, count: int, **options: Any
) -> list[Page]:
    """Open tabs that share a stream; the first one leads."""
    return [watch(open_tab(context, site), url, shareKey="user", **options) for _ in range(count)]


@contextmanager
def sending(site: Site, channel: str) -> Iterator[list[int]]:
    """Send numbers all the while, one by one; the list has those that were sent."""
    sent: list[int] = []
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(0.01):
            sent.extend(send(site, channel, range(len(sent), len(sent) + 1)))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield sent
    finally:
        stop.set()
        thread.join()


def longest_wait(page: Page, since: float) -> float:
    """Return the longest time between two events, in seconds, from a time on."""
    times = [since, *(t for t in page.evaluate("seen.times.map(t => t / 1000)") if t > since)]
    return max(b - a for a, b in itertools.pairwise(times))


@pytest.mark.parametrize("server", ["uvicorn", "daphne"])
def test_eight_tabs_have_one_connection_and_all_events(
    context: BrowserContext, site: Site, url: str, channel: str
) -> None:
    tabs = open_tabs(context, site, url, 8)
    assert count_streams(site) == 1
    sent = send(site, channel, range(200))
    for tab in tabs:
        wait_for_events(tab, sent)
        assert tab.evaluate("stream.lastEventId") == f"{channel}:200"
    assert count_streams(site) == 1


def test_tabs_that_are_opened_at_once_agree_on_one_connection(
    context: BrowserContext, site: Site, url: str, channel: str
) -> None:
    tabs = [open_tab(context, site) for _ in range(8)]
    for tab in tabs:
        watch(tab, url, state="", shareKey="user")
    for tab in tabs:
        wait_for(tab, "stream.state === 'open'")
    wait_for_streams(site, 1)
    sent = send(site, channel, range(10))
    for tab in tabs:
        wait_for_events(tab, sent)


@pytest.mark.parametrize("server", ["uvicorn", "daphne"])
def test_when_the_leader_is_closed_another_tab_leads_without_loss(
    context: BrowserContext, site: Site, url: str, channel: str
) -> None:
    leader, *others = open_tabs(context, site, url, 6)
    with sending(site, channel) as sent:
        wait_until(lambda: len(sent) > 20)
        closed = time.time()
        leader.close()
        wait_until(lambda: len(sent) > 120)
    for tab in others:
        wait_for_events(tab, sent)
        assert longest_wait(tab, closed) < 2
    assert count_streams(site) == 1


def test_when_the_leader_crashes_another_tab_leads_without_loss(
    context: BrowserContext, site: Site, url: str, channel: str
) -> None:
    leader, *others = open_tabs(context, site, url, 4)
    with sending(site, channel) as sent:
        wait_until(lambda: len(sent) > 20)
        crashed = time.time()
        with pytest.raises(Error, match="crash"):
            leader.goto("chrome://crash")
        wait_until(lambda: len(sent) > 120)
    for tab in others:
        wait_for_events(tab, sent)
        assert longest_wait(tab, crashed) < 2
    wait_for_streams(site, 1)


def test_a_stream_that_is_closed_hands_over_without_loss(
    context: BrowserContext, site: Site, url: str, channel: str
) -> None:
    tabs = open_tabs(context, site, url, 4)
    last = tabs[-1]
    with sending(site, channel) as sent:
        for tab in tabs[:-1]:
            count = len(sent)
            wait_until(lambda count=count: len(sent) > count + 10)  # type: ignore[misc]
            closed = time.time()
            tab.evaluate("stream.close()")
            wait_until(lambda count=count: len(sent) > count + 40)  # type: ignore[misc]
            wait_for(last, f"seen.events.length > {count + 30}")
            assert longest_wait(last, closed) < 2
    wait_for_events(last, sent)
    assert count_streams(site) == 1


def test_when_the_leader_hangs_another_tab_leads_without_loss(
    context: BrowserContext, site: Site, url: str, channel: str
) -> None:
    # The others look for the leader when they hear nothing; keep-alives come too rarely here.
    leader, *others = open_tabs(context, site, url, 3, stallTimeout=1000)
    leader.evaluate(
        """() => { setTimeout(() => {
          const until = Date.now() + 12_000;
          while (Date.now() < until);
        }); }"""
    )
    sent = send(site, channel, range(10))
    for tab in others:
        wait_for_events(tab, sent)
    sent += send(site, channel, range(10, 20))
    # The one that hung notices that it was replaced, and follows.
    for tab in [leader, *others]:
        wait_for_events(tab, sent)
    wait_for_streams(site, 1)
    sent += send(site, channel, range(20, 30))
    for tab in [leader, *others]:
        wait_for_events(tab, sent)


def test_a_page_that_is_frozen_hands_over(
    context: BrowserContext, site: Site, url: str, channel: str
) -> None:
    leader, other = open_tabs(context, site, url, 2)
    session = context.new_cdp_session(leader)
    session.send("Page.setWebLifecycleState", {"state": "frozen"})
    sent = send(site, channel, range(10))
    wait_for_events(other, sent)
    session.send("Page.setWebLifecycleState", {"state": "active"})
    wait_for_events(leader, sent)
    wait_for_streams(site, 1)


def test_tabs_join_from_older_and_newer_positions(
    context: BrowserContext, site: Site, url: str, channel: str
) -> None:
    before = send(site, channel, range(20))
    (first,) = open_tabs(context, site, url, 1)
    after = send(site, channel, range(20, 40))
    wait_for_events(first, after)
    # What the leader still has, what it never had, and nothing; the URL is the same without it.
    from_ring = watch(open_tab(context, site), f"{url}&lastEventId={channel}:30", shareKey="user")
    from_service = watch(open_tab(context, site), url, shareKey="user", lastEventId=f"{channel}:5")
    from_present = watch(open_tab(context, site), url, shareKey="user")
    wait_for_events(from_ring, after[10:])
    wait_for_events(from_service, [*before, *after][5:])
    wait_for_streams(site, 1)
    assert events(from_present) == []
    more = send(site, channel, range(40, 50))
    wait_for_events(from_present, more)
    wait_for_events(from_ring, [*after[10:], *more])
    wait_for_events(from_service, [*before, *after, *more][5:])
    wait_for_events(first, [*after, *more])


def test_a_position_in_the_future_is_reset_for_the_tab_alone(
    context: BrowserContext, site: Site, url: str, channel: str
) -> None:
    (first,) = open_tabs(context, site, url, 1)
    sent = send(site, channel, range(3))
    lost = watch(open_tab(context, site), url, shareKey="user", lastEventId=f"{channel}:1000")
    wait_for(lost, "seen.resets.length")
    assert lost.evaluate("[seen.resets, stream.lastEventId]") == [[[channel]], f"{channel}:3"]
    wait_for_streams(site, 1)
    sent += send(site, channel, range(3, 6))
    wait_for_events(lost, sent[3:])
    wait_for_events(first, sent)
    assert first.evaluate("seen.resets") == []


def test_tabs_share_only_with_the_same_key_url_and_credentials(
    context: BrowserContext, site: Site, url: str
) -> None:
    def count(*streams: tuple[str, dict[str, Any]]) -> int:
        tabs = [watch(open_tab(context, site), url, **options) for url, options in streams]
        connections = count_streams(site)
        for tab in tabs:
            tab.close()
        wait_for_streams(site, 0)
        return connections

    ann = (url, {"shareKey": "ann"})
    token = {"headers": {"Authorization": "Bearer 1"}}
    assert count(ann, ann, (url, {"shareKey": "ann", "credentials": "same-origin"})) == 1
    assert count((url, {"shareKey": ""}), (url, {"shareKey": ""})) == 1
    assert count(ann, (url, {"shareKey": "ben"}), (url, {"shareKey": ""}), (url, {})) == 4
    assert count((url, {}), (url, {})) == 2
    assert count((url, token), (url, token)) == 2
    assert count(ann, (f"{url}&channel=other", {"shareKey": "ann"})) == 2
    assert count(ann, (url, {"shareKey": "ann", "credentials": "omit"})) == 2


def test_hidden_tabs_do_not_pause_the_others(
    context: BrowserContext, site: Site, url: str, channel: str
) -> None:
    tabs = open_tabs(context, site, url, 3, pauseWhenHidden=True)
    sent = send(site, channel, range(10))
    for tab in tabs:
        wait_for_events(tab, sent)
    show(tabs[0], False)  # the leader
    wait_for(tabs[0], "stream.state === 'paused'")
    more = send(site, channel, range(10, 20))
    for tab in tabs[1:]:
        wait_for_events(tab, sent + more)
    assert events(tabs[0]) == sent
    show(tabs[1], False)
    show(tabs[2], False)
    wait_for_streams(site, 0)
    more += send(site, channel, range(20, 30))
    for tab in tabs:
        show(tab, True)
    for tab in tabs:
        wait_for_events(tab, sent + more)
    wait_for_streams(site, 1)


def test_an_iterator_that_is_not_read_does_not_pause_the_others(
    context: BrowserContext, site: Site, url: str, channel: str
) -> None:
    slow, other = open_tabs(context, site, url, 2)
    slow.evaluate("() => { window.iterator = stream[Symbol.asyncIterator](); }")
    sent = send(site, channel, range(3000))
    wait_for_events(other, sent)
    wait_for(slow, "stream.state === 'paused'")
    wait_for_streams(site, 1)
    read = slow.evaluate(
        """async () => {
          const numbers = [];
          while (numbers.length < 3000) numbers.push((await iterator.next()).value.data);
          return numbers;
        }"""
    )
    assert read == sent


def test_an_error_ends_all_tabs_and_a_later_one_tries_anew(
    context: BrowserContext, site: Site, channel: str
) -> None:
    channel = f"group-staff-{channel}"
    url = f"/events/?channel={channel}"
    tabs = [open_tab(context, site) for _ in range(3)]
    tabs[0].evaluate("fetch('/login/ann/?group=staff')")
    for tab in tabs:
        watch(tab, url, shareKey="ann")
    site.request("GET", f"/forbid/ann/staff/{channel}/")
    for tab in tabs:
        wait_for(tab, "seen.errors.length")
        assert tab.evaluate("[stream.state, seen.errors[0][1]]") == ["closed", "forbidden"]
    tabs[0].evaluate("fetch('/login/ann/?group=staff')")
    watch(tabs[0], url, shareKey="ann")
    assert tabs[0].evaluate("seen.errors") == []


def test_an_error_makes_no_request_but_the_leaders(
    context: BrowserContext, site: Site, wire: Wire
) -> None:
    error = b'event: stream-error\nid: error\ndata: {"condition": "forbidden", "text": "No"}\n\n'
    first = stream(b"event: stream-open\nid: a:1\ndata:\n\n", hold=True)
    url = wire.script("/stream/", first)
    tabs = open_tabs(context, site, url, 5)
    wire.of("/stream/")[0].send(error)
    for tab in tabs:
        wait_for(tab, "stream.state === 'closed'")
    # Once the lock is free, those that come now tell the server's next answer: 204.
    late = watch(open_tab(context, site), url, state="closed", shareKey="user")
    assert late.evaluate("seen.errors[0][1]") == "no-content"
    assert len(wire.of("/stream/")) == 2


@pytest.mark.parametrize("server", ["uvicorn", "daphne"])
def test_tabs_outlive_a_server_that_is_killed(
    context: BrowserContext, site: Site, server: str, shared_database: str, url: str, channel: str
) -> None:
    tabs = open_tabs(context, site, url, 3, maxRetryTime=500)
    sent = send(site, channel, range(200))
    site.process.kill()
    with serve(
        server, database=shared_database, port=site.port, EVENTSTREAM_TEST_STATIC="1"
    ) as again:
        sent += send(again, channel, range(200, 400))
        for tab in tabs:
            wait_for_events(tab, sent)
        assert count_streams(again) == 1
        assert all(tab.evaluate("seen.resets") == [] for tab in tabs)


def test_large_events_reach_all_tabs(context: BrowserContext, site: Site, wire: Wire) -> None:
    url = wire.script("/stream/", stream(b"event: stream-open\nid: a:0\ndata:\n\n", hold=True))
    tabs = open_tabs(context, site, url, 3)
    size = 10_000_000
    wire.of("/stream/")[0].send(b'id: a:1\ndata: "' + b"x" * size + b'"\n\nid: a:2\ndata: 2\n\n')
    for tab in tabs:
        wait_for(tab, "seen.events.length === 2")
        assert tab.evaluate("seen.events[0][1].length") == size
