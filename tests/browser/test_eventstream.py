"""EventStream: a stream of one page's own, against real servers."""

from __future__ import annotations

import contextlib
import itertools
import re
import shutil
import time
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from tests.browser.conftest import FLAGS
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
from tests.browser.wire import Wire, cut, hang, status, stream
from tests.processes import Site, serve, wait_until

OPEN = b"event: stream-open\nid: a:1\ndata:\n\n"

_names = itertools.count()


@pytest.fixture
def server() -> str:
    """Return the one that is enough where nothing is about the server."""
    return "uvicorn"


@pytest.fixture
def page(context: BrowserContext, site: Site) -> Page:
    return open_tab(context, site)


@pytest.fixture
def channel() -> str:
    return f"own-{next(_names)}"


@pytest.fixture
def url(channel: str) -> str:
    return f"/events/?channel={channel}"


def states(page: Page) -> list[str]:
    names: list[str] = page.evaluate("seen.states.map(([state]) => state)")
    return names


# Events


@pytest.mark.parametrize("server", ["uvicorn", "daphne"])
def test_callbacks_get_events_decoded(page: Page, site: Site, url: str, channel: str) -> None:
    page.evaluate(
        """(url) => {
          window.got = [];
          const note = (name) => (event) => got.push([name, event.type, event.text]);
          const stream = watch(url, { onevent: (event) => got.push(event) });
          stream.on("*", note("all"));
          stream.on("note", note("notes"));
          window.stop = stream.on("note", note("stopped"));
          stream.on("stream-open", note("open"));
        }""",
        url,
    )
    wait_for(page, "stream.state === 'open'")
    page.evaluate("stop()")
    event = {"channel": channel, "event_type": "message", "data": {"é": [1, None]}}
    note = {"channel": channel, "event_type": "note", "data": "<p>\n</p>", "json_encode": False}
    site.send(event, note)
    wait_for(page, "got.length === 6")
    assert page.evaluate("got.filter((item) => Array.isArray(item))") == [
        ["open", "stream-open", ""],
        ["all", "message", '{"\\u00e9": [1, null]}'],
        ["all", "note", "<p>\n</p>"],
        ["notes", "note", "<p>\n</p>"],
    ]
    page.evaluate("window.plain = got.filter((item) => !Array.isArray(item))")
    assert page.evaluate("plain[0].data") == {"é": [1, None]}
    assert page.evaluate("plain[0].data === plain[0].data")
    assert page.evaluate("plain[1].text") == "<p>\n</p>"
    assert page.evaluate("(() => { try { plain[1].data } catch (e) { return e.name } })()") == (
        "SyntaxError"
    )
    assert page.evaluate("[plain[1].lastEventId, stream.lastEventId]") == [f"{channel}:2"] * 2


def test_iteration_gives_events_and_leaving_it_closes(
    page: Page, site: Site, url: str, channel: str
) -> None:
    page.evaluate(
        """async (url) => {
          window.numbers = [];
          window.done = (async () => {
            for await (const event of watch(url)) {
              numbers.push(event.data);
              if (event.data === 4) break;
            }
          })();
        }""",
        url,
    )
    wait_for(page, "stream.state === 'open'")
    send(site, channel, range(10))
    page.evaluate("done")
    assert page.evaluate("[numbers, stream.state]") == [[0, 1, 2, 3, 4], "closed"]
    wait_for_streams(site, 0)


def test_an_iterator_of_a_closed_stream_ends(page: Page, url: str) -> None:
    result = page.evaluate(
        """async (url) => {
          const stream = watch(url);
          const before = stream[Symbol.asyncIterator]();
          const waiting = before.next();
          stream.close();
          return [await waiting, await before.next(), await stream[Symbol.asyncIterator]().next()];
        }""",
        url,
    )
    assert [item["done"] for item in result] == [True, True, True]


def test_an_exception_in_a_callback_disturbs_nobody(
    page: Page, site: Site, url: str, channel: str
) -> None:
    page.evaluate(
        """(url) => {
          window.reported = [];
          addEventListener("error", (event) => {
            reported.push(event.error.message);
            event.preventDefault();
          });
          const fail = (name) => () => { throw new Error(name); };
          watch(url, { onstatechange: fail("state"), onreset: fail("reset") });
          stream.on("message", fail("message"));
          stream.on("message", (event) => seen.events.push(["again", event.data]));
        }""",
        url,
    )
    wait_for(page, "stream.state === 'open'")
    send(site, channel, range(2))
    wait_for(page, "seen.events.length === 4")
    assert page.evaluate("reported") == ["state", "message", "message"]


