"""What projects do in their own tests: Django's tools work, and nothing warns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.core.sseparser import SSEParser
from tests.processes import serve

ROOT = Path(__file__).parent.parent

SETTINGS = """
import os

SECRET_KEY = "for the tests only"
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django_eventstream",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
ROOT_URLCONF = "project"
MEDIA_URL = "media/"
STATIC_URL = "static/"  # which LiveServerTestCase serves
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": ":memory:",
        "ATOMIC_REQUESTS": os.environ["ATOMIC_REQUESTS"] == "yes",
    }
}
USE_TZ = True
EVENTSTREAM_STORAGE_CLASS = "django_eventstream.storage.DjangoModelStorage"
EVENTSTREAM_CHANNELMANAGER_CLASS = os.environ["CHANNELMANAGER"]
"""

PROJECT = """
from django.http import JsonResponse
from django.urls import include, path

import django_eventstream
from django_eventstream import send_event
from django_eventstream.channelmanager import DefaultChannelManager


class Manager(DefaultChannelManager):
    def can_read_channel(self, user, channel):
        if channel != "members":
            return True
        return user is not None and user.groups.filter(name="members").exists()


class AsyncManager(DefaultChannelManager):
    async def can_read_channel(self, user, channel):
        if channel != "members":
            return True
        return user is not None and await user.groups.filter(name="members").aexists()

    async def is_channel_reliable(self, channel):
        return True


def send(request):
    return JsonResponse({"id": send_event("news", "message", "from a view").id})


urlpatterns = [
    path("events/", include(django_eventstream.urls)),
    path("send/", send),
]
"""

MANAGE = """
import os
import sys

os.environ["DJANGO_SETTINGS_MODULE"] = "settings"

from django.core.management import execute_from_command_line

