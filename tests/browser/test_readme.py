"""The README's page, in the project that the README sets up."""

from __future__ import annotations

import sys

from playwright.sync_api import expect

from tests.processes import TIMEOUT, Process, free_port, wait_until
from tests.test_docs import Project, add_snippets, open_stream, project  # noqa: F401 (a fixture)

SEND = """
from django.test import RequestFactory
from myapp.views import post
post(RequestFactory().post("/post/", {"text": "%s"}))
"""


def test_page_of_the_readme_shows_what_is_sent(project: Project, context):  # noqa: F811
    add_snippets(project)
    project.manage("migrate")
    project.manage("shell", "-c", SEND % "before")
    port = free_port()
    command = [sys.executable, str(project.folder / "manage.py"), "runserver", "--noreload"]
    with Process([*command, str(port)], env=project.environment) as process:
        wait_until(lambda: open_stream(port), timeout=60, alive=process).close()
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{port}/page/")
        project.manage("shell", "-c", SEND % "<b>after</b>")
        messages = page.locator("#messages li")
        expect(messages).to_have_text(["before", "<b>after</b>"], timeout=TIMEOUT * 1000)
        assert messages.last.get_attribute("id") == "message-2"
        context.close()  # or runserver would wait for its stream
