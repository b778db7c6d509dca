"""What ``{% eventstream_scripts %}`` gives, under a strict Content-Security-Policy."""

from __future__ import annotations

import pytest
from django.template import Context, Engine
from playwright.sync_api import Page

PAGE = """{% load eventstream %}<!doctype html>
<html lang="en">
<title>Test</title>
<link rel="icon" href="data:,">
{% eventstream_scripts "module" "classic" %}
<script type="module" nonce="{{ csp_nonce }}">
  import { EventStream } from "django-eventstream";
  document.title = [EventStream, ReconnectingEventSource].map(({ name }) => typeof name);
</script>
</html>
"""


@pytest.fixture
def server() -> str:
    return "uvicorn"


def test_scripts_load_in_a_page_that_allows_only_its_nonce(site, context, settings):
    settings.STATIC_URL = "/static/"
    engine = Engine(libraries={"eventstream": "django_eventstream.templatetags.eventstream"})
    html = engine.from_string(PAGE).render(Context({"csp_nonce": "r4nd0m"}))
    page: Page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.route(
        "**/page/",
        lambda route: route.fulfill(
            body=html,
            content_type="text/html",
            headers={"Content-Security-Policy": "script-src 'nonce-r4nd0m'"},
        ),
    )
    loaded: list[str] = []
    page.on("requestfinished", lambda request: loaded.append(request.url.rpartition("/")[2]))
    page.goto(f"http://127.0.0.1:{site.port}/page/")
    page.wait_for_function("document.title === 'string,string'")
    assert sorted(filter(None, loaded)) == [
        *("eventsource.min.js", "eventstream.js", "reconnecting-eventsource.js"),
    ]
    assert complaints == []
