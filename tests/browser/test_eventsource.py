"""The EventSource of eventsource.min.js does what the browser's own does.

Every test runs on both; what it expects is what the standard and the web-platform tests ask for.
Where ours differs on purpose, the test says so: see ``DIFFERENT``.
"""

from __future__ import annotations

import itertools

import pytest
from playwright.sync_api import BrowserContext, Page

from tests.browser.conftest import evaluate, open_page, read_in_worker
from tests.browser.wire import cut, hang, redirect, status, stream
from tests.processes import Site, serve, wait_until

SCRIPT = "/static/django_eventstream/eventsource.min.js"


@pytest.fixture(scope="module")
def site(shared_database):
    with serve("uvicorn", database=shared_database, EVENTSTREAM_TEST_STATIC="1") as site:
        yield site


@pytest.fixture(params=["native", "ours"])
def which(request: pytest.FixtureRequest) -> str:
    return str(request.param)


HELP = """
window.log = [];
window.record = (source) => {
  window.source = source;
  source.onopen = (event) => log.push([event.type, source.readyState]);
  source.onmessage = (event) => log.push([event.type, event.data]);
  source.onerror = (event) => log.push([event.type, source.readyState]);
};
null;
"""


@pytest.fixture
def page(context: BrowserContext, site: Site, which: str) -> Page:
    """A page with one of the two as ``EventSource``."""
    page = open_page(context, site)
    if which == "ours":
        page.evaluate("delete window.EventSource")
    # Where there is an EventSource, the script leaves it alone.
    page.add_script_tag(url=SCRIPT)
    native = page.evaluate("String(EventSource).includes('[native code]')")
    assert native == (which == "native")
    page.evaluate(HELP)
    return page


def start(page: Page, url: str, options: object = None) -> None:
    page.evaluate("([url, options]) => record(new EventSource(url, options))", [url, options])


def log(page: Page, condition: str = "true") -> list[list[object]]:
    """Return what was recorded, once the condition is true."""
    page.wait_for_function(condition)
    found: list[list[object]] = page.evaluate("log")
    return found


# The interface


def test_interface_is_that_of_the_idl(page):
    found = evaluate(
        page,
        """() => {
      const { prototype } = EventSource;
      const of = (object, key) => {
        const descriptor = Object.getOwnPropertyDescriptor(object, key);
        const { enumerable, configurable, writable, value, get, set } = descriptor;
        return [enumerable, configurable, writable, typeof value, typeof get, typeof set];
      };
      const source = new EventSource("/none/");
      source.close();
      return {
        global: of(window, "EventSource"),
        name: EventSource.name,
        length: EventSource.length,
        parent: Object.getPrototypeOf(EventSource) === EventTarget,
        parentOfPrototype: Object.getPrototypeOf(prototype) === EventTarget.prototype,
        prototype: of(EventSource, "prototype"),
        text: String(source),
        own: Object.keys(source),
        attributes: ["url", "withCredentials", "readyState", "onopen", "onmessage", "onerror"].map(
          (key) => of(prototype, key)),
        close: [of(prototype, "close"), prototype.close.length],
        constants: ["CONNECTING", "OPEN", "CLOSED"].map((key) => [
          EventSource[key], source[key], of(EventSource, key), of(prototype, key)]),
      };
    }""",
    )
    readonly = [True, True, None, "undefined", "function", "undefined"]
    handler = [True, True, None, "undefined", "function", "function"]
    constant = [True, False, False, "number", "undefined", "undefined"]
    assert found == {
        "global": [False, True, True, "function", "undefined", "undefined"],
        "name": "EventSource",
        "length": 1,
        "parent": True,
        "parentOfPrototype": True,
        "prototype": [False, False, False, "object", "undefined", "undefined"],
        "text": "[object EventSource]",
        "own": [],
        "attributes": [*[readonly] * 3, *[handler] * 3],
        "close": [[True, True, True, "function", "undefined", "undefined"], 0],
        "constants": [[value, value, constant, constant] for value in range(3)],
    }


