"""The parser in a page reads streams as the browser's own, and as the tests' parser in Python.

Its rules, one by one, are in ``js/tests/parser.test.js``; streams here come over sockets.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from random import Random

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import evaluate
from tests.browser.wire import Wire, stream
from tests.core.sseparser import SSEParser
from tests.processes import Site, serve

BOM = b"\xef\xbb\xbf"


@pytest.fixture(scope="module")
def site(shared_database: str) -> Iterator[Site]:
    with serve("uvicorn", database=shared_database, EVENTSTREAM_TEST_STATIC="1") as site:
        yield site


@pytest.fixture
def page(page: Page) -> Page:
    """A page with the browser's EventSource and ours, which may get its streams in small pieces."""
    page.evaluate("window.NativeEventSource = EventSource; delete window.EventSource")
    page.add_script_tag(url="/static/django_eventstream/eventsource.min.js")
    page.evaluate("""() => {
      const { fetch } = window;
      window.fetch = async (...given) => {
        const response = await fetch(...given);
        const size = Number(new URL(response.url).searchParams.get("pieces"));
        if (!size || !response.body) return response;
        const pieces = response.body.pipeThrough(new TransformStream({
          transform(bytes, controller) {
            for (let start = 0; start < bytes.length; start += size) {
              controller.enqueue(bytes.slice(start, start + size));
            }
          },
        }));
        return new Proxy(response, { get: (target, key) =>
          key === "body" ? pieces : Reflect.get(target, key, target) });
      };
      window.read = (Source, url, types) => new Promise((resolve) => {
        const source = new Source(url);
        const events = [];
        const note = (event) => {
          if (event instanceof MessageEvent) {
            events.push([event.type, event.data, event.lastEventId]);
          } else if (source.readyState === 2) {
            resolve(events);
          }
        };
        for (const type of new Set([...types, "error"])) source.addEventListener(type, note);
      });
    }""")
    return page


NUMBERS = itertools.count()


def read(page: Page, wire: Wire, streams: list[tuple[list[bytes], int]]) -> None:
    """Have streams read by all three, and compare; each comes in pieces, and is read in others.

    A stream is followed by 204 at the second connection, which shows the position of the first.
    """
    orders, expected = [], []
    for pieces, size in streams:
        path = f"/{next(NUMBERS)}"
        parser = SSEParser()
        events = [
            [event.type, event.data, event.last_event_id]
            for piece in pieces
            for event in parser.feed(piece)
        ]
        expected.append((events, parser.last_event_id or None))
        wire.script(f"/native{path}", stream(*pieces))
        wire.script(f"/ours{path}", stream(*pieces))
        types = [event[0] for event in events]
        orders.append(
            [
                wire.url(f"/native{path}"),
                wire.url(f"/ours{path}?pieces={size}"),
                ["message", *types],
            ]
        )
    found = evaluate(
        page,
        """(orders) => Promise.all(orders.map(async ([native, ours, types]) => [
          await read(NativeEventSource, native, types), await read(EventSource, ours, types),
        ]))""",
        orders,
    )
    for (native, ours, _), (by_browser, by_us), (events, position), given in zip(
        orders, found, expected, streams, strict=True
    ):
        assert by_us == by_browser == events, given
        for url in (native, ours):
            path = url.removeprefix(wire.url("")).partition("?")[0]
            first, second = wire.of(path)
            assert first.headers.get("last-event-id") is None
            sent = second.headers.get("last-event-id")
            # Servers strip spaces around the value of a header.
            assert sent == (position and position.encode().decode("latin-1").strip(" \t"))


TOKENS = [
    *(
        b"\n",
        b"\n\n",
        b"\r",
        b"\r\n",
        b"\r\n\r\n",
        b"\r\r",
        b"data: x\n\n",
        b"\0",
        b"\x0b",
        b"\x85",
    ),
    *(b":", b": ", b" ", b"\t", b"x", b"5", b"data", b"data:", b"data: ", b"Data: ", b"datax: "),
    *(b"event", b"event: ", b"event: a\n", b"event: error\n", b":comment", b"retry: x\n"),
    *(b"id", b"id: ", b"id: 1\n", b"id: \0\n", b"retry: 2\n", BOM, BOM[:1], BOM[:2], BOM[2:]),
    *("\u20ac\u00e4".encode(), "\U0001f600".encode(), "\u2028".encode()),
    *(b"\xff", b"\xe2\x82", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"\xc0\x80"),
]


def draw(seed: int) -> tuple[list[bytes], int]:
    """Return a stream in the pieces that are sent, and the size of those in which it is read."""
    random = Random(seed)
    # (A blank line after the byte order mark confuses Chromium.)
    start = BOM * random.randrange(3) + random.choice([b":", b"x", b"data: b"]) + b"\nretry: 1\n"
    body = b"".join(random.choices(TOKENS, k=random.randrange(60)))
    cuts = sorted(random.randrange(len(body) + 1) for _ in range(random.randrange(4)))
    pieces = [body[a:b] for a, b in itertools.pairwise([0, *cuts, len(body)])]
    return [start, *pieces], random.choice([0, 1, 2, 3, 7])


@pytest.mark.parametrize("first", [0, 100, 200, 300])
def test_any_bytes_are_read_as_the_browser_reads_them(page, wire, first):
    seeds = range(first, first + 100)
    read(page, wire, [draw(seed) for seed in seeds])


RULES = {
    "byte order mark": BOM + b"data: a\n\n" + BOM + b"data: b\n\ndata: " + BOM + b"\n\n",
    "line ends": b"data: a\rdata: b\r\ndata: c\n\rdata: d\r\r\ndata: e\r\n\r\ndata: f\n\n",
    "comments": b":\n:a\n: data: b\n:data: c\r\r:\n\ndata: d\n:e\n\n",
    "data of lines": b"data\n\ndata:\n\ndata\ndata\n\ndata: a\ndata\ndata:  b\n\ndata:c:d\n\n",
    "types": b"event: a\ndata\n\ndata\n\nevent: a\n\ndata\n\nevent: a\nevent\ndata\n\n",
    "ids": b"id: 1\ndata\n\nid: 2\n\ndata\n\nid: x\0\ndata\n\nid\ndata\n\nid: lost\n",
    "fields": b" data: a\nDATA: a\ndata : a\ndat\nxdata: a\n\ndata: b\n\n",
    "retry": b"retry: 1 \nretry:  2\nretry: -3\nretry: 4e4\nretry: 0x5\nretry: 1\n\ndata\n\n",
    "unfinished": b"data: a\n\ndata: b\nid: 7\n",
    "UTF-8": "data: \u00e9\u20ac\U0001f600\n\n".encode() + b"data: \xff \xe2\x82 \xf0\x9f\n\n",
}


def test_each_rule_split_at_each_byte(page, wire):
    batch = []
    for body in RULES.values():
        if not body.startswith(BOM):
            body = b"retry: 1\n\n" + body
        else:
            body = BOM + b"retry: 1\n\n" + body.removeprefix(BOM)
        batch += [([body], 1), ([body[:1], *(body[at : at + 1] for at in range(1, len(body)))], 0)]
    read(page, wire, batch)


def test_an_empty_retry_is_no_number(page, wire):
    """Where Chromium takes up its own default again."""
    url = wire.script("/a", stream(b"retry: 1\nretry:\nretry\ndata: x\n\n"))
    assert evaluate(page, "(url) => read(EventSource, url, ['message'])", url) == [
        ["message", "x", ""]
    ]
    first, second = wire.of("/a")
    assert second.time - first.time < 2