execute_from_command_line(sys.argv)
"""

TESTS = '''
import asyncio
import json
import os

from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group, User
from django.db import transaction
from django.test import TestCase, TransactionTestCase, override_settings

from django_eventstream import asend_event, channel_permission_changed, send_event
from django_eventstream.models import Event
from django_eventstream.testing import capture_events

ATOMIC = os.environ["ATOMIC_REQUESTS"] == "yes"
OPEN = b":" + b" " * 2048 + b"\\n\\n"


class Sending:
    """The same in each kind of test case."""

    def test_event_is_in_the_table(self):
        send_event("news", "message", {"n": 1}, skip_user_ids=[7])
        event = Event.objects.get(channel="news")
        self.assertEqual((event.eid, event.type), (1, "message"))
        self.assertEqual(json.loads(json.loads(event.data)), {"n": 1})

    def test_each_test_counts_from_one(self):
        self.assertEqual([send_event("news", "message", n).id for n in range(3)], [1, 2, 3])

    def test_events_are_captured(self):
        with capture_events() as events:
            send_event("news", "message", 1)
        self.assertEqual([(event.channel, event.data, event.id) for event in events],
                         [("news", "1", 1)])

    def test_synchronous_client_is_told_to_use_an_asynchronous_one(self):
        response = self.client.get("/events/?channel=news")
        self.assertEqual(response.status_code, 200)
        self.assertIn(b"event: stream-error\\n", response.content)
        self.assertIn(b"ASGI", response.content)


class InTestCase(Sending, TestCase):
    def test_transaction_is_published_by_the_callbacks(self):
        with capture_events() as events:
            with self.captureOnCommitCallbacks(execute=True) as callbacks:
                with transaction.atomic():
                    send_event("news", "message", 1)
                    send_event("news", "message", 2)
                self.assertEqual(events, [])
            self.assertEqual(len(callbacks), 1)
            self.assertEqual([event.id for event in events], [1, 2])
        self.assertEqual(list(Event.objects.values_list("eid", flat=True)), [1, 2])

    def test_rollback_leaves_nothing(self):
        with self.assertRaises(RuntimeError), self.captureOnCommitCallbacks(execute=True):
            with transaction.atomic():
                send_event("news", "message", 1)
                raise RuntimeError
        self.assertFalse(Event.objects.exists())

    def test_view_sends(self):
        with self.captureOnCommitCallbacks(execute=True):
            response = self.client.get("/send/")
        self.assertEqual(response.json(), {"id": None if ATOMIC else 1})
        self.assertEqual(Event.objects.get().eid, 1)


class InTransactionTestCase(Sending, TransactionTestCase):
    def test_transaction_is_published_after_the_commit(self):
        with capture_events() as events, transaction.atomic():
            send_event("news", "message", 1)
            self.assertEqual(events, [])
        self.assertEqual([event.id for event in events], [1])

    def test_view_sends(self):
        with capture_events() as events:
            self.client.get("/send/")
        self.assertEqual([event.id for event in events], [1])


class Reading:
    """Reads streams within the process."""

    async def open(self, query, **headers):
        response = await self.async_client.get(f"/events/?{query}", headers=headers)
        self.assertEqual(response.status_code, 200)
        self.assertTrue(response.streaming)
        return response, aiter(response.streaming_content)

    async def read(self, stream, wanted):
        read = b""
        while len(read) < len(wanted):
            read += await asyncio.wait_for(anext(stream), 20)
        self.assertEqual(read, wanted)

    async def check_stream(self, close):
        response, stream = await self.open("channel=news")
        await self.read(stream, OPEN + b"event: stream-open\\nid: news:0\\ndata:\\n\\n")
        event = await asend_event("news", "message", {"n": 1})
        self.assertEqual(event.id, 1)
        await self.read(stream, b'event: message\\nid: news:1\\ndata: {"n": 1}\\n\\n')
        await close(response, stream)

    async def test_stream_opens_brings_events_and_is_closed(self):
        async def close(response, stream):
            response.close()

        await self.check_stream(close)

    async def test_reader_may_close_the_body_alone(self):
        async def close(response, stream):
            await stream.aclose()

        await self.check_stream(close)

    async def test_reader_may_forget_the_stream(self):
        async def close(response, stream):
            pass

        await self.check_stream(close)

    async def test_stream_that_is_never_read_is_closed(self):
        response, _ = await self.open("channel=news")
        response.close()

    async def test_client_resumes(self):
        for number in range(3):
            await asend_event("news", "message", number)
        response, stream = await self.open("channel=news", **{"Last-Event-ID": "news:1"})
        await self.read(
            stream,
            OPEN + b"event: stream-open\\nid: news:1\\ndata:\\n\\n"
            b"event: message\\nid: news:2\\ndata: 1\\n\\n"
            b"event: message\\nid: news:3\\ndata: 2\\n\\n",
        )
        response.close()

    async def test_several_streams_get_the_event(self):
        streams = [await self.open("channel=news") for _ in range(3)]
        for _, stream in streams:
            await self.read(stream, OPEN + b"event: stream-open\\nid: news:0\\ndata:\\n\\n")
        await asend_event("news", "message", 1)
        for response, stream in streams:
            await self.read(stream, b"event: message\\nid: news:1\\ndata: 1\\n\\n")
            response.close()

    async def test_view_sends_to_the_stream(self):
        response, stream = await self.open("channel=news")
        await self.read(stream, OPEN + b"event: stream-open\\nid: news:0\\ndata:\\n\\n")
        await self.async_client.get("/send/")
        await self.read(stream, b'event: message\\nid: news:1\\ndata: "from a view"\\n\\n')
        response.close()

    async def test_permission_is_checked_and_lost(self):
        user = await User.objects.acreate(username="ann")
        await self.async_client.aforce_login(user)
        response = await self.async_client.get("/events/?channel=members")
        self.assertIn(b'"condition": "forbidden"', response.content)

        group = await Group.objects.acreate(name="members")
        await user.groups.aadd(group)
        response, stream = await self.open("channel=members")
        await self.read(stream, OPEN + b"event: stream-open\\nid: members:0\\ndata:\\n\\n")
        await user.groups.aremove(group)
        await sync_to_async(channel_permission_changed)(user, "members")
        last = await asyncio.wait_for(anext(stream), 20)
        self.assertTrue(last.startswith(b"event: stream-error\\nid: error\\n"), last)
        with self.assertRaises(StopAsyncIteration):
            await anext(stream)
        response.close()


@override_settings(EVENTSTREAM_POLL_INTERVAL=0.05)
class ReadingInTestCase(Reading, TestCase):
    pass


@override_settings(EVENTSTREAM_POLL_INTERVAL=0.05)
class ReadingInTransactionTestCase(Reading, TransactionTestCase):
    pass
'''

LIVE = """
import http.client

