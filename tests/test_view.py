"""What the view and the functions beside it do with odd projects, in one process."""

import asyncio
import gc
import json
import weakref
from functools import partial

import pytest
from asgiref.sync import ThreadSensitiveContext, async_to_sync
from django.contrib.auth import get_user_model
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.auth.models import AnonymousUser
from django.contrib.sessions.backends.db import SessionStore
from django.core.handlers.base import BaseHandler
from django.db import OperationalError, connections
from django.http import HttpResponse
from django.middleware.http import ConditionalGetMiddleware
from django.test import AsyncRequestFactory, RequestFactory
from django.urls import resolve
from django.utils.functional import SimpleLazyObject

from django_eventstream import (
    EventPermissionError,
    EventRequest,
    get_events,
    send_event,
    urls,
)
from django_eventstream.channelmanager import DefaultChannelManager, get_channelmanager
from django_eventstream.exceptions import BadRequest, EventDoesNotExist
from django_eventstream.sse import encode_error
from django_eventstream.views import aevents, events, may_block


def error_of(response):
    assert response.status_code == 200
    assert response["Content-Type"] == "text/event-stream"
    assert response["Cache-Control"] == "no-cache, no-transform"
    head, data, *rest = response.content.decode().split("data: ")
    assert (head, rest) == ("event: stream-error\nid: error\n", [])
    return json.loads(data)


class Broken(DefaultChannelManager):
    """Raises whatever the channel's name asks for."""

    def can_read_channel(self, user, channel):
        if channel == "database":
            raise OperationalError("gone")
        if channel == "denied":
            raise EventPermissionError("Not today", channels=["denied"])
        return True

    def get_channels_for_request(self, request, view_kwargs):
        names = super().get_channels_for_request(request, view_kwargs)
        if "bad" in names:
            raise BadRequest("No such room")
        return names


@pytest.fixture
def broken(settings):
    settings.EVENTSTREAM_CHANNELMANAGER_CLASS = "tests.test_view.Broken"
    settings.EVENTSTREAM_STORAGE_CLASS = None


def test_errors_of_the_channel_manager_reach_the_client(broken):
    get = RequestFactory().get
    assert error_of(events(get("/?channel=bad"))) == {
        "condition": "bad-request",
        "text": "No such room",
    }
    assert error_of(events(get("/?channel=denied"))) == {
        "condition": "forbidden",
        "text": "Not today",
        "channels": ["denied"],
    }


def test_database_that_is_down_lets_the_client_come_back(broken, caplog):
    response = events(RequestFactory().get("/?channel=database"))
    assert response.status_code == 200
    assert response.content.startswith(b"retry: ")
    assert b"id" not in response.content
    assert "gone" in caplog.text


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("EVENTSTREAM_STORAGE_CLASS", "nowhere.Storage"),
        ("EVENTSTREAM_STORAGE_CLASS", "tests.test_view.Broken"),
        ("EVENTSTREAM_STORAGE_CLASS", "os.path"),
        ("EVENTSTREAM_STORAGE_CLASS", 7),
        ("EVENTSTREAM_CHANNELMANAGER_CLASS", "nowhere.Manager"),
        ("EVENTSTREAM_CHANNELMANAGER_CLASS", "json.dumps"),
        ("EVENTSTREAM_CHANNEL_LIMIT", "many"),
        ("EVENTSTREAM_PADDING", None),
        ("EVENTSTREAM_ALLOW_ORIGINS", 7),
        ("EVENTSTREAM_ALLOW_ORIGINS", [None]),
    ],
)
def test_broken_configuration_is_an_internal_error_and_logged(settings, caplog, setting, value):
    setattr(settings, setting, value)
    response = events(RequestFactory().get("/?channel=a"))
    error = error_of(response)
    assert error["condition"] == "internal-error"
    assert setting not in error["text"]  # which is the log's business
    assert setting in caplog.text


@pytest.mark.parametrize(
    "setting",
    ["EVENTSTREAM_STORAGE_CLASS", "EVENTSTREAM_CHANNELMANAGER_CLASS", "EVENTSTREAM_BROKER"],
)
async def test_broken_configuration_is_an_internal_error_under_asgi_too(
    async_client, settings, setting
):
    setattr(settings, setting, "nowhere.Thing")
    response = await async_client.get("/events/?channel=a")
    assert response.status_code == 200
    assert error_of(response)["condition"] == "internal-error"