def test_attributes_cannot_be_set_nor_read_from_others(page):
    found = evaluate(
        page,
        """() => {
      const source = new EventSource("/none/?a#b");
      source.close();
      const { prototype } = EventSource;
      const attempt = (action) => { try { return action(); } catch (error) { return error.name; } };
      source.url = source.withCredentials = source.readyState = source.CLOSED = 7;
      return [
        source.url === location.origin + "/none/?a#b", source.withCredentials, source.readyState,
        source.CLOSED,
        attempt(() => { "use strict"; source.readyState = 7; }),
        attempt(() => prototype.url),
        attempt(() => prototype.onopen),
        attempt(() => prototype.close.call({})),
        attempt(() => EventSource("/none/")),
        attempt(() => new EventSource()),
      ];
    }""",
    )
    assert found == [True, False, 2, 2, *["TypeError"] * 6]


def test_urls(page):
    expected = {
        "''": "/page/",
        "null": "/page/null",
        "undefined": "/page/undefined",
        "{ toString: () => 'x' }": "/page/x",
        "new URL('/y', location)": "/y",
        "'\\ud800'": "/page/%EF%BF%BD",
        "' /z '": "/z",
        "'http://['": "SyntaxError true 12",
        "Symbol()": "TypeError false",
    }
    assert expected == {
        argument: evaluate(
            page,
            f"""() => {{
          try {{
            const source = new EventSource({argument});
            source.close();
            return source.url.replace(location.origin, "");
          }} catch (error) {{
            const dom = error instanceof DOMException;
            return `${{error.name}} ${{dom}}${{dom ? ` ${{error.code}}` : ""}}`;
          }}
        }}""",
        )
        for argument in expected
    }


def test_url_is_resolved_against_the_base_of_the_document(page, wire):
    page.evaluate(
        """(href) => {
          const base = document.createElement("base");
          base.href = href;
          document.head.append(base);
          record(new EventSource("b"));
        }""",
        wire.url("/a/"),
    )
    wire.take("/a/b")
    assert page.evaluate("source.url") == wire.url("/a/b")


def test_options(page):
    expected = {
        "undefined": False,
        "null": False,
        "{}": False,
        "{ withCredentials: undefined }": False,
        "{ withCredentials: 1 }": True,
        "{ withCredentials: '' }": False,
        "Object.assign(() => {}, { withCredentials: true })": True,
        "1": "TypeError",
        "'a'": "TypeError",
        "true": "TypeError",
    }
    assert expected == {
        argument: evaluate(
            page,
            f"""() => {{
          try {{
            const source = new EventSource("/none/", {argument});
            source.close();
            return source.withCredentials;
          }} catch (error) {{
            return error.name;
          }}
        }}""",
        )
        for argument in expected
    }


def test_handlers_are_called_in_the_order_in_which_they_were_first_set(page, wire):
    found = evaluate(
        page,
        """async (url) => {
          const source = new EventSource(url);
          const order = [];
          const add = (name) => source.addEventListener("message", () => order.push(name));
          const first = () => order.push("replaced");
          source.onmessage = first;
          const same = source.onmessage === first;
          add("listener 1");
          source.onmessage = function (event) { order.push(this === source, event.data); };
          const object = { handleEvent() { order.push("never"); } };
          source.onopen = object;
          const kept = source.onopen === object;
          source.onopen = 5;
          const values = [source.onopen, source.onerror];
          add("listener 2");
          await new Promise((resolve) => add("end") || source.addEventListener("message", resolve));
          source.onmessage = null;
          source.onmessage = () => order.push("handler at the end");
          await new Promise((resolve) => {
            source.onerror = resolve;
          });
          source.close();
          return { same, kept, values, order };
        }""",
        wire.script("/a", stream(b"data: 1\n\n", b"data: 2\n\n")),
    )
    assert found["same"] and found["kept"] and found["values"] == [None, None]
    assert found["order"][:5] == [True, "1", "listener 1", "listener 2", "end"]
    # The second event may have come before the handler was replaced.
    assert found["order"][5:] in (
        ["listener 1", "listener 2", "end", "handler at the end"],
        [True, "2", "listener 1", "listener 2", "end"],
    )


