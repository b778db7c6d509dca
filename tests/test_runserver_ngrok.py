"""The real command, between stand-ins for ngrok's API and for that of a hosted GRIP proxy."""

from __future__ import annotations

import base64
import contextlib
import http.client
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import jwt
import pytest
from django.core.management import CommandError, call_command

from tests.processes import Process, Site, free_port, wait_until

ROOT = Path(__file__).parent.parent
KEY = b"the key of the realm, 32 bytes and more"
MESSAGE = "Setting ngrok tunnel 4f91f84e.ngrok.io as GRIP origin"
SCRIPT = "django_eventstream/reconnecting-eventsource.js"

SETTINGS = "tests.project.settings_ngrok"
#: What serves each project: its settings, its runserver's banner, and a path that it answers.
PROJECTS = {
    "plain": ({"DJANGO_SETTINGS_MODULE": "tests.settings"}, "Django version", "/threads/"),
    "static files": ({}, "development server at http", f"/static/{SCRIPT}"),
    "daphne": (
        {"EVENTSTREAM_TEST_RUNSERVER": "daphne"},
        "Starting ASGI/Daphne",
        f"/static/{SCRIPT}",
    ),
}


class Api(http.server.ThreadingHTTPServer):
    """An API that keeps what it was asked, and answers as it is told to."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), ApiHandler)
        self.origin = f"http://127.0.0.1:{self.server_port}"
        #: Path and form of each request that it took.
        self.calls: list[tuple[str, dict[str, str]]] = []
        self.status = 200
        self.content = b""
        #: What tokens must be signed with; None where none are asked for.
        self.key: bytes | None = None

    def tell(self, content: Any) -> None:
        self.content = json.dumps(content).encode()


class ApiHandler(http.server.BaseHTTPRequestHandler):
    server: Api

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        content, status = self.server.content, self.server.status
        try:
            self._authenticate()
        except (AssertionError, jwt.PyJWTError) as error:
            content, status = str(error).encode(), 401
        else:
            self.server.calls.append((self.path, dict(parse_qsl(body, strict_parsing=bool(body)))))
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _authenticate(self) -> None:
        if self.server.key is None:
            return
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        assert scheme == "Bearer", "no bearer token"
        required = {"require": ["exp", "iss"]}
        jwt.decode(token, self.server.key, ["HS256"], issuer="your-realm", options=required)
        assert self.headers["Content-Type"] == "application/x-www-form-urlencoded"

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def serve_api() -> Iterator[Api]:
    with Api() as api:
        thread = threading.Thread(target=api.serve_forever, args=[0.02])
        thread.start()
        try:
            yield api
        finally:
            api.shutdown()
            thread.join()


@pytest.fixture
def ngrok():
    with serve_api() as api:
        yield api


@pytest.fixture
def cloud():
    with serve_api() as api:
        api.key = KEY
        yield api


def tunnel(url: str, addr: Any = "http://localhost:1") -> dict[str, Any]:
    proto = url.partition(":")[0]
    return {
        "name": f"a {proto} tunnel",
        "proto": proto,
        "public_url": url,
        "config": {"addr": addr},
    }


BOTH = [tunnel("https://4f91f84e.ngrok.io"), tunnel("http://4f91f84e.ngrok.io")]
ORIGIN = {
    **{"host": "4f91f84e.ngrok.io", "port": "80"},
    **{"ssl_host": "4f91f84e.ngrok.io", "ssl_port": "443"},
    **{"rewrite_host": "true", "over_http": "true"},
}


def grip_url(cloud: Api | str, key: bytes = KEY) -> str:
    origin = cloud if isinstance(cloud, str) else cloud.origin
    encoded = quote(base64.b64encode(key).decode())
    return f"{origin}/realm/your-realm?iss=your-realm&key=base64:{encoded}"


def command(*arguments: str, ngrok: Api | str) -> list[str]:
    url = ngrok if isinstance(ngrok, str) else f"{ngrok.origin}/api/tunnels"
    return ["tests.project.manage", "runserver_ngrok", "--ngrok-api", url, *arguments]


@contextlib.contextmanager
def develop(
    *arguments: str, ngrok: Api, port: int | None = None, path: str = "/threads/", **env: str
) -> Iterator[Site]:
    """Run the command until the ``with`` block ends; ``path`` is one that will be answered."""
    port = port or free_port()
    line = command(f"127.0.0.1:{port}", *arguments, ngrok=ngrok)
    # As for users: what is not flushed comes at the end.
    environment = {"DJANGO_SETTINGS_MODULE": SETTINGS, "PYTHONUNBUFFERED": "", **env}
    with Process([sys.executable, "-m", *line], env=environment) as process:
        site = Site(process, port)
        wait_until(lambda: answers(site, path), alive=process, timeout=60)
        yield site


def answers(site: Site, path: str) -> bool:
    try:
        return site.request("GET", path)[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def run(*arguments: str, ngrok: Api | str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command where it does not serve."""
    return subprocess.run(
        [sys.executable, "-m", *command(*arguments, ngrok=ngrok)],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": SETTINGS, **env},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def fail(*arguments: str, ngrok: Api | str, **env: str) -> str:
    """Run the command, which must end before it serves; return its one line of complaint."""
    done = run(str(free_port()), *arguments, ngrok=ngrok, **env)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("CommandError: ")
    for secret in (KEY.decode(), base64.b64encode(KEY).decode(), "base64"):
        assert secret not in line
    return line


# Serving


@pytest.mark.slow
@pytest.mark.versions
@pytest.mark.parametrize("project", PROJECTS)
def test_proxy_is_told_and_the_project_is_served_by_its_own_runserver(ngrok, cloud, project):
    ngrok.tell({"tunnels": BOTH, "uri": "/api/tunnels"})
    env, banner, path = PROJECTS[project]
    env = {"EVENTSTREAM_TEST_GRIP_URL": grip_url(cloud), **env}
    with develop("--noreload", ngrok=ngrok, path=path, **env, PYTHONUNBUFFERED="1") as site:
        assert site.request("GET", "/threads/")[0] == 200
        output = site.process.output()
    assert ngrok.calls == [("/api/tunnels", {})]
    assert cloud.calls == [("/realm/your-realm/http/default/", ORIGIN)]
    assert output.splitlines()[0] == MESSAGE
    assert banner in output


def test_message_is_on_stdout_before_the_server_is_at_work(ngrok, cloud):
    ngrok.tell({"tunnels": BOTH})
    with socket.create_server(("127.0.0.1", 0)) as occupant:
        port = str(occupant.getsockname()[1])
        env = {"EVENTSTREAM_TEST_GRIP_URL": grip_url(cloud), "PYTHONUNBUFFERED": ""}
        done = run(port, "--noreload", ngrok=ngrok, **env)
    # Django leaves without writing what is still buffered.
    assert (done.returncode, done.stdout) == (1, f"{MESSAGE}\n")
    assert "That port is already in use" in done.stderr


@pytest.mark.slow
def test_set_up_is_not_repeated_when_a_change_reloads_the_project(ngrok, cloud, tmp_path):
    ngrok.tell({"tunnels": BOTH})
    module = tmp_path / "changing_settings.py"
    module.write_text(f"from {SETTINGS} import *\n")
    env = {
        "DJANGO_SETTINGS_MODULE": module.stem,
        "PYTHONPATH": str(tmp_path),
        "EVENTSTREAM_TEST_GRIP_URL": grip_url(cloud),
    }
    with develop(ngrok=ngrok, path=f"/static/{SCRIPT}", **env) as site:
        assert not answers(site, f"/reloaded/{SCRIPT}")
        module.write_text(f"from {SETTINGS} import *\nSTATIC_URL = '/reloaded/'\n")

        def is_reloaded() -> bool:
            # Again and again: a change before the reloader's first look is none to it.
            module.touch()
            return answers(site, f"/reloaded/{SCRIPT}")

        wait_until(is_reloaded, alive=site.process, timeout=60)
        output = site.process.output()
    assert len(ngrok.calls) == len(cloud.calls) == 1
    assert output.count(MESSAGE) == 1


@pytest.mark.slow
def test_every_proxy_on_http_is_told(ngrok, cloud, tmp_path):
    ngrok.tell({"tunnels": BOTH})
    proxies = [
        {"control_uri": f"{cloud.origin}/realm/a/", "control_iss": "your-realm", "key": KEY},
        {"control_uri": f"{cloud.origin}/realm/b?c=d", "control_iss": "your-realm", "key": KEY},
    ]
    module = tmp_path / "two_proxies.py"
    module.write_text(f"from {SETTINGS} import *\nGRIP_PROXIES = {proxies!r}\n")
    env = {"DJANGO_SETTINGS_MODULE": module.stem, "PYTHONPATH": str(tmp_path)}
    with develop("--noreload", ngrok=ngrok, **env):
        assert cloud.calls == [
            ("/realm/a/http/default/", ORIGIN),
            ("/realm/b/http/default/?c=d", ORIGIN),
        ]


@pytest.mark.slow
def test_ngrok_is_asked_past_the_proxies_of_the_environment(ngrok, cloud):
    ngrok.tell({"tunnels": BOTH})
    env = {"EVENTSTREAM_TEST_GRIP_URL": grip_url(cloud), "NO_PROXY": "", "no_proxy": ""}
    with develop("--noreload", ngrok=ngrok, http_proxy=cloud.origin, **env):
        assert [urlsplit(path).netloc for path, _ in ngrok.calls] == [""]
        # The GRIP proxy is asked through it.
        assert [urlsplit(path).netloc for path, _ in cloud.calls] == [cloud.origin[7:]]


def test_help_shows_the_options_of_the_projects_runserver():
    done = run("--help", EVENTSTREAM_TEST_RUNSERVER="daphne")
    for option in ("addrport", "--ipv6", "--noreload", "--insecure", "--http_timeout"):
        assert option in done.stdout
    assert "--ngrok-api URL" in done.stdout
    assert "http://localhost:4040/api/tunnels" in done.stdout


# Choosing


@pytest.mark.slow
@pytest.mark.parametrize("addr", ["http://localhost:{}", "localhost:{}", "{}"])
def test_tunnels_to_the_own_port_are_preferred(ngrok, cloud, addr):
    port = free_port()
    ngrok.tell(
        {
            "tunnels": [
                tunnel("http://before.ngrok.io"),
                tunnel("https://4f91f84e.ngrok.io:8443", addr.format(port)),
                tunnel("https://after.ngrok.io", addr.format(port ^ 1)),
            ]
        }
    )
    env = {"EVENTSTREAM_TEST_GRIP_URL": grip_url(cloud)}
    with develop("--noreload", ngrok=ngrok, port=port, **env) as site:
        assert MESSAGE in site.process.output().splitlines()
    origin = {"ssl_host": "4f91f84e.ngrok.io", "ssl_port": "8443"}
    ((_, parameters),) = cloud.calls
    assert parameters == {**origin, "rewrite_host": "true", "over_http": "true"}


@pytest.mark.slow
@pytest.mark.parametrize("config", [{}, {"config": None}, {"config": {"addr": "file:///www"}}])
def test_all_tunnels_for_http_are_used_where_none_leads_to_the_own_port(ngrok, cloud, config):
    ngrok.tell(
        {
            "tunnels": [
                {"proto": "tcp", "public_url": "tcp://0.tcp.ngrok.io:12345"},
                {"proto": "https", "public_url": "https://secure.ngrok.io", **config},
                {"proto": "http", "public_url": "http://4f91f84e.ngrok.io:8080", **config},
            ]
        }
    )
    env = {"EVENTSTREAM_TEST_GRIP_URL": grip_url(cloud)}
    with develop("--noreload", ngrok=ngrok, **env) as site:
        assert MESSAGE in site.process.output().splitlines()
    ((_, parameters),) = cloud.calls
    assert parameters == {**ORIGIN, "port": "8080", "ssl_host": "secure.ngrok.io"}


# Errors


def test_ngrok_that_does_not_run_is_an_error(cloud):
    url = f"http://127.0.0.1:{free_port()}/api/tunnels"
    error = fail(ngrok=url, EVENTSTREAM_TEST_GRIP_URL=grip_url(cloud))
    assert f"ngrok does not answer at {url} ([Errno " in error
    assert "Connection refused). Start it with 'ngrok http 8000'" in error
    assert cloud.calls == []


@pytest.mark.slow
def test_ngrok_that_says_nothing_is_an_error(cloud):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        error = fail(ngrok=url, EVENTSTREAM_TEST_GRIP_URL=grip_url(cloud))
    assert f"ngrok does not answer at {url} (timed out)" in error


def test_address_of_ngrok_that_is_no_url_is_an_error(cloud):
    error = fail(ngrok="localhost:4040", EVENTSTREAM_TEST_GRIP_URL=grip_url(cloud))
    assert "ngrok does not answer at localhost:4040 (InvalidSchema)" in error


@pytest.mark.parametrize(
    "content",
    [
        "<html>Welcome to nginx</html>",
        "[]",
        "{}",
        '{"tunnels": null}',
        '{"tunnels": ["http"]}',
        '{"tunnels": [{"proto": "http", "public_url": "4f91f84e"}]}',
        '{"tunnels": [{"proto": "http", "public_url": "http://a:b"}]}',
        '{"tunnels": [{"proto": "http", "public_url": "http://a", "config": "b"}]}',
    ],
)
def test_what_is_not_ngrok_is_an_error(ngrok, cloud, content):
    ngrok.content = content.encode()
    error = fail(ngrok=ngrok, EVENTSTREAM_TEST_GRIP_URL=grip_url(cloud))
    assert f"What answers at {ngrok.origin}/api/tunnels is not ngrok's API. Give" in error
    assert cloud.calls == []


@pytest.mark.parametrize("tunnels", [[], [{"proto": "tcp", "public_url": "tcp://a.ngrok.io:1"}]])
def test_ngrok_without_a_tunnel_for_http_is_an_error(ngrok, cloud, tunnels):
    ngrok.tell({"tunnels": tunnels})
    error = fail(ngrok=ngrok, EVENTSTREAM_TEST_GRIP_URL=grip_url(cloud))
    assert "ngrok has no tunnel for HTTP. Open one with 'ngrok http " in error
    assert cloud.calls == []


def test_project_without_a_grip_proxy_is_an_error(ngrok):
    ngrok.tell({"tunnels": BOTH})
    error = fail(ngrok=ngrok)
    assert "No GRIP proxy with a control interface on HTTP is configured. Set GRIP_URL" in error


def test_grip_proxy_on_zeromq_alone_counts_as_none(ngrok, settings):
    ngrok.tell({"tunnels": BOTH})
    # In this process: without pyzmq, such a project does not start.
    settings.GRIP_PROXIES = [{"control_zmq_uri": "tcp://localhost:5560"}]
    url = f"{ngrok.origin}/api/tunnels"
    with pytest.raises(CommandError, match="No GRIP proxy with a control interface on HTTP"):
        call_command("runserver_ngrok", "--noreload", ngrok_api=url)


def test_address_of_the_grip_proxy_that_cannot_be_read_is_an_error(ngrok):
    ngrok.tell({"tunnels": BOTH})
    error = fail(ngrok=ngrok, EVENTSTREAM_TEST_GRIP_URL="http:///?key=secret")
    assert "GRIP_URL or GRIP_PROXIES: cannot be read" in error
    assert "secret" not in error


@pytest.mark.parametrize("reload", [[], ["--noreload"]])
def test_grip_proxy_that_cannot_be_reached_is_an_error(ngrok, reload):
    ngrok.tell({"tunnels": BOTH})
    origin = f"127.0.0.1:{free_port()}"
    url = f"{grip_url(f'http://user:password@{origin}')}&token=secret"
    error = fail(*reload, ngrok=ngrok, EVENTSTREAM_TEST_GRIP_URL=url)
    assert f"The GRIP proxy at http://{origin}/realm/your-realm cannot be reached ([Err" in error
    assert "password" not in error
    assert "secret" not in error


@pytest.mark.parametrize("reload", [[], ["--noreload"]])
def test_wrong_key_is_an_error(ngrok, cloud, reload):
    ngrok.tell({"tunnels": BOTH})
    url = grip_url(cloud, key=KEY.upper())
    error = fail(*reload, ngrok=ngrok, EVENTSTREAM_TEST_GRIP_URL=url)
    assert f"The GRIP proxy at {cloud.origin}/realm/your-realm does not take the tunnel" in error
    assert "status 401: Signature verification failed. Compare" in error
    assert "key in GRIP_URL" in error
    assert KEY.decode().upper() not in error
    assert cloud.calls == []


@pytest.mark.parametrize("status", [400, 404, 500])
def test_grip_proxy_that_refuses_is_an_error(ngrok, cloud, status):
    ngrok.tell({"tunnels": BOTH})
    cloud.status, cloud.content = status, b"no such realm"
    error = fail(ngrok=ngrok, EVENTSTREAM_TEST_GRIP_URL=grip_url(cloud))
    assert f"does not take the tunnel as its origin: status {status}: no such realm" in error