def test_closing_in_a_callback_is_the_end(page: Page, site: Site, url: str, channel: str) -> None:
    page.evaluate(
        "(url) => { watch(url).on('message', (event) => event.data === 1 && stream.close()); }", url
    )
    wait_for(page, "stream.state === 'open'")
    send(site, channel, range(5))
    wait_for(page, "stream.state === 'closed'")
    wait_for_streams(site, 0)
    assert events(page) == [0, 1]
    assert states(page) == ["open", "closed"]


def test_workers_have_streams_too(page: Page, site: Site, url: str, channel: str) -> None:
    page.evaluate(
        """(url) => {
          const source = `
            import { EventStream } from
              "${location.origin}/static/django_eventstream/eventstream.js";
            const stream = new EventStream("${new URL(url, location.href)}", {
              pauseWhenHidden: true,
              shareKey: "worker",
              onevent: (event) => postMessage(event.data),
              onstatechange: (state) => postMessage(state),
            });`;
          const blob = new Blob([source], { type: "text/javascript" });
          window.told = [];
          const worker = new Worker(URL.createObjectURL(blob), { type: "module" });
          worker.onmessage = ({ data }) => told.push(data);
        }""",
        url,
    )
    wait_for(page, "told.includes('open')")
    send(site, channel, range(2))
    wait_for(page, "told.length === 3")
    assert page.evaluate("told") == ["open", 0, 1]


# What is given


@pytest.mark.parametrize(
    ("url", "options", "error"),
    [
        ("http://[", {}, "TypeError: .*URL"),
        ("ftp://example.com/", {}, "TypeError: .*an http: or https: URL, not ftp://example.com/"),
        ("http://user:secret@example.com/", {}, "TypeError: .*credentials"),
        ("/events/", {"onevent": "alert"}, "TypeError: .*a function as onevent"),
        ("/events/", {"getHeaders": {}}, "TypeError: .*a function as getHeaders"),
        ("/events/", {"maxRetryTime": -1}, "TypeError: .*a number as maxRetryTime"),
        ("/events/", {"stallTimeout": "soon"}, "TypeError: .*a number as stallTimeout"),
        ("/events/", {"credentials": "yes"}, "TypeError: .*'yes'"),
        ("/events/", {"headers": {"a b": "c"}}, "TypeError: .*name"),
        ("/events/", {"signal": 1}, "TypeError: .*signal"),
    ],
)
def test_what_cannot_be_used_is_refused_at_once(
    page: Page, url: str, options: Any, error: str
) -> None:
    caught = page.evaluate(
        "([url, options]) => { try { new EventStream(url, options) } catch (e) { return `${e}` } }",
        [url, options],
    )
    assert re.match(error, caught)


def test_the_position_of_the_url_is_where_it_starts(
    page: Page, site: Site, url: str, channel: str
) -> None:
    sent = send(site, channel, range(5))
    watch(page, f"{url}&lastEventId={channel}:1&lastEventId={channel}:2&lastEventId=")
    wait_for_events(page, sent[2:])
    assert page.evaluate("stream.url") == f"http://127.0.0.1:{site.port}{url}"


def test_the_position_goes_with_the_url_and_needs_no_preflight(page: Page, wire: Wire) -> None:
    url = wire.script(
        "/stream/",
        stream(b"retry: 0\n\n", OPEN, b"id: a%20b:1,c:2\ndata: 1\n\n"),
        stream(OPEN, hold=True),
    )
    watch(page, f"{url}?x=1&x=2")
    wait_until(lambda: len(wire.of("/stream/")) == 2)
    first, second = wire.of("/stream/")
    assert first.query == [("x", "1"), ("x", "2")]
    assert second.query == [("x", "1"), ("x", "2"), ("lastEventId", "a%20b:1,c:2")]
    assert first.headers["accept"] == "text/event-stream"
    assert wire.preflights == []


@pytest.mark.parametrize("credentials", ["omit", "same-origin", "include"])
def test_cookies_go_to_other_origins_only_when_wanted(
    page: Page, wire: Wire, credentials: str
) -> None:
    page.evaluate("document.cookie = 'session=1; path=/'")
    url = wire.script("/stream/", stream(OPEN, hold=True))
    watch(page, url, credentials=credentials)
    assert ("cookie" in wire.of("/stream/")[0].headers) == (credentials == "include")


# Ends