def test_one_text_for_a_list_of_channels_is_a_broken_configuration(caplog):
    request = RequestFactory().get("/")
    for keyword in ("channels", "format-channels"):
        error = error_of(events(request, **{keyword: "test"}))
        assert error["condition"] == "internal-error"
        assert f"{{'{keyword}': ['test']}}" in caplog.text


@pytest.mark.parametrize("name", ["room-{number}", "{0}", "{room.x}", "{"])
def test_format_that_the_url_cannot_fill_is_a_broken_configuration(caplog, name):
    keywords = {"format-channels": [name], "room": "7"}
    error = error_of(events(RequestFactory().get("/"), **keywords))
    assert error["condition"] == "internal-error"
    assert "['format-channels', 'room'] of the URL pattern" in caplog.text


def test_empty_channel_parameters_are_passed_over(settings):
    request = EventRequest(RequestFactory().get("/?channel=&channel=a&channel="))
    assert request.channels == ["a"]


def test_keywords_that_select_nothing_let_the_client_select_nothing():
    error = error_of(events(RequestFactory().get("/?channel=a"), room="7"))
    assert error == {"condition": "bad-request", "text": "No channels specified."}


def test_wsgi_server_names_the_remedy():
    for software in ("", "gunicorn/23.0", "WSGIServer/0.2 CPython/3.12"):  # the last: no thread
        request = RequestFactory().get("/?channel=a", SERVER_SOFTWARE=software)
        error = error_of(events(request))
        assert error["condition"] == "internal-error"
        assert "ASGI server: uvicorn" in error["text"]


def test_refused_client_is_told_so_again_whatever_it_has_cached():
    middleware = ConditionalGetMiddleware(lambda request: events(request))
    response = middleware(RequestFactory().get("/"))
    assert not response.headers.get("ETag")
    again = middleware(RequestFactory().get("/", headers={"If-None-Match": "*"}))
    assert again.content == response.content == encode_error(error_of(response))


async def test_padding_can_be_turned_off(settings):
    settings.EVENTSTREAM_PADDING = 0
    settings.EVENTSTREAM_STORAGE_CLASS = None
    response = events(AsyncRequestFactory().get("/?channel=a"))
    assert await anext(response.streaming_content) == b"event: stream-open\ndata:\n\n"
    response.close()


def test_channel_limit_is_a_setting(settings):
    settings.EVENTSTREAM_CHANNEL_LIMIT = 1
    error = error_of(events(RequestFactory().get("/?channel=a&channel=b")))
    assert "at most 1" in error["text"]
    assert isinstance(events(RequestFactory().get("/?channel=a&channel=a")), HttpResponse)


# The functions that users of version 5.3.4 know


def request_for(*channels, user=None, **positions):
    request = EventRequest()
    request.channels = list(channels)
    request.channel_last_ids = positions
    request.user = user
    return request


@pytest.mark.django_db
def test_get_events_pages_through_the_log():
    for number in range(5):
        send_event("a", "m", number)
    send_event("b", "m", "b")
    request = request_for("a", "b", "loose-c", a=0)
    response = get_events(request, limit=6)
    assert [event.id for event in response.channel_items["a"]] == [1, 2]
    assert response.channel_items["b"] == response.channel_items["loose-c"] == []
    assert response.channel_last_ids == {"a": 0, "b": 1}
    assert response.channel_more == {"a"}
    assert request.channel_last_ids == {"a": 2}
    response = get_events(request)
    assert [event.id for event in response.channel_items["a"]] == [3, 4, 5]
    assert not response.channel_more
    texts = EventRequest()
    texts.channels, texts.channel_last_ids = ["a"], {"a": "4"}  # as version 5.3.4 had them
    assert [event.id for event in get_events(texts).channel_items["a"]] == [5]
    response = get_events(request_for("a", a=99))
    assert response.channel_reset == {"a"}
    assert response.channel_last_ids == {"a": 5}
    assert get_events(request_for()).channel_items == {}


@pytest.mark.django_db
def test_get_events_asks_for_the_permission():
    user = get_user_model().objects.create(username="ann")
    assert get_events(request_for("users-a", user=user)).user == user
    assert get_events(request_for("users-a"), user=user).user == user
    for request in (request_for("users-a", "a"), request_for("users-a", user=AnonymousUser())):
        with pytest.raises(EventPermissionError) as caught:
            get_events(request)
        assert caught.value.channels == ["users-a"]


def test_errors_are_what_users_catch():
    assert issubclass(EventRequest.Error, ValueError)
    assert issubclass(EventRequest.ResumeNotAllowedError, EventRequest.Error)
    assert issubclass(EventRequest.GripError, EventRequest.Error)
    assert EventDoesNotExist("gone", 7).current_id == 7
    with pytest.raises(EventRequest.Error, match="No channels"):
        EventRequest(RequestFactory().get("/"))