from django.test import LiveServerTestCase, TransactionTestCase

from django_eventstream import send_event


class Live(LiveServerTestCase):
    def open(self):
        address = self.live_server_url.removeprefix("http://")
        connection = http.client.HTTPConnection(address, timeout=20)
        connection.request("GET", "/events/?channel=news")
        response = connection.getresponse()
        self.assertEqual(response.status, 200)
        opening = b":" + b" " * 2048 + b"\\n\\nevent: stream-open\\nid: news:0\\ndata:\\n\\n"
        self.read(response, opening)
        return connection, response

    def read(self, response, wanted):
        read = b""
        while len(read) < len(wanted):
            part = response.read1()
            self.assertTrue(part, read)
            read += part
        self.assertEqual(read, wanted)

    def test_stream_over_a_socket(self):
        connection, response = self.open()
        send_event("news", "message", 1)
        self.read(response, b"event: message\\nid: news:1\\ndata: 1\\n\\n")
        response.close()
        connection.close()

    def test_server_goes_while_a_stream_is_open(self):
        connection, response = self.open()
        self.addClassCleanup(connection.close)
        self.addClassCleanup(response.close)


class LaterTest(TransactionTestCase):
    # Its server, and the database connection lent to it, are gone.

    def test_sending_reaches_what_an_earlier_test_left(self):
        for number in range(50):
            send_event("news", "message", number)
"""


@pytest.fixture
def project(tmp_path):
    files = {"settings": SETTINGS, "project": PROJECT, "manage": MANAGE}
    files |= {"tests": TESTS, "live": LIVE}
    for name, content in files.items():
        (tmp_path / f"{name}.py").write_text(content)
    return tmp_path


def run_tests(project, label, atomic_requests="no", manager="Manager"):
    """Run a project's tests; return what was printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "manage.py", "test", label],
        cwd=project,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "ATOMIC_REQUESTS": atomic_requests,
            "CHANNELMANAGER": f"project.{manager}",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    # What a destructor or a thread raises is only printed.
    for word in ("Warning", "Traceback", "Exception ignored", "was destroyed", "never awaited"):
        assert word not in done.stdout, done.stdout
    return done.stdout


@pytest.mark.parametrize("manager", ["Manager", "AsyncManager"])
@pytest.mark.parametrize("atomic_requests", ["yes", "no"])
def test_tests_of_a_project_pass_without_a_warning(project, atomic_requests, manager):
    output = run_tests(project, "tests", atomic_requests, manager)
    assert "\nRan 29 tests in " in output


@pytest.mark.parametrize("atomic_requests", ["yes", "no"])
def test_live_server_streams(project, atomic_requests):
    assert "\nRan 3 tests in " in run_tests(project, "live", atomic_requests)


@pytest.mark.slow
def test_worker_of_a_synchronous_server_is_told_and_stays_free(shared_database):
    with serve("gunicorn", database=shared_database) as site:  # one worker, one thread
        for _ in range(3):
            status, headers, body = site.request("GET", "/events/?channel=a")
            assert status == 200
            assert headers["Content-Type"] == "text/event-stream"
            parser = SSEParser(strict=True)
            (error,) = parser.feed(body)
            parser.close()
            assert (error.type, error.last_event_id) == ("stream-error", "error")
            data = json.loads(error.data)
            assert data["condition"] == "internal-error"
            assert "uvicorn" in data["text"]
            assert site.request("GET", "/threads/")[0] == 200
        assert site.request("GET", "/events/", headers={"Last-Event-ID": "error"})[0] == 400