def test_exception_in_a_handler_is_reported_and_stops_nothing(page, wire):
    url = wire.script("/a", stream(b"data: 1\n\ndata: 2\n\n", hold=True))
    page.evaluate(
        """(url) => {
          window.onerror = (message) => { log.push(message); return true; };
          record(new EventSource(url));
          const { onmessage } = source;
          source.onmessage = (event) => {
            onmessage(event);
            throw new Error(event.data);
          };
        }""",
        url,
    )
    found = log(page, "log.length >= 5")
    assert found == [
        *(["open", 1], ["message", "1"], "Uncaught Error: 1"),
        *(["message", "2"], "Uncaught Error: 2"),
    ]


def test_listeners_of_every_kind(page, wire):
    url = wire.script("/a", stream(b"data: 1\n\n" * 2 + b"event: end\ndata\n\n", hold=True))
    found = evaluate(
        page,
        """async (url) => {
          const source = new EventSource(url);
          const order = [];
          const abort = new AbortController();
          const named = (name) => () => order.push(name);
          source.addEventListener("message", { handleEvent() { order.push("object"); } });
          source.addEventListener("message", named("once"), { once: true });
          source.addEventListener("message", named("capture"), true);
          source.addEventListener("message", named("signal"), { signal: abort.signal });
          source.addEventListener("message", () => abort.abort());
          source.addEventListener("message", null);
          const removed = named("removed");
          source.addEventListener("message", removed);
          source.removeEventListener("message", removed);
          const twice = named("twice");
          source.addEventListener("message", twice);
          source.addEventListener("message", twice);
          source.addEventListener("message", (event) => event.stopImmediatePropagation());
          source.addEventListener("message", named("stopped"));
          await new Promise((resolve) => source.addEventListener("end", resolve));
          source.close();
          return order;
        }""",
        url,
    )
    assert found == ["object", "once", "capture", "signal", "twice", "object", "capture", "twice"]


# Events


def test_events_have_what_the_standard_says(page, wire):
    found = evaluate(
        page,
        """async (url) => {
          const source = new EventSource(url);
          const seen = [];
          const note = (event) => seen.push([
            event.type, event.constructor.name, event.bubbles, event.cancelable, event.composed,
            event.target === source, event.currentTarget === source, event.eventPhase,
            event.data, event.lastEventId, event.origin, event.source, event.ports?.length,
          ]);
          for (const type of ["open", "message", "a b", "error"]) {
            source.addEventListener(type, note);
          }
          await new Promise((resolve) => source.addEventListener("error", resolve));
          source.close();
          return seen;
        }""",
        wire.script("/a", stream(b"id: 5\ndata: x\n\nevent: a b\ndata: y\n\n")),
    )
    origin = wire.url("")
    common = [False, False, False, True, True, 2]
    assert found == [
        ["open", "Event", *common, *[None] * 5],
        ["message", "MessageEvent", *common, "x", "5", origin, None, 0],
        ["a b", "MessageEvent", *common, "y", "5", origin, None, 0],
        ["error", "Event", *common, *[None] * 5],
    ]


def test_server_may_name_events_open_and_error(page, wire):
    url = wire.script("/a", stream(b"event: open\ndata: 1\n\nevent: error\ndata: 2\n\n", hold=True))
    page.evaluate(
        """(url) => {
          window.source = new EventSource(url);
          source.onopen = source.onerror = (event) => log.push([event.type, event.data ?? null]);
        }""",
        url,
    )
    found = log(page, "log.length === 3")
    assert found == [["open", None], ["open", "1"], ["error", "2"]]
    assert page.evaluate("source.readyState") == 1


def test_events_come_at_once(page, wire):
    start(page, wire.url("/a"))
    request = wire.take("/a")
    assert page.evaluate("source.readyState") == 0
    request.answer()
    log(page, "log.length === 1")
    assert page.evaluate("source.readyState") == 1
    for number in range(3):
        request.send(b"data: %d\r\n\r" % number)  # complete with the CR of its blank line
        log(page, f"log.length === {2 + number}")
    assert log(page) == [["open", 1], ["message", "0"], ["message", "1"], ["message", "2"]]


