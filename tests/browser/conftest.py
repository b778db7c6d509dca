"""Chromium (Debian: ``chromium``), driven by Playwright, and the site whose pages it shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.browser.visitors import Visitors
from tests.browser.wire import Wire, serve_bytes
from tests.processes import TIMEOUT, Site, need, serve

FLAGS = [
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-sync",
    "--no-proxy-server",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all of these as slow."""
    for item in items:
        if "tests/browser/" in item.path.as_posix():
            item.add_marker(pytest.mark.slow)


# Of this package, not of the session: Playwright keeps an event loop running in this thread, which
# tests of asyncio and of Django's ORM outside this folder would stumble over.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    program = need("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, headless=True, chromium_sandbox=False, args=FLAGS
        )
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """One person's browser: its pages share cookies, locks and channels.

    An exception that a page does not catch fails the test.
    """
    context = browser.new_context()
    context.set_default_timeout(TIMEOUT * 1000)
    errors: list[str] = []
    context.on("weberror", lambda error: errors.append(str(error.error)))
    yield context
    context.close()
    assert not errors


@pytest.fixture
def page(context: BrowserContext, site: Site) -> Page:
    """A page of the site, empty but for what all tests need."""
    return open_page(context, site)


def open_page(context: BrowserContext, site: Site) -> Page:
    """Open another page (a tab) of the site."""
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{site.port}/page/")
    return page


def evaluate(page: Page, function: str, argument: object = None) -> Any:
    """Return what a function of the page returns or promises.

    Playwright's own waits for a promise without a limit.
    """
    return page.evaluate(
        """([code, argument, limit]) => Promise.race([
          (0, eval)(`(${code})`)(argument),
          new Promise((resolve, reject) => setTimeout(
            () => reject(new Error(`not within ${limit} ms: ${code}`)), limit)),
        ])""",
        [function, argument, TIMEOUT * 1000],
    )


def read_in_worker(page: Page, script: str, constructor: str, url: str, before: str = "") -> Any:
    """Return what an object of a script reads in a worker until it gives up."""
    return evaluate(
        page,
        """async ([script, constructor, url, before]) => {
          const code = `
            ${before}
            importScripts(${JSON.stringify(location.origin + script)});
            const source = new ${constructor}(${JSON.stringify(url)});
            source.onmessage = ({ data, lastEventId }) => postMessage([data, lastEventId]);
            source.onerror = () => source.readyState === 2 && postMessage("closed");
          `;
          const worker = new Worker(URL.createObjectURL(new Blob([code])));
          const seen = [];
          await new Promise((resolve) => {
            worker.onmessage = ({ data }) => seen.push(data) && data === "closed" && resolve();
          });
          worker.terminate();
          return seen;
        }""",
        [script, constructor, url, before],
    )


@pytest.fixture(params=["uvicorn", "daphne"])
def server(request: pytest.FixtureRequest) -> str:
    """The server's name; override it where one is enough."""
    return str(request.param)


@pytest.fixture
def site(server: str, shared_database: str) -> Iterator[Site]:
    """The tests' project with its static files and storage, in a process of its own."""
    with serve(server, database=shared_database, EVENTSTREAM_TEST_STATIC="1") as site:
        yield site


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A server, of another origin, that does what the test says."""
    with serve_bytes() as wire:
        yield wire


expect.set_options(timeout=TIMEOUT * 1000)


@pytest.fixture
def visitors(browser: Browser) -> Iterator[Visitors]:
    """People who visit the examples."""
    visitors = Visitors(browser)
    yield visitors
    visitors.leave()
