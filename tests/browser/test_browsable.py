"""The page of BrowsableAPIEventStreamRenderer."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.processes import Site, free_port, serve


def serve_api(database: str, port: int):
    return serve(
        "uvicorn",
        database=database,
        port=port,
        EVENTSTREAM_TEST_STATIC="1",
        EVENTSTREAM_TEST_DRF="1",
        EVENTSTREAM_TEST_KEEP_ALIVE="0.2",
    )


@pytest.fixture
def site(shared_database: str) -> Iterator[Site]:
    with serve_api(shared_database, free_port()) as site:
        yield site


def open_api(context: BrowserContext, site: Site, name: str) -> Page:
    page = context.new_page()
    page.set_viewport_size({"width": 360, "height": 640})
    page.goto(f"http://127.0.0.1:{site.port}/api/{name}/")
    return page


def test_page_shows_events_live_escaped_and_within_the_width_of_a_phone(context, site):
    page = open_api(context, site, "news")
    state = page.locator("#eventstream-state")
    expect(state).to_have_text("Connected")
    expect(page.locator("[data-type=stream-open]")).to_be_attached()  # from here on all arrives
    hostile = "<img src=x onerror=alert(1)>" + "W" * 500
    site.send(
        {"channel": "news", "event_type": "message", "data": hostile},
        {"channel": "news", "event_type": "info", "data": {"html": hostile}},
    )
    expect(page.locator("[data-type=message] pre")).to_have_text(json.dumps(hostile))
    shown = page.locator("[data-type=info] pre").text_content()
    assert json.loads(shown) == {"html": hostile}
    assert page.locator("img").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 360

    keep_alive = page.locator("[data-type=keep-alive]").last
    expect(keep_alive).to_be_attached()
    expect(keep_alive).to_be_hidden()
    page.get_by_label("Show keep-alives").check()
    expect(keep_alive).to_be_visible()

    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#eventstream-events [data-type=message]")).to_have_count(0)


def test_page_says_that_a_stream_was_refused(context, site):
    page = open_api(context, site, "members")
    expect(page.locator("#eventstream-state")).to_have_text("Ended")
    types = page.locator("#eventstream-events li").evaluate_all(
        "all => all.map(i => i.dataset.type)"
    )
    assert types == ["stream-error"]


def test_page_outlives_its_server(context, shared_database):
    port = free_port()
    with serve_api(shared_database, port) as site:
        page = open_api(context, site, "news")
        state = page.locator("#eventstream-state")
        # It is connected a moment earlier, and has no position yet.
        expect(page.locator("[data-type=stream-open]")).to_be_attached()
        site.process.kill()
        expect(state).to_have_text("Connection lost, reconnecting")
    with serve_api(shared_database, port) as site:
        site.send({"channel": "news", "event_type": "message", "data": "while it was away"})
        expect(page.locator("[data-type=message] pre")).to_have_text('"while it was away"')
        expect(state).to_have_text("Connected")
        page.close()