def test_large_event(page, wire):
    start(page, wire.script("/a", stream(b"data: ", b"x" * 10_000_000, b"\n\n", hold=True)))
    page.wait_for_function("log.length === 2")
    assert page.evaluate("log[1][1].length") == 10_000_000


# The request


def test_request_asks_for_a_stream_that_no_cache_answers(page, wire):
    start(page, wire.url("/a?b=c#d"))
    request = wire.take("/a")
    assert (request.method, request.target) == ("GET", "/a?b=c")
    assert request.headers["accept"] == "text/event-stream"
    assert request.headers["cache-control"] == "no-cache"
    assert request.headers["sec-fetch-mode"] == "cors"
    assert "last-event-id" not in request.headers
    assert wire.preflights == []


@pytest.mark.parametrize("with_credentials", [False, True])
def test_cookies_go_to_other_origins_with_credentials_only(page, wire, with_credentials):
    page.evaluate("document.cookie = 'a=b; path=/'")  # of all ports
    start(page, wire.url("/a"), {"withCredentials": with_credentials})
    request = wire.take("/a")
    assert request.headers.get("cookie") == ("a=b" if with_credentials else None)
    request.answer()
    assert log(page, "log.length") == [["open", 1]]


def test_redirects_are_followed_and_events_come_from_their_end(page, wire, which):
    counts = {}
    origin = f"http://localhost:{wire.port}"
    for code in [301, 302, 303, 307, 308]:
        first, second = f"/a{code}", f"/b{code}"
        to = redirect(origin + second, code)
        url = wire.script(first, to, to)
        # One more, for Chromium may lose an answer when the connection ends, and come again.
        again = [stream(b"data: y\n\n")] * (2 if which == "native" else 1)
        wire.script(second, stream(b"retry: 1\ndata: x\n\n"), *again, stream(hold=True))
        found = evaluate(
            page,
            """async (url) => {
              const source = new EventSource(url);
              const found = [];
              await new Promise((resolve) => {
                source.onmessage = ({ data, origin }) => {
                  found.push(data, origin, source.url);
                  if (data === "y") resolve();
                };
              });
              source.close();
              return found;
            }""",
            url,
        )
        assert found == ["x", origin, url, "y", origin, url]
        counts[code] = (len(wire.of(first)), len(wire.of(second)))
    # To the first URL it comes back. (Chromium comes back to the second.)
    if which == "native":
        assert all(to_first == 1 and to_second >= 2 for to_first, to_second in counts.values())
    else:
        assert set(counts.values()) == {(2, 2)}


# The answer


OUTCOMES = """(urls) => Promise.all(urls.map((url) => new Promise((resolve) => {
  const source = new EventSource(url);
  source.onmessage = ({ data }) => { source.close(); resolve(data); };
  source.onerror = () => resolve(source.readyState);
})))"""


def test_every_status_but_200_ends_it(page, wire):
    codes = [201, 202, 203, 204, 205, 206, 300, 304, 400, 401, 403, 404, 410, 429, 500, 502, 503]
    headers = {"Content-Type": "text/event-stream"}
    urls = [wire.script(f"/{code}", status(code, headers)) for code in codes]
    assert evaluate(page, OUTCOMES, urls) == [2] * len(codes)
    assert len(wire.requests) == len(codes)


def test_content_types(page, wire, which):
    accepted = {
        "text/event-stream": True,
        "TEXT/Event-Stream": True,
        "text/event-stream;": True,
        "text/event-stream ; charset=utf-8": True,
        "text/event-stream;charset=windows-1252": True,
        "text/event-stream;x bogus": True,
        "text/event-stream x": False,
        "text/event-streams": False,
        "x text/event-stream": False,
        "text/plain": False,
        "text/event-stream,text/html": False,
        "": False,
    }
    body = "data: \u20ac\n\n".encode()
    urls = [
        wire.script(f"/{number}", stream(body, headers={"Content-Type": name}, hold=value))
        for number, (name, value) in enumerate(accepted.items())
    ]
    if which == "native":  # where Chromium leaves the standard
        accepted["text/event-stream;charset=windows-1252"] = False
        accepted["text/event-stream x"] = True
    found = dict(zip(accepted, evaluate(page, OUTCOMES, urls), strict=True))
    assert found == {name: "\u20ac" if value else 2 for name, value in accepted.items()}