def test_a_signal_closes_the_stream(page: Page, site: Site, url: str) -> None:
    page.evaluate(
        """(url) => {
          window.controller = new AbortController();
          watch(url, { signal: controller.signal });
        }""",
        url,
    )
    wait_for(page, "stream.state === 'open'")
    page.evaluate("controller.abort()")
    assert page.evaluate("[stream.state, seen.errors]") == ["closed", []]
    wait_for_streams(site, 0)


def test_an_aborted_signal_lets_nothing_begin(page: Page, wire: Wire) -> None:
    url = wire.script("/stream/", stream(OPEN, hold=True))
    page.evaluate("(url) => { watch(url, { signal: AbortSignal.abort() }); }", url)
    wait_for(page, "stream.state === 'closed'")
    assert states(page) == ["closed"]
    watch(page, wire.script("/after/", stream(OPEN, hold=True)))
    assert wire.of("/stream/") == []


@pytest.mark.parametrize("server", ["uvicorn", "daphne"])
def test_a_kick_ends_the_stream_and_its_loop(page: Page, site: Site, channel: str) -> None:
    channel = f"group-staff-{channel}"
    page.evaluate("fetch('/login/ann/?group=staff')")
    page.evaluate(
        """(url) => {
          window.caught = (async () => {
            try {
              for await (const event of watch(url));
            } catch (error) {
              return error instanceof StreamError && error === stream.error && error.message;
            }
          })();
        }""",
        f"/events/?channel={channel}",
    )
    wait_for(page, "stream.state === 'open'")
    site.request("GET", f"/forbid/ann/staff/{channel}/")
    assert channel in page.evaluate("caught")
    assert page.evaluate("seen.errors.map(([name, condition]) => [name, condition])") == [
        ["StreamError", "forbidden"]
    ]
    assert page.evaluate("seen.errors[0][2].channels") == [channel]
    assert page.evaluate("[stream.state, stream.lastEventId]") == ["closed", f"{channel}:0"]


def test_a_refused_stream_is_not_asked_for_again(page: Page, site: Site) -> None:
    watch(page, "/events/?channel=users-only", state="closed")
    assert page.evaluate("seen.errors[0][1]") == "forbidden"
    assert states(page) == ["closed"]


def test_204_is_the_end(page: Page, wire: Wire) -> None:
    watch(page, wire.script("/stream/"), state="closed")
    assert page.evaluate("seen.errors[0].slice(0, 2)") == ["StreamError", "no-content"]
    assert len(wire.of("/stream/")) == 1


# Resets


@pytest.mark.parametrize("server", ["uvicorn", "daphne"])
def test_a_reset_names_its_channels(page: Page, site: Site, url: str, channel: str) -> None:
    sent = send(site, channel, range(5))
    site.request("GET", f"/forget/{channel}/4/")
    page.evaluate(
        """(url) => {
          window.order = [];
          watch(url).on("*", (event) => order.push(event.type));
          stream.on("stream-reset", (event) => order.push(event.data.channels[0]));
        }""",
        f"{url}&lastEventId={channel}:1",
    )
    wait_for(page, "seen.resets.length")
    sent = send(site, channel, range(5, 7))
    wait_for_events(page, sent)
    assert page.evaluate("seen.resets") == [[channel]]
    assert page.evaluate("order") == ["stream-reset", channel, "message", "message"]


# Headers


def test_a_token_that_is_refused_is_replaced_at_once(page: Page, wire: Wire) -> None:
    url = wire.script("/stream/", status(401), stream(OPEN), status(401), stream(OPEN, hold=True))
    page.evaluate(
        """(url) => {
          window.reasons = [];
          watch(url, {
            headers: { Authorization: "none", "X-Tab": "1" },
            getHeaders: async (reason) => {
              reasons.push(reason?.status);
              return { authorization: `Bearer ${reasons.length}` };
            },
          });
        }""",
        url,
    )
    wait_until(lambda: len(wire.of("/stream/")) == 4)
    requests = wire.of("/stream/")
    assert [request.headers["authorization"] for request in requests] == [
        *("Bearer 1", "Bearer 2", "Bearer 3", "Bearer 4")
    ]
    assert all(request.headers["x-tab"] == "1" for request in requests)
    assert page.evaluate("reasons") == [None, 401, None, 401]
    first, second, third, fourth = (request.time for request in requests)
    assert second - first < 0.4 < third - second
    assert fourth - third < 0.4


