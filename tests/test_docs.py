"""The documentation: what it shows works, and it leaves out nothing that it should have."""

from __future__ import annotations

import ast
import asyncio
import graphlib
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pytest
from django.contrib.staticfiles import finders
from django.http import HttpRequest, QueryDict
from django.template import Engine
from django.test import AsyncClient, override_settings
from django.urls import resolve

import django_eventstream
from django_eventstream import asend_event, checks, conf
from django_eventstream.channelmanager import DefaultChannelManager
from django_eventstream.models import Event
from django_eventstream.sse import KEEP_ALIVE
from tests.core.sseparser import ParsedEvent
from tests.processes import TIMEOUT, EventSource, Process, free_port, need, wait_until

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
PROTOCOL = ROOT / "docs" / "protocol.md"
BROWSER = ROOT / "docs" / "browser.md"
SETTINGS = ROOT / "docs" / "settings.md"
PAGES = [README, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]


@dataclass(frozen=True)
class Block:
    """A fenced block of code, and the heading that it stands under."""

    section: str
    language: str
    code: str

    @property
    def file(self) -> str:
        """The path in the comment on the first line, "" if there is none."""
        match = re.match(r"(?:# |{# )(\S+\.(?:py|html))(?: #})?\n", self.code)
        return match[1] if match else ""


def blocks(page: Path, language: str) -> list[Block]:
    found = []
    section = ""
    pattern = r"^#+ (?P<section>[^\n]+)$|^```(?P<language>\w*)\n(?P<code>.*?)^```$"
    for match in re.finditer(pattern, page.read_text(), re.MULTILINE | re.DOTALL):
        section = match["section"] or section
        if match["language"] == language:
            found.append(Block(section, language, match["code"]))
    return found


def block(section: str, file: str = "") -> str:
    """Return the one Python block of the README in a section, for a file if need be."""
    (found,) = (
        block
        for block in blocks(README, "python")
        if block.section == section and block.file == file
    )
    return found.code


def command(start: str) -> list[str]:
    """Return the command line of the README that begins so, without the program."""
    lines = "\n".join(block.code for block in blocks(README, "sh")).splitlines()
    (line, *_) = sorted((line for line in lines if line.startswith(start)), key=len, reverse=True)
    return shlex.split(line)[1:]