def test_what_is_refused_is_not_held(page, wire):
    start(page, wire.url("/a"))
    request = wire.take("/a")
    request.answer(headers={"Content-Type": "application/json"})
    assert request.gone.wait(10)
    assert log(page, "log.length") == [["error", 2]]


# Reconnecting


def test_what_fails_before_and_after_the_answer_is_tried_again(page, wire):
    unfinished = stream(b"data: unfinished\n")
    url = wire.script(
        "/a", stream(b"retry: 1\n\n"), cut, stream(), unfinished, stream(b"data: x\n\n", hold=True)
    )
    start(page, url)
    opened, failed = ["open", 1], ["error", 0]
    assert log(page, "log.at(-1)?.[0] === 'message'") == [
        *(opened, failed, failed, opened, failed, opened, failed, opened),
        ["message", "x"],
    ]


def test_refused_connections_are_tried_again(page, wire):
    start(page, wire.url("/a"))
    request = wire.take("/a")
    wire.refuse()
    request.answer(body=b"retry: 1\n\n")
    request.end()
    found = log(page, "log.length >= 4")  # not reached three times
    assert found[:4] == [["open", 1], *[["error", 0]] * 3]
    wire.listen()
    wire.take("/a").answer()
    assert log(page, "log.at(-1)[0] === 'open'")[-2:] == [["error", 0], ["open", 1]]


def test_connections_that_are_cut_are_opened_anew(page, wire):
    start(page, wire.url("/a"))
    for _ in range(3):
        request = wire.take("/a")
        request.answer(body=b"retry: 1\ndata: x\n\ndata: unfinished\n")
        page.wait_for_function("log.at(-1)?.[0] === 'message'")
        request.cut()
    wire.take("/a")
    once = [["open", 1], ["message", "x"], ["error", 0]]
    assert log(page, "log.length === 9") == once * 3
    assert wire.most_open == 1


def test_pause_is_what_the_server_asked_for_last(page, wire):
    url = wire.script(
        "/a",
        stream(b"retry: 5000\nretry: 400\nretry: x\n\n"),
        stream(),
        stream(b"retry: 700\n"),  # counts though the block is unfinished
        stream(),
        hang,
    )
    start(page, url)
    wait_until(lambda: len(wire.of("/a")) == 5)
    times = [request.time for request in wire.of("/a")]
    pauses = [after - before for before, after in itertools.pairwise(times)]
    for pause, asked in zip(pauses, [0.4, 0.4, 0.7, 0.7], strict=True):
        assert asked - 0.01 <= pause < asked + 2


def test_pause_without_retry_is_some_seconds(page, wire):
    start(page, wire.script("/a", stream(), hang))
    wait_until(lambda: len(wire.of("/a")) == 2)
    first, second = wire.of("/a")
    assert 2 < second.time - first.time < 5


def test_last_event_id_is_sent_as_utf_8_and_kept(page, wire):
    identifier = "a:1,\u20ac \U0001f600\u00ff"
    url = wire.script(
        "/a",
        stream(f"retry: 1\nid: {identifier}\n\n".encode()),
        stream(b"data: x\n\nid: lost\n"),
        stream(b"id: with\0NUL\ndata: y\n\n"),
        cut,
        stream(b"id\ndata: z\n\n"),
        stream(),
    )
    page.evaluate(
        """(url) => {
          window.source = new EventSource(url);
          source.onmessage = ({ data, lastEventId }) => log.push([data, lastEventId]);
          source.onerror = () => source.readyState === 2 && log.push("closed");
        }""",
        url,
    )
    assert log(page, "log.at(-1) === 'closed'") == [
        *(["x", identifier], ["y", identifier]),
        *(["z", ""], "closed"),
    ]
    sent = [request.headers.get("last-event-id") for request in wire.of("/a")]
    raw = identifier.encode().decode("latin-1")
    assert sent == [None, raw, raw, raw, raw, None, None]


