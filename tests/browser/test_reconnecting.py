"""ReconnectingEventSource goes on where the browser's EventSource gives up, until it must end.

``fetch`` is how it works by itself; ``native`` has the browser's EventSource do the work.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from random import Random

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import evaluate, open_page, read_in_worker
from tests.browser.wire import Answer, Request, Wire, cut, hang, status, stream
from tests.processes import Site, free_port, serve, wait_until

ALIVE = b"event: keep-alive\ndata:\n\n"
SOON = b"retry: 1\n\n"
RESET = "stream-reset"


@pytest.fixture(scope="module")
def site(shared_database: str) -> Iterator[Site]:
    with serve("uvicorn", database=shared_database, EVENTSTREAM_TEST_STATIC="1") as site:
        yield site


@pytest.fixture(params=["fetch", "native"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


HELP = """
window.start = (url, options = {}, way = "fetch") => {
  window.log = [];
  window.times = [];
  if (way === "native") options.eventSourceClass = EventSource;
  window.source = new ReconnectingEventSource(url, options);
  const note = (event) => {
    times.push(performance.now());
    log.push(event instanceof MessageEvent
      ? [event.type, event.data, event.lastEventId] : [event.type, source.readyState]);
  };
  const types = ["open", "message", "error", "info", "stream-open", "stream-reset", "stream-error"];
  for (const type of types) source.addEventListener(type, note);
};
null;
"""


@pytest.fixture
def page(page: Page) -> Page:
    page.evaluate(HELP)
    return page


def start(page: Page, url: str, way: str = "fetch", **options: object) -> None:
    page.evaluate("(given) => start(...given)", [url, options, way])


def log(page: Page, condition: str = "true") -> list[list[object]]:
    """Return what was recorded, once the condition is true."""
    page.wait_for_function(condition)
    found: list[list[object]] = page.evaluate("log")
    return found


def see_another_come_back(page: Page, wire: Wire) -> None:
    """Let so much time pass that one that had gone on would have come back."""
    url = wire.script("/another", *[stream(SOON + b"data\n\n")] * 5)
    page.evaluate("(url) => { new ReconnectingEventSource(url); }", url)
    wait_until(lambda: len(wire.of("/another")) == 6)


def pauses(wire: Wire, path: str) -> list[float]:
    times = [request.time for request in wire.of(path)]
    return [after - before for before, after in itertools.pairwise(times)]


# A drop-in


def test_interface_is_that_of_event_source(page, wire, way):
    start(page, wire.url("/a"), way, withCredentials=True)
    request = wire.take("/a")
    found = page.evaluate("""() => {
      const { prototype } = ReconnectingEventSource;
      return [
        source instanceof EventTarget, String(source), ReconnectingEventSource.name,
        source.url, source.withCredentials, source.readyState,
        [source, prototype, ReconnectingEventSource].map((o) => [o.CONNECTING, o.OPEN, o.CLOSED]),
        source.onopen, source.onmessage, source.onerror, source.max_retry_time,
        Object.keys(Object.getOwnPropertyDescriptors(EventSource.prototype)).filter(
          (key) => !(key in prototype)),
      ];
    }""")
    assert found == [
        *(True, "[object ReconnectingEventSource]", "ReconnectingEventSource"),
        *(wire.url("/a"), True, 0, [[0, 1, 2]] * 3, None, None, None, 3000, []),
    ]
    request.answer()
    assert log(page, "log.length") == [["open", 1]]
    page.evaluate("source.close()")
    assert request.gone.wait(10)
    assert page.evaluate("source.readyState") == 2


def test_handlers_and_listeners_of_every_kind(page, wire, way):
    url = wire.script("/a", stream(b"data: 1\n\nevent: late\ndata: 2\n\n" * 2, hold=True))
    found = evaluate(
        page,
        """async ([url, native]) => {
          const options = native ? { eventSourceClass: EventSource } : {};
          const source = new ReconnectingEventSource(url, options);
          const order = [];
          source.onmessage = function ({ data, origin }) {
            order.push(["handler", data, this === source, new URL(url).origin === origin]);
          };
          source.addEventListener("message", { handleEvent: ({ target }) =>
            order.push(["object", target === source]) }, { once: true });
          const removed = () => order.push("removed");
          source.addEventListener("late", removed);
          source.removeEventListener("late", removed);
          source.addEventListener("late", null);
          const late = new Promise((resolve) => {
            let count = 0;
            source.addEventListener("late", ({ data }) => {
              order.push(data);
              if (++count === 2) resolve();
            });
          });
          await late;
          source.close();
          return order;
        }""",
        [url, way == "native"],
    )
    handler = ["handler", "1", True, True]
    assert found == [handler, ["object", True], "2", handler, "2"]


def test_url_and_options_are_checked_as_event_source_does(page):
    found = page.evaluate("""() => {
      const attempt = (...given) => {
        try {
          const source = new ReconnectingEventSource(...given);
          source.close();
          return [source.url.replace(location.origin, ""), source.withCredentials];
        } catch (error) {
          return error.name;
        }
      };
      return [
        attempt(), attempt("http://["), attempt("/a", 1), attempt("/a", null),
        attempt(new URL("/b?c#d", location), { withCredentials: 1, eventSourceClass: null }),
        attempt("/a", { eventSourceClass: "no class" }),
      ];
    }""")
    assert found == [
        *("TypeError", "SyntaxError", "TypeError", ["/a", False], ["/b?c#d", True]),
        "EventSourceNotAvailableError",
    ]


def test_without_fetch_the_browser_does_the_work_and_without_either_nobody(page, wire):
    url = wire.script("/a", stream(b"data: x\n\n", hold=True))
    page.evaluate("delete Response.prototype.body")
    start(page, url)
    assert log(page, "log.length === 2") == [["open", 1], ["message", "x", ""]]
    name = page.evaluate("""() => {
      delete window.EventSource;
      try { new ReconnectingEventSource("/a"); } catch (error) {
        return [error.name, error instanceof EventSourceNotAvailableError];
      }
    }""")
    assert name == ["EventSourceNotAvailableError", True]


def test_class_gets_the_url_and_the_options_that_are_not_ours(page):
    found = page.evaluate("""() => {
      const made = [];
      class Stub extends EventTarget {
        readyState = 0;
        constructor(...given) { super(); made.push(given); }
        close() {}
      }
      const options = { eventSourceClass: Stub, lastEventId: "a:1", max_retry_time: 5,
        withCredentials: true, headers: { X: "1" } };
      const source = new ReconnectingEventSource("/x/", options);
      source.close();
      return [made, source.max_retry_time, source.withCredentials, location.origin];
    }""")
    assert found[0] == [
        [f"{found[3]}/x/?lastEventId=a%3A1", {"withCredentials": True, "headers": {"X": "1"}}]
    ]
    assert found[1:3] == [5, True]


def test_server_may_name_events_open_and_error(page, wire, way):
    body = b"event: open\ndata: 1\n\nevent: error\ndata: 2\n\ndata: 3\n\n"
    start(page, wire.script("/a", stream(body, hold=True)), way)
    assert log(page, "log.length === 4") == [
        *(["open", 1], ["open", "1", ""], ["error", "2", ""], ["message", "3", ""]),
    ]
    assert page.evaluate("source.readyState") == 1


def test_workers_have_it_too(page, wire):
    url = wire.script(
        "/a", stream(SOON + b"id: 1\ndata: x\n\n"), status(503), stream(b"data: y\n\n")
    )
    script = "/static/django_eventstream/reconnecting-eventsource.js"
    found = read_in_worker(page, script, "ReconnectingEventSource", url)
    assert found == [["x", "1"], ["y", "1"], "closed"]


# It goes on


FAILURES: dict[str, Answer] = {
    "HTTP error": status(500),
    "bad gateway": status(502, {"Content-Type": "text/html"}, b"<h1>Bad gateway</h1>"),
    "not found": status(404),
    "log-in page": status(200, {"Content-Type": "text/html"}, b"<form>"),
    "cut": cut,
}


def test_failures_do_not_end_it_nor_move_its_position(page, wire):
    first = stream(SOON + b"event: stream-open\nid: a:1\ndata:\n\nevent: other\nid: a:2\ndata\n\n")
    url = wire.script(
        "/a?b=%20+#hash",
        *FAILURES.values(),
    )
    path = "/a"
    wire.script(
        path,
        status(503),
        first,
        *FAILURES.values(),
        stream(b"data: without id\n\n"),
        stream(b"id: a:3\n\ndata: unfinished"),
        *FAILURES.values(),
        stream(b"event: info\nid: a:4\ndata: x\n\n", hold=True),
    )
    start(page, url, lastEventId="a:0", max_retry_time=20)
    count = len(FAILURES)
    opened, failed = ["open", 1], ["error", 0]
    assert log(page, "log.at(-1)?.[0] === 'info'") == [
        *(failed, opened, ["stream-open", "", "a:1"], failed),
        *[failed] * count,
        *(opened, ["message", "without id", "a:2"], failed),
        *(opened, failed),
        *[failed] * count,
        *(opened, ["info", "x", "a:4"]),
    ]
    sent = ["a:0"] * 2 + ["a:2"] * (count + 2) + ["a:3"] * (count + 1)
    requests = wire.of(path)
    assert [request.query for request in requests] == [
        [("b", "  "), ("lastEventId", position)] for position in sent
    ]
    assert not any("last-event-id" in request.headers for request in requests)
    assert wire.preflights == []
    assert wire.most_open == 1
    assert page.evaluate("source.url") == url


def test_browser_is_replaced_when_it_gives_up(page, wire):
    url = wire.script(
        "/a",
        status(500),
        stream(SOON + b"event: stream-open\nid: a:1\ndata:\n\n"),
        stream(b"event: info\nid: a:2\ndata: x\n\n"),  # to which it comes back by itself
        status(503),
        stream(SOON + b"data: without id\n\n"),
        cut,
        status(404),
        stream(b"event: info\ndata: y\n\n", hold=True),
    )
    start(page, url, "native", lastEventId="a:0", max_retry_time=20)
    opened, failed = ["open", 1], ["error", 0]
    assert log(page, "log.at(-1)?.[1] === 'y'") == [
        *(failed, opened, ["stream-open", "", "a:1"], failed),
        *(opened, ["info", "x", "a:2"], failed, failed),
        *(opened, ["message", "without id", "a:2"], failed, failed, failed),
        *(opened, ["info", "y", "a:2"]),
    ]
    found = [(dict(r.query)["lastEventId"], r.headers.get("last-event-id")) for r in wire.of("/a")]
    assert found == [
        *(("a:0", None), ("a:0", None), ("a:0", "a:1"), ("a:0", "a:2")),
        *[("a:2", None)] * 4,
    ]
    assert wire.most_open == 1


def test_refused_connections_are_tried_with_growing_pauses_until_they_work(page, wire):
    start(page, wire.url("/a"), max_retry_time=400)
    request = wire.take("/a")
    request.answer(body=b"retry: 50\nid: a:7\ndata: x\n\n")
    log(page, "log.length === 2")
    wire.refuse()
    request.end()
    page.wait_for_function("log.length === 9")
    times = page.evaluate("times")[2:]
    found = [after - before for before, after in itertools.pairwise(times)]
    shortest = [50, 50, 100, 200, 200, 200]  # then capped
    assert all(pause >= least - 2 for pause, least in zip(found, shortest, strict=True))
    wire.listen()
    again = wire.take("/a")
    assert again.last_event_id == "a:7"
    again.answer()
    assert log(page, "log.at(-1)[0] === 'open'")[-1] == ["open", 1]
    assert wire.most_open == 1


def test_pauses_grow_to_their_cap_and_begin_anew_after_a_success(page, wire):
    url = wire.script(
        "/a",
        *[status(503)] * 3,
        stream(b"retry: 200\ndata: x\n\n"),
        *[status(500)] * 4,
        stream(b"data: x\n\n"),
        hang,
    )
    start(page, url, max_retry_time=1200)
    wait_until(lambda: len(wire.of("/a")) == 10)
    found = pauses(wire, "/a")
    shortest = [0.5, 0.6, 0.6, 0.2, 0.2, 0.4, 0.6, 0.6, 0.2]
    longest = [1.0, 1.2, 1.2, 0.25, 0.4, 0.8, 1.2, 1.2, 0.25]
    for pause, least, most in zip(found, shortest, longest, strict=True):
        assert least - 0.01 <= pause <= most + 1  # for slow machines


def test_jitter_makes_clients_come_back_at_different_times(page, wire):
    urls = [wire.script(f"/{number}", status(503), hang) for number in range(5)]
    page.evaluate("(urls) => { for (const url of urls) new ReconnectingEventSource(url); }", urls)
    wait_until(lambda: len(wire.requests) == 10)
    found = sorted(pauses(wire, f"/{number}")[0] for number in range(5))
    assert found[-1] - found[0] > 0.02


def test_server_is_never_asked_sooner_than_it_said(page, wire):
    url = wire.script(
        "/a",
        stream(b"retry: 700\n"),
        status(503),
        cut,
        stream(),
        stream(b"retry: 300\n\nretry: x\nretry:\n\n"),
        status(500),
        hang,
    )
    start(page, url, max_retry_time=10)
    wait_until(lambda: len(wire.of("/a")) == 7)
    for pause, asked in zip(pauses(wire, "/a"), [*[0.7] * 4, 0.3, 0.3], strict=True):
        assert asked - 0.01 <= pause < asked + 1.5


def test_answers_without_an_event_are_failures_too(page, wire):
    """As of a server that cannot read its events: 200, ``retry:``, and the end."""
    url = wire.script("/a", *[stream(b": padding\n\nretry: 100\n\n")] * 4, hang)
    start(page, url)
    wait_until(lambda: len(wire.of("/a")) == 5)
    found = pauses(wire, "/a")
    assert all(p >= least for p, least in zip(found, [0.09, 0.09, 0.19, 0.39], strict=True))


def test_events_come_at_once(page, wire, way):
    start(page, wire.url("/a"), way)
    request = wire.take("/a")
    request.answer()
    for number in range(3):
        request.send(b"id: %d\ndata: %d\n\n" % (number, number))
        log(page, f"log.length === {2 + number}")
    assert wire.most_open == 1


# Positions


@pytest.mark.parametrize(
    ("query", "option", "expected"),
    [
        ("", "", ""),
        ("?", "a:1", "?lastEventId=a%3A1"),
        (
            "?a=1&b=%20+%c3%a4~'()",
            "x &\u20ac",
            "?a=1&b=%20+%c3%a4~%27()&lastEventId=x%20%26%E2%82%AC",
        ),
        ("?lastEventId=a:1&b=2", "", "?b=2&lastEventId=a%3A1"),
        ("?lastEventId=a:1&lastEventId=a:2&lastEventId=&b", "", "?b&lastEventId=a%3A2"),
        ("?lastEventId=a:1&b=2&lastEventId=a:2", "a:9", "?b=2&lastEventId=a%3A9"),
        ("?lastEventId=", "", ""),
        ("?xlastEventId=1&lastEventIds=2", "a", "?xlastEventId=1&lastEventIds=2&lastEventId=a"),
    ],
)
def test_position_replaces_what_the_url_has(page, wire, query, option, expected):
    url = wire.url(f"/a{query}")
    start(page, url + "#x", lastEventId=option)
    assert wire.take("/a").target == f"/a{expected}"


def test_id_of_any_event_and_of_none_moves_the_position(page, wire):
    identifier = "\u20ac&+ %/?#"
    url = wire.script(
        "/a",
        stream(SOON + b"event: unheard\nid: a:1\ndata: x\n\n"),
        stream(f"id: {identifier}\n\ndata: x\n\n".encode()),
        stream(b"id: bad\0\ndata: y\n\n" + ALIVE),
        stream(b"id\ndata: z\n\n"),
        hang,
    )
    start(page, url)
    wait_until(lambda: len(wire.of("/a")) == 5)
    positions = [request.last_event_id for request in wire.of("/a")]
    assert positions == [None, "a:1", identifier, identifier, None]
    messages = [entry for entry in log(page) if entry[0] == "message"]
    assert messages == [
        ["message", "x", identifier],
        ["message", "y", identifier],
        ["message", "z", ""],
    ]


def test_events_without_id_carry_the_position(page, wire, way):
    url = wire.script("/a", stream(b"data: 1\n\nid: a:6\ndata: 2\n\ndata: 3\n\n", hold=True))
    start(page, url, way, lastEventId="a:5")
    assert log(page, "log.length === 4")[1:] == [
        *(["message", "1", "a:5"], ["message", "2", "a:6"], ["message", "3", "a:6"]),
    ]


# The end


def test_stream_error_ends_it_for_good_and_says_why(page, wire, way):
    data = {"condition": "forbidden", "text": "not <you>", "channels": ["a"]}
    body = f"event: stream-error\nid: error\ndata: {json.dumps(data)}\n\ndata: too late\n\n"
    url = wire.script("/a", stream(SOON + b"data: 1\n\n" + body.encode()), stream(b"data: 2\n\n"))
    page.evaluate(
        """([url, way]) => {
          start(url, {}, way);
          source.addEventListener("stream-error", () => log.push(source.readyState));
          source.onerror = ({ condition, text }) => log.push({ condition, text });
        }""",
        [url, way],
    )
    found = log(page, "source.readyState === 2")
    assert found == [
        *(["open", 1], ["message", "1", ""]),
        *(["stream-error", json.dumps(data), "error"], 2),
        *(["error", 2], {"condition": "forbidden", "text": "not <you>"}),
    ]
    see_another_come_back(page, wire)
    assert len(wire.of("/a")) == 1
    assert wire.open == 0 or wire.of("/a")[0].gone.wait(10)


@pytest.mark.parametrize("data", ["", "{", "null", "5", "[]", '"text"'])
def test_stream_error_of_any_data_ends_it(page, wire, data):
    url = wire.script("/a", stream(f"event: stream-error\ndata: {data}\n\n".encode(), hold=True))
    start(page, url)
    assert log(page, "log.length === 3")[1:] == [["stream-error", data, ""], ["error", 2]]
    assert wire.of("/a")[0].gone.wait(10)


def test_stream_error_without_data_is_no_event(page, wire, way):
    body = b"event: stream-error\nid: a:1\n\ndata: x\n\n"
    start(page, wire.script("/a", stream(body, hold=True)), way)
    assert log(page, "log.length === 2")[1:] == [["message", "x", "a:1"]]


def test_204_says_stop(page, wire):
    url = wire.script("/a", stream(SOON + b"data: 1\n\n"), status(204), stream(b"data: 2\n\n"))
    page.evaluate(
        """(url) => {
          start(url);
          source.onerror = ({ condition, text }) => log.push([condition ?? null, text ?? null]);
        }""",
        url,
    )
    assert log(page, "source.readyState === 2") == [
        *(["open", 1], ["message", "1", ""], ["error", 0], [None, None]),
        *(["error", 2], ["no-content", "HTTP status 204"]),
    ]
    see_another_come_back(page, wire)
    assert len(wire.of("/a")) == 2


@pytest.mark.parametrize("moment", ["open", "message", "error", "stream-error"])
def test_close_in_a_listener_is_final(page, wire, way, moment):
    body = SOON + b"data: 1\n\n"
    if moment == "stream-error":
        body += b"event: stream-error\ndata: {}\n\n"
    url = wire.script("/a", stream(body + b"data: 2\n\n"), *[stream(body)] * 3)
    page.evaluate(
        """([url, way, moment]) => {
          start(url, {}, way);
          source.addEventListener(moment, () => { source.close(); log.push("closed"); });
        }""",
        [url, way, moment],
    )
    found = log(page, "log.includes('closed')")
    see_another_come_back(page, wire)
    assert len(wire.of("/a")) == 1
    assert page.evaluate("source.readyState") == 2
    later = log(page)[len(found) :]
    # The stream's end is told to the end.
    assert later == ([["error", 2]] if moment == "stream-error" and later else [])


@pytest.mark.parametrize("moment", ["connecting", "open", "waiting"])
def test_close_is_final_and_silent(page, wire, way, moment):
    start(page, wire.url("/a"), way, max_retry_time=20)
    request = wire.take("/a")
    if moment == "open":
        request.answer(body=SOON)
        log(page, "log.length === 1")
    elif moment == "waiting":
        # The clock of the page stands, so that the pause does not end.
        page.evaluate("window.setTimeout = (callback) => { window.late = callback; }")
        request.answer(503, {})
        request.end()
        log(page, "log.length === 1")
    before = log(page)
    page.evaluate("source.close(); window.dispatchEvent(new Event('online'))")
    assert request.gone.wait(10)
    see_another_come_back(page, wire) if moment != "waiting" else None
    assert log(page) == before
    assert page.evaluate("source.readyState") == 2
    assert len(wire.of("/a")) == 1


# Dead connections, and networks that come and go


@pytest.fixture
def clock(page: Page) -> Page:
    """A page whose clock stands still but for what the test lets pass."""
    page.clock.install()
    page.reload()
    page.clock.pause_at(page.evaluate("Date.now()") + 1000)
    page.evaluate(HELP)
    return page


def beat(page: Page, wire: Wire, seconds: int = 20):
    """Open a stream with keep-alives."""
    start(page, wire.url("/a"))
    request = wire.take("/a")
    request.answer(body=b"event: stream-open\nid: a:5\ndata:\n\n")
    log(page, "log.length === 2")
    page.clock.run_for(seconds * 1000)
    request.send(ALIVE + b"event: info\ndata\n\n")
    log(page, "log.length === 3")
    return request


def test_connection_without_keep_alives_is_replaced(clock, wire):
    request = beat(clock, wire)
    clock.clock.run_for(45_000)
    assert len(wire.requests) == 1
    assert log(clock)[3:] == []
    clock.clock.run_for(15_000)
    again = wire.take("/a")
    assert again.last_event_id == "a:5"
    assert request.gone.wait(10)
    again.answer()
    assert log(clock, "log.length === 5")[3:] == [["error", 0], ["open", 1]]
    assert len(wire.requests) == 2


def test_connection_is_replaced_after_sleep(clock, wire):
    request = beat(clock, wire)
    clock.clock.fast_forward(3600_000)  # as a lid that is opened: timers run once
    clock.clock.run_for(3000)
    assert wire.take("/a").last_event_id == "a:5"
    assert request.gone.wait(10)
    assert len(wire.requests) == 2


def test_streams_that_never_sent_keep_alives_may_be_silent(clock, wire):
    start(clock, wire.url("/a"))
    wire.take("/a").answer()
    log(clock, "log.length === 1")
    clock.clock.run_for(600_000)
    assert len(wire.requests) == 1


def test_request_without_an_answer_is_given_up(clock, wire):
    start(clock, wire.url("/a"))
    request = wire.take("/a")
    clock.clock.run_for(55_000)
    assert len(wire.requests) == 1
    clock.clock.run_for(15_000)
    wire.take("/a").answer()
    assert request.gone.wait(10)
    assert log(clock, "log.length === 2") == [["error", 0], ["open", 1]]


def test_online_ends_the_pause(context, page, wire, way):
    start(page, wire.url("/a"), way, max_retry_time=600_000)
    request = wire.take("/a")
    request.answer(body=b"retry: 600000\nid: a:5\ndata: x\n\n")
    log(page, "log.length === 2")
    context.set_offline(True)
    request.end()
    log(page, "log.at(-1)[0] === 'error'")
    context.set_offline(False)
    again = wire.take("/a")
    assert again.last_event_id == "a:5"
    again.answer()
    log(page, "log.at(-1)[0] === 'open'")
    assert len(wire.requests) == 2


def test_what_seems_open_when_the_network_is_back_is_replaced(context, page, wire, way):
    start(page, wire.url("/a"), way)
    request = wire.take("/a")
    request.answer(body=b"retry: 600000\nid: a:5\ndata: x\n\n")
    log(page, "log.length === 2")
    context.set_offline(True)
    context.set_offline(False)
    again = wire.take("/a")
    assert request.gone.wait(10)
    assert again.last_event_id == "a:5"
    again.answer()
    assert log(page, "log.at(-1)[0] === 'open'")[2:] == [["error", 0], ["open", 1]]
    assert len(wire.requests) == 2
    assert wire.open == 1


# Many events


def serve_numbers(request: Request, end: int) -> None:
    """Send the events after the position that is asked for, and break off after some of them."""
    position = int((request.last_event_id or ":0").split(":")[1])
    last = min(position + 997, end)
    numbers = range(position + 1, last + 1)
    events = [b"id: n:%d\ndata: %d %s\n\n" % (n, n, b"x" * 100) for n in numbers]
    request.answer(body=b"retry: 1\n\n" + b"".join(events) + b"id: n:%d\ndata: half" % (last + 1))
    request.end()


def test_fifty_thousand_events_over_many_connections_without_loss_or_leak(context, page, wire):
    page.evaluate(
        """(url) => {
          window.count = 0;
          window.wrong = [];
          window.source = new ReconnectingEventSource(url);
          source.onmessage = ({ data, lastEventId }) => {
            count += 1;
            if (parseInt(data) !== count || lastEventId !== `n:${count}`) wrong.push(lastEventId);
          };
        }""",
        wire.url("/a"),
    )
    session = context.new_cdp_session(page)
    sizes = []
    for end in range(10_000, 50_001, 10_000):
        while page.evaluate("count") < end:
            request = wire.take("/a")
            serve_numbers(request, end)
            request.gone.wait()
            position = int((request.last_event_id or ":0").split(":")[1])
            page.wait_for_function(f"count >= {min(position + 997, end)}")
        session.send("HeapProfiler.collectGarbage")
        sizes.append(session.send("Runtime.getHeapUsage")["usedSize"])
    assert page.evaluate("[count, wrong]") == [50_000, []]
    assert wire.most_open == 1
    # 40,000 events of 100 bytes later.
    assert sizes[-1] - sizes[0] < 500_000


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_server_does_each_event_arrives_once_and_in_order(page, wire, seed):
    random = Random(seed)
    start(page, wire.url("/a"), max_retry_time=5, lastEventId="n:0")
    position = 0  # after the last event that was sent completely
    while position < 150:
        request = wire.take("/a")
        assert request.last_event_id == f"n:{position}"
        fault = random.choice(["status", "type", "cut", "refuse", *["stream"] * 4])
        if fault == "status":
            request.answer(random.choice([400, 403, 404, 429, 500, 502, 503]), {})
        elif fault == "type":
            request.answer(headers={"Content-Type": "text/html"}, body=b"data: no\n\n")
        elif fault == "stream":
            request.answer(body=random.choice([b"", b"retry: 1\n\n", b": padding\r\n\r\n"]))
            body = b""
            for _ in range(random.randrange(20)):
                position += 1
                end = random.choice([b"\n", b"\r", b"\r\n"])
                lines = [b"id: n:%d" % position, b"data: %d" % position, b": x", b""]
                body += b"".join(line + end for line in lines)
            body += (b"\nid: n:%d\ndata: x\nevent: y\n" % (position + 1))[: random.randrange(22)]
            for piece in range(0, len(body), size := random.randrange(1, 200)):
                request.send(body[piece : piece + size])
            # What is cut off may get lost on the way.
            log(page, f"(log.findLast(([type]) => type === 'message')?.[1] ?? 0) == {position}")
        if fault == "refuse":
            count = len(log(page))
            wire.refuse()
            request.cut()
            log(page, f"log.length > {count + 2}")
            wire.listen()
        elif fault == "cut" or random.random() < 0.5:
            request.cut()
        else:
            request.end()
    messages = [entry for entry in log(page) if entry[0] not in ("open", "error")]
    assert messages == [["message", str(n), f"n:{n}"] for n in range(1, position + 1)]
    wire.take("/a")
    assert wire.most_open == 1


# With the real servers


@pytest.mark.parametrize("server", ["uvicorn", "daphne"])
def test_nothing_is_lost_or_repeated_when_the_server_is_killed(context, server, shared_database):
    port = free_port()
    channel = f"killed-{server}"
    options = {"database": shared_database, "port": port, "EVENTSTREAM_TEST_STATIC": "1"}
    sent = []

    def send(site: Site, count: int) -> None:
        numbers = range(len(sent), len(sent) + count)
        site.send(*({"channel": channel, "event_type": "message", "data": n} for n in numbers))
        sent.extend(numbers)

    page = None
    for _ in range(3):
        with serve(server, **options) as site:
            if page is None:
                page = open_page(context, site)
                page.evaluate(HELP)
                start(page, f"/events/?channel={channel}")
                # It is open a moment earlier, and has no position yet.
                log(page, "log.some(([type]) => type === 'stream-open')")
            else:
                send(site, 10)  # before it is back, perhaps
            log(page, "source.readyState === 1")
            send(site, 50)
            log(page, f"log.filter(([type]) => type === 'message').length > {len(sent) - 20}")
            site.process.kill()
    with serve(server, **options) as site:
        send(site, 10)
        found = log(page, f"log.filter(([type]) => type === 'message').length >= {len(sent)}")
        messages = [entry for entry in found if entry[0] == "message"]
        assert messages == [["message", str(number), f"{channel}:{number + 1}"] for number in sent]
        assert RESET not in {entry[0] for entry in found}
        page.close()


def test_kick_ends_it(page, site):
    assert site.request("GET", "/login/kicked/?group=g")[0] == 200
    page.goto(f"http://127.0.0.1:{site.port}/login/kicked/?group=g")
    page.goto(f"http://127.0.0.1:{site.port}/page/")
    page.evaluate(HELP)
    page.evaluate(
        """() => {
          start("/events/?channel=group-g-a");
          source.onerror = ({ condition, text }) => log.push({ condition, text });
        }"""
    )
    log(page, "log.length === 2")
    assert site.request("GET", "/forbid/kicked/g/group-g-a/")[0] == 204
    found = log(page, "source.readyState === 2")
    text = "Permission denied to channels: group-g-a"
    assert [entry[0] for entry in found[2:4]] == ["stream-error", "error"]
    assert found[4] == {"condition": "forbidden", "text": text}


@pytest.mark.parametrize("credentials", [False, True])
def test_other_origins(context, site, shared_database, credentials):
    origin = f"http://127.0.0.1:{site.port}"
    with serve(
        "uvicorn",
        database=shared_database,
        EVENTSTREAM_TEST_ALLOW_ORIGINS=json.dumps([origin]),
        EVENTSTREAM_TEST_ALLOW_CREDENTIALS="1",
    ) as other:
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{other.port}/login/visitor/")
        page.goto(f"{origin}/page/")
        page.evaluate(HELP)
        url = f"http://127.0.0.1:{other.port}/events/?channel=users-abroad"
        start(page, url, withCredentials=credentials)
        if not credentials:
            found = log(page, "source.readyState === 2")
            assert [entry[0] for entry in found] == ["open", "stream-error", "error"]
            return
        log(page, "log.length === 2")
        other.send({"channel": "users-abroad", "event_type": "message", "data": 1})
        assert log(page, "log.length === 3")[2] == ["message", "1", "users-abroad:1"]


def test_other_origins_that_are_not_allowed_hear_nothing(context, shared_database, site):
    with serve(
        "uvicorn",
        database=shared_database,
        EVENTSTREAM_TEST_ALLOW_ORIGINS=json.dumps(["http://example.com"]),
    ) as other:
        page = open_page(context, site)
        page.evaluate(HELP)
        start(page, f"http://127.0.0.1:{other.port}/events/?channel=a", max_retry_time=20)
        found = log(page, "log.length >= 3")
        assert found == [["error", 0]] * len(found)
        page.close()