def test_a_token_that_is_refused_again_is_tried_with_pauses(page: Page, wire: Wire) -> None:
    url = wire.script("/stream/", *[status(401)] * 3, stream(OPEN, hold=True))
    page.evaluate("(url) => { watch(url, { getHeaders: () => ({}) }); }", url)
    wait_until(lambda: len(wire.of("/stream/")) == 4)
    times = [request.time for request in wire.of("/stream/")]
    pauses = [b - a for a, b in itertools.pairwise(times)]
    assert pauses[0] < 0.4 < pauses[1] < pauses[2] * 1.5


def test_without_get_headers_401_is_tried_with_pauses(page: Page, wire: Wire) -> None:
    url = wire.script("/stream/", status(401), stream(OPEN, hold=True))
    watch(page, url)
    first, second = wire.of("/stream/")
    assert second.time - first.time > 0.4
    assert "401" in page.evaluate("seen.states[0][1]")


def test_get_headers_may_fail(page: Page, wire: Wire) -> None:
    url = wire.script("/stream/", stream(OPEN, hold=True))
    page.evaluate(
        """(url) => {
          let count = 0;
          window.calls = [];
          watch(url, {
            getHeaders: () => {
              calls.push(Date.now());
              if (count++ === 0) throw new Error("no token");
              if (count === 2) return Promise.reject(new Error("still none"));
              return { Authorization: "Bearer 1" };
            },
          });
        }""",
        url,
    )
    wait_for(page, "stream.state === 'open'")
    assert page.evaluate("seen.states") == [
        ["connecting", "Error: no token"],
        ["connecting", "Error: still none"],
        ["open", None],
    ]
    calls = page.evaluate("calls")
    assert calls[1] - calls[0] > 400
    assert calls[2] - calls[1] > 400
    assert len(wire.of("/stream/")) == 1


# Connections


def test_whatever_fails_is_tried_again(page: Page, wire: Wire) -> None:
    url = wire.script(
        "/stream/",
        stream(b"retry: 1\n\n"),
        status(503),
        status(404),
        status(200, {"Content-Type": "text/html"}),
        cut,
        stream(OPEN, b"data: 1\n\nid: a:2\ndata: 2\n\nid: a:3\ndata: never com"),
        stream(b"id: a:3\ndata: 3\n\n", hold=True),
    )
    watch(page, url, state="", maxRetryTime=50)
    wait_for_events(page, [1, 2, 3])
    assert [request.last_event_id for request in wire.of("/stream/")] == [None] * 6 + ["a:2"]
    assert wire.most_open == 1
    reasons = page.evaluate("seen.states.map(([, reason]) => reason)")
    assert ["503" in reasons[1], "404" in reasons[2], "text/html" in reasons[3]] == [True] * 3


def test_offline_and_online(context: BrowserContext, page: Page, wire: Wire) -> None:
    url = wire.script("/stream/", stream(OPEN, hold=True), stream(OPEN, hold=True))
    watch(page, url)
    context.set_offline(True)
    wire.cut_all()
    wait_for(page, "stream.state === 'connecting' && seen.states.length > 3")  # two have failed
    context.set_offline(False)
    online = time.monotonic()
    wait_for(page, "stream.state === 'open'")
    second = wire.of("/stream/")[-1]
    assert second.last_event_id == "a:1"
    assert second.time - online < 0.5


def test_a_stream_that_says_nothing_is_replaced(page: Page, wire: Wire) -> None:
    url = wire.script("/stream/", stream(OPEN, hold=True), hang, stream(OPEN, hold=True))
    watch(page, url, stallTimeout=500)
    wait_until(lambda: len(wire.of("/stream/")) == 3)
    wait_until(lambda: wire.open == 1)
    wait_for(page, "stream.state === 'open'")


def test_a_hidden_page_holds_no_connection_if_it_wants(
    page: Page, site: Site, url: str, channel: str
) -> None:
    watch(page, url, pauseWhenHidden=True)
    sent = send(site, channel, range(3))
    wait_for_events(page, sent)
    show(page, False)
    wait_for_streams(site, 0)
    sent += send(site, channel, range(3, 6))
    show(page, True)
    wait_for_events(page, sent)
    assert states(page) == ["open", "paused", "connecting", "open"]
    assert page.evaluate("seen.resets") == []


def test_a_page_that_begins_hidden_waits(page: Page, site: Site, url: str) -> None:
    show(page, False)
    watch(page, url, state="paused", pauseWhenHidden=True)
    show(page, True)
    wait_for(page, "stream.state === 'open'")
    assert states(page) == ["paused", "connecting", "open"]