# The end


def test_nothing_happens_after_close_in_a_handler(page, wire):
    body = b"data: 1\n\ndata: 2\n\ndata: 3\n\n"
    url = wire.script("/a", stream(body, hold=True))
    page.evaluate(
        """(url) => {
          record(new EventSource(url));
          source.addEventListener("message", ({ data }) => data === "2" && source.close());
        }""",
        url,
    )
    page.wait_for_function("source.readyState === 2")
    wait_until(lambda: wire.open == 0)
    page.evaluate("new Promise((resolve) => setTimeout(resolve))")
    assert log(page) == [["open", 1], ["message", "1"], ["message", "2"]]


@pytest.mark.parametrize("moment", ["open", "error"])
def test_close_in_open_and_error_is_final(page, wire, moment):
    url = wire.script("/a", stream(b"retry: 1\n\n"), stream(b"data: x\n\n"))
    other = wire.script("/b", *[stream(b"retry: 1\n\n")] * 5)
    page.evaluate(
        """([url, moment]) => {
          record(new EventSource(url));
          source.addEventListener(moment, () => source.close());
        }""",
        [url, moment],
    )
    page.wait_for_function("source.readyState === 2")
    page.evaluate("(url) => { new EventSource(url); }", other)
    wait_until(lambda: len(wire.of("/b")) == 6)  # meanwhile the other one comes back
    assert len(wire.of("/a")) == 1
    assert log(page) == [["open", 1], *([["error", 0]] if moment == "error" else [])]


def test_close_before_the_answer_is_silent(page, wire):
    start(page, wire.url("/a"))
    request = wire.take("/a")
    page.evaluate("source.close(); source.close()")
    assert request.gone.wait(10)
    assert page.evaluate("source.readyState") == 2
    assert log(page) == []


# Other places


def test_workers_have_it_too(page, wire, site, which):
    url = wire.script("/a", stream(b"retry: 1\nid: 1\ndata: x\n\n"), stream(b"data: y\n\n"))
    before = "delete self.EventSource;" if which == "ours" else ""
    found = read_in_worker(page, SCRIPT, "EventSource", url, before)
    assert found == [["x", "1"], ["y", "1"], "closed"]


# Where they differ on purpose


def test_different_a_page_cannot_tell_refusals_of_other_origins_from_failures(page, wire, which):
    headers = {"Content-Type": "text/event-stream", "Access-Control-Allow-Origin": "http://a.test"}
    start(page, wire.script("/a", stream(headers=headers)))
    assert log(page, "log.length") == [["error", 2 if which == "native" else 0]]


def test_different_other_origins_are_asked_whether_they_allow_the_header(page, wire, which):
    start(page, wire.script("/a", stream(b"retry: 1\nid: 1\n\n"), hang))
    log(page, "log.length === 2")
    wait_until(lambda: len(wire.of("/a")) == 2)
    asked = [request.headers["access-control-request-headers"] for request in wire.preflights]
    assert asked == ([] if which == "native" else ["last-event-id"])


def test_different_listeners_of_one_piece_are_called_in_one_task(page, wire, which):
    url = wire.script("/a", stream(b"data: 1\n\ndata: 2\n\nevent: end\ndata\n\n", hold=True))
    page.evaluate(
        """(url) => {
          window.source = new EventSource(url);
          source.onmessage = async ({ data }) => {
            log.push(data);
            await Promise.resolve();
            await Promise.resolve();
            log.push(`after ${data}`);
          };
          source.addEventListener("end", () => setTimeout(() => log.push("end")));
        }""",
        url,
    )
    found = log(page, "log.at(-1) === 'end'")
    tasks = ["1", "after 1", "2", "after 2", "end"]
    assert found == (tasks if which == "native" else ["1", "2", "after 1", "after 2", "end"])


def test_nothing_is_installed_where_fetch_cannot_stream(context, site):
    page = open_page(context, site)
    page.evaluate("delete window.EventSource; delete Response.prototype.body")
    page.add_script_tag(url=SCRIPT)
    assert page.evaluate("typeof EventSource") == "undefined"
