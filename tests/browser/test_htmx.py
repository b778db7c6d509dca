"""htmx with its extensions for event streams, as they come from the npm registry."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, Request, Route, expect

from tests.examples import EXAMPLES, Example
from tests.processes import TIMEOUT, Site, need, wait_until

#: The page of the example for each version.
PAGES = {"htmx 2": "/", "htmx 4": "/4/"}
STREAM = re.compile(r"/events/\?")
APPLICATION = "notices.asgi:application"

#: For what the server has no part in.
one_server = pytest.mark.parametrize("server", ["uvicorn"])


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory) -> Path:
    """Return what ``npm ci`` installs for the example."""
    folder = tmp_path_factory.mktemp("npm")
    for name in ("package.json", "package-lock.json"):
        (folder / name).write_bytes((EXAMPLES / "htmx" / name).read_bytes())
    command = [need("npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    subprocess.run(command, cwd=folder, check=True, timeout=120, capture_output=True)
    return folder / "node_modules"


@pytest.fixture
def example(tmp_path, node_modules) -> Example:
    example = Example("htmx", tmp_path)
    if not (example.folder / "node_modules").exists():  # copied along from who ran npm there
        (example.folder / "node_modules").symlink_to(node_modules)
    replace(example, "return source", "return (window.source = source)")  # for the tests to see
    return example


def replace(example: Example, old: str, new: str) -> None:
    """Replace a text in the page for htmx 2, before it is served."""
    template = example.folder / "notices/templates/notices/htmx2.html"
    text = template.read_text()
    assert old in text
    template.write_text(text.replace(old, new))


@pytest.fixture
def site(server, example) -> Iterator[Site]:
    with example.serve(server, APPLICATION) as site:
        yield site


@pytest.fixture
def page(context) -> Page:
    return context.new_page()


@pytest.fixture(params=PAGES)
def url(request, example) -> str:
    return example.url + PAGES[request.param]


class Requests:
    """What a page has asked for its stream."""

    def __init__(self, page: Page) -> None:
        self.all: list[Request] = []
        page.on("request", lambda request: STREAM.search(request.url) and self.all.append(request))

    def positions(self) -> list[str]:
        """Return where each was to resume, as the server reads it."""
        return [
            request.all_headers().get("last-event-id")
            or parse_qs(urlsplit(request.url).query)["lastEventId"][-1]
            for request in self.all
        ]


def post(page: Page, text: str) -> None:
    page.get_by_role("textbox").fill(text)
    with page.expect_response("**/post/") as response:
        page.get_by_role("button").click()
    assert response.value.status == 204


def post_elsewhere(example: Example, *texts: str) -> None:
    """Send notices from another process."""
    code = (
        "from django.test import RequestFactory; from notices.views import post\n"
        f"for text in {texts!r}:\n    post(RequestFactory().post('/post/', {{'text': text}}))\n"
    )
    example.manage("shell", "-v0", "-c", code)


def expect_shown(page: Page, *texts: str) -> None:
    notices = page.locator("#notices li p")
    expect(notices).to_have_text(list(texts), use_inner_text=True, timeout=TIMEOUT * 1000)


def test_fragments_are_swapped_in_by_the_name_of_their_event(site, url, context):
    one, other = context.new_page(), context.new_page()
    for page in (one, other):
        page.goto(url)
    post(one, "first")
    post(other, "several\nlines & <b>no</b> markup")
    for page in (one, other):
        expect_shown(page, "several\nlines & <b>no</b> markup", "first")
        notice = page.locator("#notices li").first
        assert notice.get_attribute("id") == "notice-2"
        assert notice.locator("br").count() == 1
        assert "\n" in notice.inner_html()  # the fragment had several lines


@one_server
def test_what_comes_between_position_and_list_is_shown_once(site, example, url, page):
    requests = Requests(page)

    def answer(route: Route) -> None:
        html = route.fetch().text()  # with the position
        post_elsewhere(example, "between")
        items = site.request("GET", "/list/")[2].decode()
        html = re.sub("(<ul[^>]*>).*?</ul>", rf"\1{items}</ul>", html, flags=re.DOTALL)
        route.fulfill(body=html, content_type="text/html; charset=utf-8")

    page.route(url, answer)
    page.goto(url)
    expect_shown(page, "between")
    post(page, "after")
    expect_shown(page, "after", "between")
    assert requests.positions() == ["notices:0"]


def test_position_resumes_after_the_server_was_killed(server, example, url, page):
    requests = Requests(page)
    with example.serve(server, APPLICATION) as site:
        page.goto(url)
        for text in ("one", "two"):
            post(page, text)
        expect_shown(page, "two", "one")
        site.process.kill()
    post_elsewhere(example, "three", "four")
    with example.serve(server, APPLICATION):
        expect_shown(page, "four", "three", "two", "one")
        post(page, "five")
        expect_shown(page, "five", "four", "three", "two", "one")
        first, *others = requests.positions()
    assert first == "notices:0"
    assert set(others) == {"notices:2"}


def fail(page: Page, *statuses: int) -> None:
    """Let the next requests for the stream fail as a proxy does."""
    answers = list(statuses)

    def answer(route: Route) -> None:
        if answers:
            route.fulfill(status=answers.pop(0), body="<p>Bad gateway</p>")
        else:
            route.continue_()

    page.route(STREAM, answer)


def restart_with_errors(server, example: Example, url: str, page: Page) -> list[str]:
    """Restart the server behind a proxy; return the positions that were asked for."""
    requests = Requests(page)
    with example.serve(server, APPLICATION) as site:
        page.goto(url)
        post(page, "one")
        expect_shown(page, "one")
        fail(page, 502, 503)
        site.process.kill()
    with example.serve(server, APPLICATION):
        post_elsewhere(example, "two")
        expect_shown(page, "two", "one")
        return requests.positions()


def test_position_outlives_http_errors(server, example, url, page):
    first, *others = restart_with_errors(server, example, url, page)
    assert first == "notices:0"
    assert len(others) == 3
    assert set(others) == {"notices:1"}


@one_server
def test_without_the_hook_htmx_2_begins_anew_after_an_http_error(server, example, page):
    # Why the documentation shows the hook.
    replace(example, "htmx.createEventSource =", "window.unused =")
    assert restart_with_errors(server, example, example.url, page)[-1] == "notices:0"


@one_server
def test_first_request_that_fails_is_repeated_and_shows_nothing(site, url, page):
    requests = Requests(page)
    fail(page, 502, 503)
    page.goto(url)
    post(page, "one")
    expect_shown(page, "one")
    assert requests.positions() == ["notices:0"] * 3
    assert page.get_by_text("Bad gateway").count() == 0


@one_server
def test_keep_alives_do_no_harm(server, example, url, page):
    settings = example.folder / "notices/settings.py"
    settings.write_text(settings.read_text() + "EVENTSTREAM_KEEP_ALIVE_INTERVAL = 0.1\n")
    template = example.folder / "notices/templates/notices/htmx2.html"
    template.write_text(
        template.read_text().replace("return source", "return (window.source = source)")
    )
    with example.serve(server, APPLICATION):
        page.goto(url)
        post(page, "one")
        expect_shown(page, "one")
        before = content(page)
        # htmx 4 makes a DOM event of it.
        page.evaluate(
            """() => new Promise((resolve) => {
              let heard = 0;
              (window.source ?? document).addEventListener("keep-alive", () => {
                heard += 1;
                if (heard === 3) resolve();
              });
            })"""
        )
        assert content(page) == before


def content(page: Page) -> tuple[str, int]:
    """Return the text and the number of elements; htmx sets and removes classes."""
    return page.locator("body").inner_text(), page.locator("*").count()


@one_server
def test_refused_stream_is_not_asked_for_again(site, url, page):
    requests = Requests(page)
    error = {"condition": "forbidden", "text": "No.", "channels": ["notices"]}
    body = f"event: stream-error\nid: error\ndata: {json.dumps(error)}\n\n"
    page.route(STREAM, lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    page.add_init_script("addEventListener('htmx:sse:close', () => { window.ended = true; })")
    page.clock.install()
    page.goto(url)
    wait_until(lambda: page.evaluate("window.ended || window.source?.readyState === 2"))
    page.clock.run_for(120_000)  # the page's time, not ours
    page.evaluate("fetch('/list/').then((response) => response.text())")  # behind any other
    assert len(requests.all) == 1


@one_server
def test_reset_loads_the_list_anew(server, example, url, page):
    with example.serve(server, APPLICATION) as site:
        page.goto(url)
        post(page, "one")
        expect_shown(page, "one")
        site.process.kill()
    post_elsewhere(example, "two", "three")
    forget = "from django_eventstream.models import Event; Event.objects.filter(eid=2).delete()"
    example.manage("shell", "-v0", "-c", forget)
    with example.serve(server, APPLICATION):
        expect_shown(page, "three", "two", "one")
        post(page, "four")
        expect_shown(page, "four", "three", "two", "one")
