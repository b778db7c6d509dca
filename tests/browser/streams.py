"""EventStreams in pages, and what they say."""

from __future__ import annotations

import json
from typing import Any

from playwright.sync_api import BrowserContext, Page

from tests.browser.conftest import open_page
from tests.processes import TIMEOUT, Site, wait_until

SCRIPT = """async () => {
  Object.assign(window, await import("/static/django_eventstream/eventstream.js"));
  // Opens a stream, the only one of this page, and notes what it says.
  window.watch = (url, options = {}) => {
    window.seen = { events: [], resets: [], errors: [], states: [], times: [] };
    window.stream = new EventStream(url, {
      onevent: (event) => {
        seen.events.push([event.type, event.data]);
        seen.times.push(Date.now());
      },
      onreset: (channels) => seen.resets.push(channels),
      onerror: (error) => seen.errors.push([error.name, error.condition, error.data]),
      onstatechange: (state, reason) => seen.states.push([state, reason && `${reason}`]),
      ...options,
    });
    return window.stream;
  };
}"""


def load(page: Page) -> Page:
    """Import the module."""
    page.evaluate(SCRIPT)
    return page


def open_tab(context: BrowserContext, site: Site) -> Page:
    """Open another tab that has the module."""
    return load(open_page(context, site))


def watch(page: Page, url: str, state: str = "open", **options: Any) -> Page:
    """Open a stream, and wait for a state."""
    page.evaluate("([url, options]) => { watch(url, options); }", [url, options])
    if state:
        wait_for(page, f"stream.state === '{state}'")
    return page


def wait_for(page: Page, condition: str, timeout: float = TIMEOUT) -> None:
    """Wait until a condition of the page holds."""
    # Polled from here: a page that does not show itself draws no frames.
    page.wait_for_function(condition, polling=20, timeout=timeout * 1000)


def events(page: Page) -> list[Any]:
    """Return the data of the events so far."""
    data: list[Any] = page.evaluate("seen.events.map(([type, data]) => data)")
    return data


def wait_for_events(page: Page, expected: list[Any], timeout: float = TIMEOUT) -> None:
    """Wait until there are so many events; they must be these, in this order."""
    wait_for(page, f"seen.events.length >= {len(expected)}", timeout)
    assert events(page) == expected


def send(site: Site, channel: str, numbers: range) -> list[int]:
    """Send numbers as events, many at once; return them."""
    events = [{"channel": channel, "event_type": "message", "data": n} for n in numbers]
    # In one transaction, which takes a fraction of the time of many.
    site.send(*events, transaction="commit")
    return list(numbers)


def count_streams(site: Site) -> int:
    """Return how many streams the server has."""
    count: int = json.loads(site.request("GET", "/streams/")[2])["streams"]
    return count


def wait_for_streams(site: Site, count: int) -> None:
    """Wait until the server has so many streams."""
    wait_until(lambda: count_streams(site) == count)


def show(page: Page, shown: bool) -> None:
    """Hide or show a page: pages without a window are always shown, so this says otherwise."""
    page.evaluate(
        """(hidden) => {
          Object.defineProperty(document, "hidden", { configurable: true, value: hidden });
          document.dispatchEvent(new Event("visibilitychange", { bubbles: true }));
        }""",
        not shown,
    )