def test_a_page_that_is_kept_for_the_way_back_holds_nothing_and_goes_on(
    browser: Browser, site: Site, url: str, channel: str
) -> None:
    # Playwright keeps browsers from keeping pages.
    keeping = browser.browser_type.launch(
        executable_path=shutil.which("chromium"),
        chromium_sandbox=False,
        args=FLAGS,
        ignore_default_args=["--disable-back-forward-cache"],
    )
    with contextlib.closing(keeping):
        context = keeping.new_context()
        page, other = open_tab(context, site), open_tab(context, site)
        watch(page, url, shareKey="user")
        watch(other, url, shareKey="user")
        page.goto(f"http://127.0.0.1:{site.port}/threads/")
        sent = send(site, channel, range(3))
        wait_for_events(other, sent)
        page.go_back(wait_until="commit")
        assert page.evaluate("Boolean(window.seen)"), "the page was not kept"
        wait_for_events(page, sent)
        assert states(page) == ["open", "paused", "connecting", "open"]
        assert count_streams(site) == 1


@pytest.mark.parametrize("server", ["uvicorn", "daphne"])
def test_a_server_that_is_killed_costs_nothing(
    page: Page, site: Site, server: str, shared_database: str, url: str, channel: str
) -> None:
    watch(page, url, maxRetryTime=300)
    sent = send(site, channel, range(300))
    site.process.kill()
    with serve(
        server, database=shared_database, port=site.port, EVENTSTREAM_TEST_STATIC="1"
    ) as again:
        sent += send(again, channel, range(300, 600))
        wait_for_events(page, sent)
        assert count_streams(again) == 1
    assert page.evaluate("seen.resets") == []


# Much


def test_a_slow_reader_pauses_the_stream_and_loses_nothing(
    page: Page, site: Site, url: str, channel: str
) -> None:
    page.evaluate("(url) => { window.iterator = watch(url)[Symbol.asyncIterator](); }", url)
    wait_for(page, "stream.state === 'open'")
    sent = send(site, channel, range(2500))
    wait_for(page, "stream.state === 'paused'")
    wait_for_streams(site, 0)
    assert len(events(page)) < 1100
    read = page.evaluate(
        """async () => {
          const numbers = [];
          while (numbers.length < 2500) {
            numbers.push((await iterator.next()).value.data);
            if (numbers.length % 100 === 0) await new Promise((resolve) => setTimeout(resolve));
          }
          return numbers;
        }"""
    )
    assert read == sent


def test_a_loop_that_keeps_up_is_not_paused(page: Page, wire: Wire) -> None:
    # All at once, as after a pause: far more than may wait.
    block = b"".join(b"data: %d\n\n" % number for number in range(20_000))
    url = wire.script("/stream/", stream(OPEN, block, hold=True))
    page.evaluate(
        """async (url) => {
          let next = 0;
          for await (const event of watch(url, { onevent: undefined })) {
            if (event.data !== next++) throw new Error(`${event.data}`);
            if (next === 20000) break;
          }
        }""",
        url,
    )
    assert states(page) == ["open", "closed"]
    assert len(wire.of("/stream/")) == 1


def test_ten_thousand_events_leave_nothing_behind(
    context: BrowserContext, page: Page, site: Site, url: str, channel: str
) -> None:
    session = context.new_cdp_session(page)

    def heap() -> float:
        session.send("HeapProfiler.collectGarbage")
        size: float = session.send("Runtime.getHeapUsage")["usedSize"]
        return size / 1e6

    page.evaluate(
        """(url) => {
          window.count = 0;
          watch(url, {
            onevent: ({ data }) => {
              if (data !== `${count % 1000}`.padEnd(1000)) throw new Error(`${count}: ${data}`);
              count++;
            },
          });
        }""",
        url,
    )
    wait_for(page, "stream.state === 'open'")
    texts = [
        {"channel": channel, "event_type": "message", "data": f"{n:<1000}"} for n in range(1000)
    ]

    def send_a_thousand() -> None:
        count = page.evaluate("count")
        site.send(*texts, transaction="commit")
        wait_for(page, f"count === {count + 1000}")

    send_a_thousand()
    before = heap()
    for _ in range(10):
        send_a_thousand()
    after = heap()
    print(f"heap: {before:.2f} MB before, {after:.2f} MB after 10,000 events")
    assert after - before < 1  # of 10 MB that came