def test_views_are_in_no_transaction_of_any_database(monkeypatch):
    for alias in ("default", "other"):
        database = {**connections.settings["default"], "ATOMIC_REQUESTS": True}
        monkeypatch.setitem(connections.settings, alias, database)
    for view in (events, aevents):
        assert BaseHandler().make_view_atomic(view) is view


@pytest.mark.django_db(transaction=True)
async def test_asynchronous_twin_answers_alike(async_rf):
    response = await aevents(async_rf.get("/"), channels=["twin"])
    stream = aiter(response)
    assert b"stream-open" in await anext(stream)
    await stream.aclose()


def test_asynchronous_twin_says_under_wsgi_that_it_cannot_stream(rf):
    response = async_to_sync(aevents)(rf.get("/"), channels=["twin"])
    assert b"runs Django under WSGI" in response.content


def resolve_under_asgi():
    async def handle():
        async with ThreadSensitiveContext():
            return resolve("/", urls).func

    return asyncio.run(handle())


def test_urls_are_asynchronous_where_django_is():
    assert resolve("/", urls).func is events
    assert resolve_under_asgi() is aevents

    async def on_a_loop_of_somebody_elses():
        return resolve("/", urls).func

    assert asyncio.run(on_a_loop_of_somebody_elses()) is events


def test_what_a_project_puts_around_the_view_of_the_urls_stays_there(monkeypatch):
    def guarded(request):
        raise NotImplementedError

    monkeypatch.setattr(urls.urlpatterns[0], "callback", guarded)
    assert resolve_under_asgi() is guarded


def test_marks_of_the_view_hold_for_its_asynchronous_twin(monkeypatch):
    monkeypatch.setattr(events, "login_required", False, raising=False)
    monkeypatch.setattr(aevents, "login_required", None, raising=False)
    assert resolve_under_asgi().login_required is False


class Own(DefaultChannelManager):
    def can_read_channel(self, user, channel):
        return True


def lazily(user):
    return SimpleLazyObject(lambda: user)


class Holder:
    pass


def test_stream_of_a_user_does_not_keep_the_request(settings):
    settings.EVENTSTREAM_CHANNELMANAGER_CLASS = "tests.test_view.Own"
    settings.EVENTSTREAM_STORAGE_CLASS = None
    holder = Holder()  # which Django's middleware makes of the request
    request = AsyncRequestFactory().get("/?channel=a")
    request.user = SimpleLazyObject(partial(lambda holder: get_user_model()(pk=1), holder))
    stream = events(request).stream
    kept = weakref.ref(holder)
    del request, holder
    gc.collect()
    assert stream.protocol.user_id == "1"
    assert kept() is None


def request_of_nobody(session_key=None):
    request = AsyncRequestFactory().get("/?channel=a")
    request.session = SessionStore(session_key)
    AuthenticationMiddleware(lambda request: None).process_request(request)
    return request


@pytest.fixture
def default_manager(settings):
    settings.EVENTSTREAM_CHANNELMANAGER_CLASS = ""


@pytest.mark.usefixtures("default_manager")
def test_request_of_nobody_for_what_all_may_read_blocks_nothing():
    assert not may_block(AsyncRequestFactory().get("/"))
    assert not may_block(request_of_nobody())
    request = request_of_nobody()
    request.user = AnonymousUser()
    assert not may_block(request)


@pytest.mark.usefixtures("default_manager")
def test_whatever_might_ask_somebody_gets_a_thread(settings):
    assert may_block(request_of_nobody("a session's key"))
    request = request_of_nobody()
    request.user = lazily(AnonymousUser())  # of who knows where
    assert may_block(request)
    request = request_of_nobody()
    del request.session
    assert may_block(request)
    settings.EVENTSTREAM_CHANNELMANAGER_CLASS = "tests.test_view.Own"
    assert may_block(request_of_nobody())
    settings.EVENTSTREAM_CHANNELMANAGER_CLASS = ""
    assert not may_block(request_of_nobody())
    settings.GRIP_URL = "http://127.0.0.1:5561?key=x"
    assert may_block(request_of_nobody())


@pytest.mark.usefixtures("default_manager")
def test_method_of_one_channel_manager_is_its_own(monkeypatch):
    assert not may_block(request_of_nobody())
    monkeypatch.setattr(get_channelmanager(), "can_read_channel", lambda user, channel: True)
    assert may_block(request_of_nobody())