# Completeness


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_are_python(page):
    for found in blocks(page, "python"):
        compile(found.code, f"{page.name}: {found.section}", "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_html_blocks_are_templates(page):
    libraries = {
        "eventstream": "django_eventstream.templatetags.eventstream",
        "static": "django.templatetags.static",
    }
    for found in blocks(page, "html"):
        Engine(libraries=libraries).from_string(found.code)
    # In tables and in the text.
    for tag in re.findall(r"`({% eventstream_\w+.*? %})`", prose(page)):
        Engine(libraries=libraries).from_string("{% load eventstream %}" + tag)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_javascript_blocks_are_javascript(page, tmp_path):
    scripts = [found.code for found in blocks(page, "js")]
    for found in blocks(page, "html"):
        scripts += re.findall(r"<script[^>]*>(.+?)</script>", found.code, re.DOTALL)
    for number, script in enumerate(scripts):
        file = tmp_path / f"{number}.mjs"
        file.write_text(script)
        done = subprocess.run(
            [need("node"), "--check", file], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr


def test_options_of_the_clients_are_described():
    text = BROWSER.read_text()
    declarations = {
        "EventStream": ("eventstream.d.ts", "EventStreamOptions"),
        "ReconnectingEventSource": (
            "reconnecting-eventsource.d.ts",
            "ReconnectingEventSourceInit",
        ),
    }
    for section, (file, name) in declarations.items():
        source = (ROOT / "js" / "types" / file).read_text()
        body = re.search(rf"interface {name}[^{{]*{{\n(.*?)^}}", source, re.DOTALL | re.MULTILINE)[
            1
        ]
        declared = re.findall(r"^  (\w+)\??:", body, re.MULTILINE)
        table = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
        rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|.*\|.*\|$", table, re.MULTILINE)
        described = [option for row in rows for option in re.findall(r"\w+", row)]
        assert set(declared) <= set(described), section
        assert set(described) - set(declared) <= {"withCredentials"}, section  # EventSource's own


def prose(page: Path) -> str:
    """Return a page without its fenced code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / unquote(path) if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pictures_are_there_and_can_be_told(page):
    for picture in re.findall(r"<img [^>]+>", prose(page)):
        assert (page.parent / re.search(r' src="([^"]+)"', picture)[1]).is_file(), picture
        assert re.search(r' alt="[^"]+"', picture), picture


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_that_are_named_exist(page):
    known = checks.OTHER_NAMES | {name.upper() for name in defaults()}
    named = re.findall(r"\bEVENTSTREAM_([A-Z_]+)\b", page.read_text())
    assert {name for name in named if not name.startswith("TEST_")} <= known


def defaults() -> dict[str, object]:
    properties = vars(conf.Settings).items()
    return {
        name: getattr(checks._DEFAULTS, name)
        for name, value in properties
        if isinstance(value, property)
    }


def test_every_setting_is_described_with_its_default():
    pattern = r"^### `EVENTSTREAM_(\w+)`\n\n[^`\n]*(?:`[^`]*`\.? )?Default: `(.+)`\.$"
    described = re.findall(pattern, SETTINGS.read_text(), re.MULTILINE)
    assert {name.lower(): ast.literal_eval(default) for name, default in described} == defaults()
    for name in checks.OTHER_NAMES:
        assert f"`EVENTSTREAM_{name}`" in SETTINGS.read_text()


def test_least_values_are_those_of_the_checks():
    for name, (least, whole) in checks.NUMBERS.items():
        text = SETTINGS.read_text().partition(f"### `EVENTSTREAM_{name}`\n\n")[2].partition("\n")[0]
        assert f"from {least:g}" in text, name
        assert text.startswith("Whole number") == whole, name
        assert ("or `None`" in text) == (name in checks.OPTIONAL), name


def test_every_check_is_described():
    package = Path(checks.__file__).parent
    source = "".join(file.read_text() for file in package.rglob("*.py"))
    made = set(re.findall(r'"(django_eventstream\.[EW]\d+)"', source))
    described = re.findall(
        r"^\| `(django_eventstream\.\w+)` \|", SETTINGS.read_text(), re.MULTILINE
    )
    assert described == sorted(made)


def test_public_names_are_in_the_readme():
    for name in django_eventstream.__all__:
        assert re.search(rf"\b{name}\b", README.read_text()), name


def test_smallest_example_is_as_small_as_the_readme_says():
    files = (ROOT / "examples" / "time").rglob("*.py")
    lines = sum(len(file.read_text().splitlines()) for file in files)
    assert f"{lines} lines of Python" in README.read_text()


def test_static_files_of_the_readme_exist():
    for name in re.findall(r"{% static '([^']+)' %}", README.read_text()):
        assert finders.find(name), name


def test_every_source_of_the_scripts_is_described():
    text = ARCHITECTURE.read_text().partition("\n## In the browser\n")[2].partition("\n## ")[0]
    first_cells = re.findall(r"^\| (`.+?) \|", text, re.MULTILINE)
    described = {name for cell in first_cells for name in re.findall(r"`([\w-]+)`", cell)}
    assert described == {file.stem for file in (ROOT / "js").glob("*.js")} - {"build"}


# The layers of the architecture


def layers() -> dict[str, int]:
    """Return each module's layer, from the table in the architecture, 0 at the bottom."""
    found: dict[str, int] = {}
    layer = -1
    table = ARCHITECTURE.read_text().partition("\n## Layers\n")[2].partition("\n## ")[0]
    for cell in re.findall(r"^\| (.+?) \| ", table, re.MULTILINE):
        if cell.startswith("**"):
            layer += 1
        found |= dict.fromkeys(re.findall(r"`(\w+)`", cell), layer)
    return found


def imports() -> dict[str, set[str]]:
    """Return which modules each one imports, wherever it does; packages count as one module."""
    package = Path(django_eventstream.__file__).parent
    found: dict[str, set[str]] = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package).with_suffix("").parts
        if parts == ("__init__",):
            continue  # it imports what is asked of it
        imported = found.setdefault(parts[0], set())
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                absolute = (node.module or "").split(".")
                if node.level:
                    absolute = [package.name, *parts[: len(parts) - node.level], *absolute]
                names = [".".join(filter(None, [*absolute, alias.name])) for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            for top, *rest in (name.split(".") for name in names):
                if top == package.name:
                    imported.add(rest[0])
        imported.discard(parts[0])
    return found


def test_every_module_has_its_line_in_the_architecture():
    package = Path(django_eventstream.__file__).parent
    modules = {path.name.removesuffix(".py") for path in package.iterdir()}
    assert layers().keys() == {name for name in modules if not name.startswith((".", "_", "py."))}


def test_modules_import_only_from_their_layer_and_those_below():
    of = layers()
    upwards = {
        f"{module} imports {other}"
        for module, others in imports().items()
        for other in others
        if of[other] > of[module]
    }
    assert not upwards


def test_modules_do_not_import_in_circles():
    # Raises CycleError.
    list(graphlib.TopologicalSorter(imports()).static_order())


def test_the_core_imports_nothing_but_the_standard_library():
    package = Path(django_eventstream.__file__).parent
    for module in (name for name, layer in layers().items() if layer == 0):
        for node in ast.walk(ast.parse((package / f"{module}.py").read_text())):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= sys.stdlib_module_names
            elif isinstance(node, ast.ImportFrom) and not node.level:
                assert (node.module or "").split(".")[0] in sys.stdlib_module_names


# Examples


@pytest.mark.parametrize(
    ("path", "channels"),
    [
        ("/news/events/", {"news", "alerts"}),
        ("/rooms/7/events/", {"room-7"}),
        ("/events/room-7/", {"room-7"}),
        ("/events/?channel=news&channel=room-7", {"news", "room-7"}),
    ],
)
def test_the_ways_to_choose_channels_choose_them(path, channels):
    exec(block("Choosing channels"), namespace := {})
    urlconf = type("urlconf", (), {"urlpatterns": namespace["urlpatterns"]})
    path, _, query = path.partition("?")
    request = HttpRequest()
    request.GET = QueryDict(query)
    match = resolve(path, urlconf)
    assert match.func is django_eventstream.views.events
    chosen = DefaultChannelManager().get_channels_for_request(request, match.kwargs)
    assert set(chosen) == channels


def test_view_sets_have_the_urls_that_the_readme_names():
    exec(block("Django REST framework"), namespace := {})
    urlconf = type("urlconf", (), {"urlpatterns": namespace["urlpatterns"]})
    assert resolve("/api/news/", urlconf).url_name == "news-list"
    assert resolve("/api/events/", urlconf).url_name == "events-list"
    assert resolve("/api/events/room-7/", urlconf).kwargs == {"channel": "room-7"}


def session() -> list[str]:
    """Return the bodies of the streams in the protocol's example."""
    example = PROTOCOL.read_text().partition("\n## Example\n")[2]
    text = "\n".join(
        line[4:] for line in example.splitlines() if not line or line.startswith("    ")
    )
    bodies = re.split(r"^: +\(2,048 spaces\)\n+", text, flags=re.MULTILINE)[1:]
    return [body.partition("\n\nGET ")[0].strip() + "\n\n" for body in bodies]


@pytest.mark.django_db(transaction=True)
@override_settings(EVENTSTREAM_KEEP_ALIVE_INTERVAL=0.05)
async def test_the_protocols_example_is_what_a_client_gets():
    first, second, third = map(str.encode, session())
    url = "/events/?channel=room-1&channel=a%20b"

    async with Reader(url) as reader:
        await reader.read_until(b"data:\n\n")
        await asend_event("room-1", "message", {"text": "hi"})
        await reader.read_until(b'{"text": "hi"}\n\n')
        await asend_event("a b", "note", "<p>one</p>\n<p>two</p>", json_encode=False)
        await reader.read_until(b"two</p>\n\n")
        assert reader.body == first

    await asend_event("room-1", "message", {"text": "still there?"})
    async with Reader(url, "a%20b:1,room-1:1") as reader:
        await reader.read_until(b'still there?"}\n\n')
        assert reader.body + await reader.read_keep_alive() == second

    await Event.objects.all().adelete()
    async with Reader(url, "a%20b:1,room-1:1") as reader:
        await reader.read_until(b'["room-1"]}\n\n')
        assert reader.body == third


class Reader:
    """Reads a stream within the process."""

    def __init__(self, url: str, last_event_id: str = "") -> None:
        self.url = url
        self.headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        #: All that came, but the padding and keep-alives.
        self.body = b""

    async def __aenter__(self) -> Reader:
        self.response = await AsyncClient().get(self.url, headers=self.headers)
        self.stream = aiter(self.response.streaming_content)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.response.close()

    async def read_until(self, end: bytes) -> None:
        async def read() -> None:
            while not self.body.endswith(end):
                chunk = await anext(self.stream)
                chunk = chunk.removeprefix(b":" + b" " * 2048 + b"\n\n")
                self.body += chunk.replace(KEEP_ALIVE, b"")

        await asyncio.wait_for(read(), TIMEOUT)

    async def read_keep_alive(self) -> bytes:
        chunk = await asyncio.wait_for(anext(self.stream), TIMEOUT)
        assert chunk == KEEP_ALIVE
        return chunk


# A project by the README alone


class Project:
    """A new project with what the README says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        package = Path(django_eventstream.__file__).parent.parent
        paths = [str(folder), str(package), os.environ.get("PYTHONPATH", "")]
        self.environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "mysite.settings",
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        }
        self.run("-m", "django", "startproject", "mysite", ".", DJANGO_SETTINGS_MODULE="")

    def run(self, *arguments: str, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def manage(self, *arguments: str) -> str:
        return self.run("manage.py", *arguments)

    def add(self, code: str, file: str) -> None:
        """Append to a file, where ``# ...`` in a list stands for what is there."""
        code = re.sub(r"^(\w+) = \[\n(.*?)# \.\.\.$", r"\1 = [\n\2*\1,", code, flags=re.M | re.S)
        path = self.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{path.read_text()}\n{code}" if path.exists() else code)

    def take(self, section: str, file: str) -> None:
        self.add(block(section, file), file)


@pytest.fixture
def project(tmp_path):
    project = Project(tmp_path)
    project.take("Set-up", "mysite/settings.py")
    return project


@pytest.mark.slow
@pytest.mark.parametrize("server", ["uvicorn", "runserver"])
@pytest.mark.parametrize("way", ["native", "channels"])
def test_project_set_up_by_the_readme_streams(project, way, server):
    if way == "native":
        project.take("Set-up", "mysite/urls.py")
    else:
        (project.folder / "mysite" / "asgi.py").unlink()
        project.take("Set-up through Channels", "mysite/asgi.py")
        project.take("Set-up through Channels", "mysite/settings.py")
    if server == "uvicorn":
        start = ["-m", "uvicorn", *command("uvicorn mysite.asgi:application"), "--port"]
    else:
        start = [str(project.folder / "manage.py"), "runserver", "--noreload"]
        if way == "channels":
            project.take("runserver", "mysite/settings.py")
    assert "no issues" in project.manage("check", "--fail-level", "WARNING")
    project.run(*command("python manage.py migrate"))

    port = free_port()
    with Process([sys.executable, *start, str(port)], env=project.environment) as process:
        with wait_until(lambda: open_stream(port), timeout=60, alive=process) as stream:
            assert stream.next() == ParsedEvent("stream-open", "", "test:0")
            project.run(*command("python manage.py shell -c"))
            assert stream.next() == ParsedEvent("message", '{"text": "hello"}', "test:1")


def open_stream(port: int) -> EventSource | None:
    try:
        return EventSource(port, "/events/", {})
    except ConnectionRefusedError:
        return None


def add_snippets(project: Project) -> None:
    """Add what the README shows, and what it takes for granted."""
    project.take("Set-up", "mysite/urls.py")
    for file, code in {
        "myapp/__init__.py": "",
        "myapp/models.py": "from django.db import models\n"
        "class Message(models.Model):\n    text = models.TextField()\n",
        "mysite/settings.py": 'INSTALLED_APPS += ["myapp"]\n',
        "mysite/urls.py": "from myapp import async_views, pages, views\n"
        "urlpatterns += [\n"
        '    path("post/", views.post),\n'
        '    path("announce/", async_views.announce),\n'
        '    path("page/", pages.page),\n'
        "]\n",
    }.items():
        project.add(code, file)
    for found in [*blocks(README, "python"), *blocks(README, "html")]:
        if found.file and found.section not in ("Set-up", "Set-up through Channels", "runserver"):
            project.add(found.code, found.file)
    project.manage("makemigrations", "myapp")


@pytest.mark.slow
def test_snippets_of_the_readme_work_in_a_project(project):
    add_snippets(project)
    project.add(MORE_TESTS, "myapp/more_tests.py")

    assert "no issues" in project.manage("check", "--fail-level", "WARNING")
    assert "Ran 2 tests" in project.manage("test")
    assert "Ran 5 tests" in project.manage("test", "myapp.more_tests")


#: Those blocks of the README that the project's own tests do not come by.
MORE_TESTS = f"""
import contextlib, io
from django.contrib.auth.models import Group, User
from django.test import TestCase
from django_eventstream.channelmanager import get_channelmanager
from django_eventstream.testing import capture_events
from myapp.teams import remove_member


class SnippetTests(TestCase):
    def test_send_and_read(self):
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec({block("Sending")!r})
            exec({block("Receiving in the browser")!r})
        self.assertEqual(output.getvalue(), '1\\n1 message {{"text": "hello"}}\\n')

    def test_many_events(self):
        with capture_events() as events:
            exec({block("Many events")!r})
        self.assertEqual([event.channel for event in events], ["room-1", "room-2"])

    def test_page(self):
        self.assertContains(self.client.get("/page/"), "/events/?lastEventId=test:0")

    async def test_announce(self):
        with capture_events() as events:
            response = await self.async_client.get("/announce/")
        self.assertEqual(response.json(), {{"id": events[0].id}})

    def test_teams(self):
        user, team = User.objects.create(username="u"), Group.objects.create(name="x")
        user.groups.add(team)
        manager = get_channelmanager()
        self.assertTrue(manager.can_read_channel(user, "team-x"))
        self.assertFalse(manager.can_read_channel(None, "team-x"))
        remove_member(user, team)
        self.assertFalse(manager.can_read_channel(user, "team-x"))
"""
