"""What goes over the wire to and from a GRIP proxy, byte by byte; Pushpin has tests of its own."""

from __future__ import annotations

import json
import multiprocessing.util
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest import mock
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
from django.contrib.auth.models import AnonymousUser
from django.db import OperationalError, transaction
from django.test import AsyncClient, Client, RequestFactory
from django.urls import path

from django_eventstream import channel_permission_changed, grip, send_event
from django_eventstream.brokers import enclose
from django_eventstream.brokers import grip as grip_broker
from django_eventstream.brokers.outbox import Outbox, Refused, Unreachable
from django_eventstream.event import Event
from django_eventstream.exceptions import BadRequest
from django_eventstream.grip import TOKEN, Token
from django_eventstream.messages import Gap, Published, Revoked
from django_eventstream.storage import DjangoModelStorage
from django_eventstream.views import events
from tests.control import control
from tests.processes import wait_until


def __getattr__(name):
    """Return the urlpatterns with a view set, which needs apps that only its test installs."""
    if name != "urlpatterns":
        raise AttributeError(name)
    from rest_framework.authentication import SessionAuthentication
    from rest_framework.permissions import IsAuthenticated

    from django_eventstream.viewsets import EventsViewSet

    class ForUsers(EventsViewSet):
        authentication_classes = (SessionAuthentication,)
        permission_classes = (IsAuthenticated,)
        channels = ("users-a",)

    return [path("view-set/", ForUsers.as_view({"get": "list"}))]


KEY = b"0123456789abcdef0123456789abcdef"
DAY = 24 * 3600
MIDDLEWARE = ["django_grip.GripMiddleware", "django.contrib.sessions.middleware.SessionMiddleware"]
MIDDLEWARE += ["django.contrib.auth.middleware.AuthenticationMiddleware"]


@pytest.fixture
def proxy():
    """Return a control interface that takes everything."""
    with control() as taking:
        yield taking


@pytest.fixture(autouse=True)
def _configure(request, settings, proxy):
    settings.GRIP_URL = proxy.uri
    settings.MIDDLEWARE = MIDDLEWARE
    settings.EVENTSTREAM_PADDING = 8
    yield
    # Its thread would go on to try a proxy that is gone.
    settings.GRIP_URL = settings.GRIP_PROXIES = None


def get(path, client=None, **headers):
    """Return the response to a request that came through a proxy."""
    headers = {"Grip-Sig": "x", **headers}
    return (client or Client()).get(path, headers=headers)


def next_link(response):
    return re.fullmatch(r"<(.*)>; rel=next(; timeout=\d+)?", response["Grip-Link"])[1]


def replace_token(link, change):
    token = parse_qs(urlsplit(link).query)[TOKEN][0]
    parameters = {**{name: values[0] for name, values in parse_qs(urlsplit(link).query).items()}}
    parameters[TOKEN] = change(token)
    return urlsplit(link).path, parameters


def error_of(response):
    body = response.content.decode()
    assert body.startswith("event: stream-error\nid: error\ndata: ")
    assert not any(name.startswith("Grip-") for name in response.headers)
    return json.loads(body.partition("data: ")[2])


class Once:
    """Lets a user read a channel when it is first asked."""

    asked = 0

    def get_channels_for_request(self, request, view_kwargs):
        return set(request.GET.getlist("channel"))

    def can_read_channel(self, user, channel):
        Once.asked += 1
        return Once.asked == 1

    def is_channel_reliable(self, channel):
        return True


# The handoff


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.django_db
def test_permission_is_looked_at_again_if_the_log_was_slow(slow, settings, monkeypatch):
    settings.EVENTSTREAM_CHANNELMANAGER_CLASS = f"{__name__}.Once"
    monkeypatch.setattr(Once, "asked", 0)
    monkeypatch.setattr(grip, "RECHECK_AFTER", -1 if slow else 3600)
    response = get("/events/?channel=a")
    if slow:
        assert error_of(response)["condition"] == "forbidden"
        return
    assert response["Grip-Hold"] == "stream"
    monkeypatch.setattr(Once, "asked", 0)
    monkeypatch.setattr(grip, "RECHECK_AFTER", -1)
    assert error_of(get(next_link(response)))["condition"] == "forbidden"


@pytest.mark.django_db
def test_handoff_has_the_bytes_and_headers_of_the_protocol():
    send_event("a b", "message", "one")
    response = get("/events/?channel=a%20b&channel=loose-c&room=7")
    assert response.status_code == 200
    assert response["Content-Type"] == "text/event-stream"
    assert response["Cache-Control"] == "no-cache, no-transform"
    assert response["X-Accel-Buffering"] == "no"
    assert response["Grip-Hold"] == "stream"
    assert response["Grip-Channel"] == (
        "events-a%20b; prev-id=1; filter=build-id; filter=skip-users, "
        "events-loose-c; filter=skip-users, user-anonymous; filter=require-sub"
    )
    assert response["Grip-Set-Meta"] == ('user="anonymous", id_format="a%%20b:%(events-a%20b)s"')
    assert response["Grip-Keep-Alive"] == (
        r"event: keep-alive\ndata:\n\n; format=cstring; timeout=20"
    )
    assert response.content == b":        \n\nevent: stream-open\nid: a%%20b:1\ndata:\n\n"
    link = urlsplit(next_link(response))
    assert link.path == "/events/"
    query = parse_qs(link.query)
    assert query.keys() == {"room", "link", "recover", TOKEN}
    assert (query["link"], query["recover"]) == (["next"], ["true"])
    timeout = int(response["Grip-Link"].rpartition("timeout=")[2])
    assert 300 <= timeout <= 450


@pytest.mark.django_db
def test_stream_without_a_reliable_channel_has_no_signs_to_double():
    response = get("/events/?channel=loose-100%25")
    assert response["Grip-Channel"] == (
        "events-loose-100%25; filter=skip-users, user-anonymous; filter=require-sub"
    )
    assert response["Grip-Set-Meta"] == 'user="anonymous"'
    assert response.content == b":        \n\nevent: stream-open\ndata:\n\n"


@pytest.mark.django_db
def test_missed_events_are_in_the_response():
    for n in range(3):
        send_event("a", "t%", f"{n}%", json_encode=False)
    response = get("/events/?channel=a", **{"Last-Event-ID": "a:1"})
    assert response.content == (
        b":        \n\nevent: stream-open\nid: a:1\ndata:\n\n"
        b"event: t%%\nid: a:2\ndata: 1%%\n\nevent: t%%\nid: a:3\ndata: 2%%\n\n"
    )
    assert "events-a; prev-id=3;" in response["Grip-Channel"]


@pytest.mark.django_db
def test_long_replay_goes_on_by_links_without_a_hold(settings):
    settings.EVENTSTREAM_PAGE_SIZE = 40
    for n in range(300):
        send_event("a", "message", f"{n:04}" + "x" * 2000, json_encode=False)
    response = get("/events/?channel=a", **{"Last-Event-ID": "a:0"})
    body, pages = b"", 0
    while True:
        body += response.content
        pages += 1
        assert len(response.content) <= (100_000 if pages == 1 else 1_000_000)
        if response.has_header("Grip-Hold"):
            break
        assert "timeout" not in response["Grip-Link"]
        assert not response.has_header("Grip-Keep-Alive")
        link = next_link(response)
        position = parse_qs(urlsplit(link).query)["lastEventId"]
        assert f"prev-id={position[0].partition(':')[2]};" in response["Grip-Channel"]
        response = get(link)
        assert b"stream-open" not in response.content
    assert pages > 2
    assert re.findall(rb"data: (\d{4})", body) == [b"%04d" % n for n in range(300)]
    assert "recover=true" in next_link(response)


@pytest.mark.django_db
def test_pages_end_with_a_reset_of_channels_that_nobody_followed_meanwhile():
    for _n in range(3):
        send_event("a", "message", "x" * 60_000)
    path = "/events/?channel=a&channel=loose-b&channel=loose-c"
    response = get(path, **{"Last-Event-ID": "a:0"})
    assert not response.has_header("Grip-Hold")
    response = get(next_link(response))
    assert response["Grip-Hold"] == "stream"
    assert response.content.endswith(
        b'event: stream-reset\nid: a:3\ndata: {"channels": ["loose-b", "loose-c"]}\n\n'
    )
    # It followed them when it asks out of a hold.
    response = get(next_link(response), **{"Grip-Last": "events-a; last-id=3"})
    assert response.content == b""


@pytest.mark.django_db
def test_next_link_reads_from_where_the_proxy_stands():
    for n in range(4):
        send_event("a b", "message", n)
    link = next_link(get("/events/?channel=a%20b&channel=loose-c"))
    response = get(link, **{"Grip-Last": "events-a%20b; last-id=2, events-other; last-id=7"})
    assert response.content == (
        b"event: message\nid: a%%20b:3\ndata: 2\n\nevent: message\nid: a%%20b:4\ndata: 3\n\n"
    )
    assert response["Grip-Hold"] == "stream"
    assert next_link(response) == link


@pytest.mark.django_db
def test_next_link_tells_of_a_reset():
    send_event("a", "message", 1)
    link = next_link(get("/events/?channel=a"))
    response = get(link, **{"Grip-Last": "events-a; last-id=9"})
    assert response.content == (b'event: stream-reset\nid: a:1\ndata: {"channels": ["a"]}\n\n')
    assert "prev-id=1;" in response["Grip-Channel"]


@pytest.mark.django_db
def test_body_passes_the_filters_that_were_set_before_it(monkeypatch):
    reliable = {"turning%": True}
    monkeypatch.setattr(
        "tests.project.channelmanager.ChannelManager.is_channel_reliable",
        lambda self, channel: reliable[channel],
    )
    link = next_link(get("/events/?channel=turning%25"))
    reliable["turning%"] = False
    response = get(link, **{"Grip-Last": "events-turning%25; last-id=0"})
    assert "build-id" not in response["Grip-Channel"]
    link = next_link(response)
    reliable["turning%"] = True
    send_event("turning%", "message", 1)
    response = get(link, **{"Grip-Last": "events-turning%25; last-id=7"})
    assert response.content == (
        b'event: stream-reset\nid: turning%25:1\ndata: {"channels": ["turning%"]}\n\n'
    )
    assert "build-id" in response["Grip-Channel"]


@pytest.mark.django_db
def test_streams_of_one_user_on_the_same_channels_share_a_link(django_user_model):
    ann, bob = (django_user_model.objects.create(username=name) for name in ("ann", "bob"))
    clients = {}
    for name, user in (("ann", ann), ("bob", bob)):
        clients[name] = Client()
        clients[name].force_login(user)
    path = "/events/?channel=a"
    links = [next_link(get(path)), next_link(get(path + "&lastEventId=a:0"))]
    assert links[0] == links[1]
    links += [next_link(get(path, clients[name])) for name in ("ann", "ann", "bob")]
    assert links[2] == links[3]
    assert len(set(links)) == 3


@pytest.mark.django_db
@pytest.mark.parametrize("length", [1, 255])
def test_links_fit_into_a_request_line(length):
    name = ("日本語" * 85)[:length]
    for n in range(3):
        send_event(name, "message", str(n) + "x" * 60_000)
    response = get(f"/events/?channel={name}", **{"Last-Event-ID": f"{_quote(name)}:0"})
    for _ in range(3):
        link = next_link(response)
        assert len(f"GET {link} HTTP/1.1\r\n") <= 4094
        if response.has_header("Grip-Hold"):
            break
        response = get(link)
    assert f"events-{_quote(name)}; prev-id=3;" in response["Grip-Channel"]


def _quote(text):
    from urllib.parse import quote

    return quote(text)


@pytest.mark.django_db
def test_user_is_told_to_the_proxy(django_user_model):
    user = django_user_model.objects.create(username="ann")
    client = Client()
    client.force_login(user)
    response = get("/events/?channel=loose-a", client)
    assert response["Grip-Set-Meta"] == f'user="{user.pk}"'
    assert response["Grip-Channel"].endswith(f"user-{user.pk}; filter=require-sub")


@pytest.mark.parametrize(
    ("user_id", "name"),
    [
        (None, "anonymous"),
        ("7", "7"),
        ("0b29a29a-6fc6-4d4b-a6d1-b2b3f7b6d5a1", "0b29a29a-6fc6-4d4b-a6d1-b2b3f7b6d5a1"),
        ("anonymous", "%61nonymous"),
        ('a,b; "c/d', "a%2Cb%3B%20%22c%2Fd"),
    ],
)
def test_user_ids_are_no_two_users_the_same(user_id, name):
    assert grip_broker.name_user(user_id) == name


def test_user_that_is_in_no_database_is_a_clear_error():
    request = RequestFactory().get("/?channel=loose-a", headers={"Grip-Sig": "x"})
    request.user = mock.Mock(is_authenticated=True, is_active=True, pk=7)
    assert "users from the database" in error_of(events(request))["text"]


@pytest.mark.django_db
def test_works_without_the_middleware_too(settings):
    settings.MIDDLEWARE = []
    response = get("/events/?channel=a")
    assert response["Grip-Hold"] == "stream"


@pytest.mark.django_db
def test_view_set_lets_the_proxy_ask_without_a_login(rest_framework_project, django_user_model):
    client = Client()
    client.force_login(django_user_model.objects.create(username="ann"))
    response = get("/view-set/", client, Accept="text/event-stream")
    assert response["Grip-Hold"] == "stream"
    response = get(next_link(response), **{"Grip-Last": "events-users-a; last-id=0"})
    assert response["Grip-Hold"] == "stream"
    # As well where the middleware is not there, and the driver is asked twice.
    middleware = rest_framework_project.MIDDLEWARE
    rest_framework_project.MIDDLEWARE = middleware[1:]
    response = get("/view-set/", client, Accept="text/event-stream")
    assert response["Grip-Hold"] == "stream"
    rest_framework_project.MIDDLEWARE = middleware
    assert get("/view-set/?link=next").content.startswith(b"event: stream-error")
    assert get("/view-set/").status_code == 403


@pytest.mark.django_db
async def test_works_under_asgi():
    response = await AsyncClient().get("/events/?channel=loose-a", headers={"Grip-Sig": "x"})
    assert response["Grip-Hold"] == "stream"
    assert not response.streaming


@pytest.mark.django_db
def test_errors_are_those_of_any_stream():
    assert error_of(get("/events/"))["condition"] == "bad-request"
    assert error_of(get("/events/?channel=users-a"))["condition"] == "forbidden"
    assert get("/events/?channel=a", **{"Last-Event-ID": "error"}).status_code == 400
    assert Client().post("/events/?channel=a", headers={"Grip-Sig": "x"}).status_code == 405


@pytest.mark.django_db
def test_client_that_came_without_a_proxy_is_none_of_its_business(settings):
    response = Client().get("/events/?channel=a")
    assert error_of(response)["condition"] == "internal-error"
    settings.GRIP_PROXY_REQUIRED = True
    assert Client().get("/events/?channel=a").status_code == 501
    settings.MIDDLEWARE = []
    assert Client().get("/events/?channel=a").status_code == 501


# The token


def make_token(**values):
    return Token(**{"channels": ["a"], "user": None, "has_signs": True, **values})


def test_token_comes_back_as_it_was():
    token = make_token(user=("auth.user", "7"), positions=[3], unreadable_since=5)
    assert Token.loads(token.dumps()) == token


@pytest.mark.django_db
def test_token_outlives_a_day_long_hold():
    response = get("/events/?channel=a")
    now = time.time()
    for hours in (1, 24, 25, 72):
        with mock.patch("time.time", return_value=now + hours * 3600):
            response = get(next_link(response), **{"Grip-Last": "events-a; last-id=0"})
            assert response["Grip-Hold"] == "stream"
    with mock.patch("time.time", return_value=now + 100 * DAY):
        assert error_of(get(next_link(response)))["condition"] == "bad-request"


@pytest.mark.django_db
@pytest.mark.parametrize(
    "change",
    [
        lambda token: "",
        lambda token: token[:-1],
        lambda token: token[1:],
        lambda token: token.partition(":")[0],
        lambda token: "." + token,
        lambda token: token.swapcase(),
        lambda token: "nonsense",
        lambda token: "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJlcyJ9.x",
        lambda token: "\0é%",
    ],
)
def test_token_that_is_forged_or_cut_short_is_refused(change):
    path, parameters = replace_token(next_link(get("/events/?channel=a")), change)
    response = Client().get(path, parameters, headers={"Grip-Sig": "x"})
    assert response.status_code == 200
    assert error_of(response)["condition"] == "bad-request"


@pytest.mark.django_db
@pytest.mark.parametrize(
    "token",
    [
        lambda: _sign([["a"], None, True, None, 0, "of a later version"]),
        lambda: _sign([["a"]]),
        lambda: make_token(user=("auth.nobody", "7")).dumps(),
        lambda: make_token(user=("auth.user", "no number")).dumps(),
    ],
)
def test_token_that_is_genuine_but_no_use_has_its_client_come_back(token):
    response = get(f"/events/?channel=a&link=next&recover=true&{TOKEN}={token()}")
    assert re.fullmatch(rb"retry: \d+\n\n", response.content)


def _sign(values):
    from django_eventstream.grip import _Signer

    return _Signer().sign_object(values)


@pytest.mark.django_db
def test_token_of_another_purpose_is_refused():
    from django.core import signing

    values = [["a"], None, True, None, 0]
    for other in (signing.dumps(values), signing.TimestampSigner().sign_object(values)):
        with pytest.raises(BadRequest):
            Token.loads(other)


def test_token_honours_fallback_keys(settings):
    token = make_token().dumps()
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "new", [settings.SECRET_KEY]
    assert Token.loads(token) == make_token()
    settings.SECRET_KEY_FALLBACKS = []
    with pytest.raises(BadRequest):
        Token.loads(token)


@pytest.mark.filterwarnings("ignore:The HMAC key")
def test_streams_that_version_5_handed_over_come_back(settings):
    claims = {"iss": "es", "exp": int(time.time()) - 5, "channels": ["a"], "user": "anonymous"}
    link = f"/events/?channel=a&link=next&recover=true&{TOKEN}="
    response = get(link + jwt.encode(claims, settings.SECRET_KEY))
    assert re.fullmatch(rb"retry: \d+\n\n", response.content)
    assert error_of(get(link + jwt.encode(claims, KEY)))["condition"] == "bad-request"


@pytest.mark.django_db
def test_token_is_nothing_without_a_proxy(django_user_model, settings):
    user = django_user_model.objects.create(username="ann")
    client = Client()
    client.force_login(user)
    link = next_link(get("/events/?channel=users-a", client))
    assert get(link)["Grip-Hold"] == "stream"
    # Without a proxy it is a stream without channels that comes.
    assert error_of(Client().get(link))["condition"] == "bad-request"


# The user, asked again


@pytest.mark.django_db
def test_user_is_loaded_afresh(django_user_model):
    user = django_user_model.objects.create(username="ann")
    client = Client()
    client.force_login(user)
    link = next_link(get("/events/?channel=users-a", client))
    last = {"Grip-Last": "events-users-a; last-id=0"}
    assert get(link, **last)["Grip-Hold"] == "stream"
    django_user_model.objects.update(is_active=False)
    assert error_of(get(link, **last)) == {
        "condition": "forbidden",
        "text": "Permission denied to channels: users-a",
        "channels": ["users-a"],
    }
    user.delete()
    assert error_of(get(link, **last))["channels"] == ["users-a"]


# The log cannot be read


@pytest.mark.django_db
def test_held_stream_waits_while_the_log_cannot_be_read_then_comes_back(monkeypatch):
    link = next_link(get("/events/?channel=a%25"))
    send_event("a%", "message", 1)
    last = {"Grip-Last": "events-a%25; last-id=0"}
    now = time.time()
    with monkeypatch.context() as patch:
        patch.setattr(DjangoModelStorage, "poll", mock.Mock(side_effect=OperationalError))
        for seconds in (0, 10, 250):
            with mock.patch("time.time", return_value=now + seconds):
                response = get(link, **last)
            assert response.content == b""
            assert response["Grip-Hold"] == "stream"
            assert "events-a%25; prev-id=0; filter=build-id" in response["Grip-Channel"]
            assert int(response["Grip-Link"].rpartition("timeout=")[2]) < 20
            link = next_link(response)
        healed = link
        with mock.patch("time.time", return_value=now + 400):
            response = get(link, **last)
        assert re.fullmatch(rb"retry: \d+\n\n", response.content)
        assert not response.has_header("Grip-Hold")
        assert not response.has_header("Grip-Link")
        # One that opens does not wait.
        assert re.fullmatch(rb"retry: \d+\n\n", get("/events/?channel=a").content)
    response = get(healed, **last)
    assert response.content == b"event: message\nid: a%%25:1\ndata: 1\n\n"
    assert int(response["Grip-Link"].rpartition("timeout=")[2]) >= 300


@pytest.mark.django_db(transaction=True)
def test_opening_stream_sends_what_a_killed_sender_left_behind(proxy):
    storage = DjangoModelStorage()
    with transaction.atomic():
        storage.append_event("left", "message", "1")
        storage.append_event("elsewhere", "message", "2")
    get("/events/?channel=left")
    wait_until(lambda: len(proxy.items) == 2)
    assert {item["channel"] for item in proxy.items} == {"events-left", "events-elsewhere"}


# Who is a proxy


def sign(key, **claims):
    return jwt.encode({"exp": int(time.time()) + 60, **claims}, key, algorithm="HS256")


@pytest.mark.django_db
@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")
@pytest.mark.parametrize(
    "configure",
    [
        lambda uri: {"GRIP_URL": f"{uri}?iss=realm&key=base64:{_base64(KEY)}"},
        lambda uri: {"GRIP_URL": f"{uri}?key={KEY.decode()}"},
        lambda uri: {"GRIP_URL": f"{uri}?verify-key={KEY.decode()}"},
        lambda uri: {"GRIP_URL": uri, "GRIP_VERIFY_KEY": KEY.decode()},
        lambda uri: {"GRIP_URL": None, "GRIP_PROXIES": [{"control_uri": uri, "key": KEY}]},
        lambda uri: {"GRIP_URL": None, "GRIP_PROXIES": [{"control_uri": uri, "verify_key": KEY}]},
    ],
)
def test_only_who_signs_is_believed(settings, proxy, configure):
    for name, value in configure(proxy.uri).items():
        setattr(settings, name, value)
    for _ in range(2):
        good = sign(KEY, iss="pushpin")
        assert get("/events/?channel=a", **{"Grip-Sig": good}).has_header("Grip-Hold")
    for bad in (
        "x",
        "",
        good[:-2],
        sign(b"another key, which is as long as this"),
        sign(KEY, exp=int(time.time()) - 5),
        jwt.encode({"iss": "pushpin"}, KEY, algorithm="HS256"),
        jwt.encode({"exp": int(time.time()) + 60}, None, algorithm="none"),
    ):
        response = get("/events/?channel=a", **{"Grip-Sig": bad})
        assert error_of(response)["condition"] == "internal-error"


def _base64(key):
    from base64 import b64encode

    return b64encode(key).decode()


# Publishing


def publish(*messages):
    broker = grip_broker.GripBroker()
    for message in messages:
        broker.publish(enclose(message), wait=True)
    broker.close()


def test_published_events_have_the_form_of_the_protocol(proxy):
    publish(
        Published(Event("a b%", "t%", "1%\n2", 7, frozenset({"5", "x,y"}))),
        Published(Event("loose", "t%", "1%")),
    )
    assert proxy.requests[0][0] == "/publish/"
    assert proxy.items == [
        {
            "channel": "events-a%20b%25",
            "id": "7",
            "prev-id": "6",
            "meta": {"skip_users": "5,x%2Cy"},
            "http-stream": {
                "content": "event: t%%\nid: %I\ndata: 1%%\ndata: 2\n\n",
                "content-filters": ["build-id"],
            },
        },
        {"channel": "events-loose", "http-stream": {"content": "event: t%\ndata: 1%\n\n"}},
    ]


def test_kick_is_an_error_then_a_close(proxy):
    publish(Revoked("7", "a b%"), Revoked(None, "a b%"))
    first, end, *others = proxy.items
    assert first["channel"] == end["channel"] == "user-7"
    assert first["meta"] == end["meta"] == {"require_sub": "events-a%20b%25"}
    assert end["prev-id"] == first["id"]
    assert end["http-stream"] == {"action": "close"}
    assert first["http-stream"]["content"] == (
        "event: stream-error\nid: error\n"
        'data: {"condition": "forbidden", "text": "Permission denied to channels: a b%", '
        '"channels": ["a b%"]}\n\n'
    )
    assert {item["channel"] for item in others} == {"user-anonymous"}
    assert len({item["id"] for item in proxy.items}) == 4


@pytest.mark.django_db
def test_senders_and_kicks_reach_the_proxy(proxy, django_user_model):
    user = django_user_model.objects.create(username="ann", is_active=False)
    send_event("a", "message", 1, async_publish=False)
    send_event("loose-a", "message", 2, async_publish=False)
    channel_permission_changed(AnonymousUser(), "users-a")
    channel_permission_changed(user, "a")  # which is public, but not for the inactive
    wait_until(lambda: len(proxy.items) == 6)
    assert [item["channel"] for item in proxy.items] == [
        *("events-a", "events-loose-a", "user-anonymous", "user-anonymous"),
        *(f"user-{user.pk}", f"user-{user.pk}"),
    ]


@pytest.mark.django_db(transaction=True)
def test_sender_in_a_transaction_waits_after_the_commit(proxy):
    with transaction.atomic():
        send_event("a", "message", 1, async_publish=False)
        send_event("loose-a", "message", 2, async_publish=False)
        assert not proxy.requests
    assert [item["channel"] for item in proxy.items] == ["events-a", "events-loose-a"]


def test_publishing_carries_the_token_that_the_proxy_demands(settings, proxy):
    proxy.key, proxy.issuer = KEY, "your-realm"
    for url in (
        f"{proxy.uri}/realm/your-realm?iss=your-realm&key=base64:{_base64(KEY)}",
        f"{proxy.uri}/realm/your-realm/?iss=your-realm&key={KEY.decode()}",
    ):
        settings.GRIP_URL = url
        publish(Published(Event("a", "message", "1")))
        assert proxy.requests.pop() == ("/realm/your-realm/publish/", mock.ANY)
    settings.GRIP_URL = f"{proxy.uri}/realm/your-realm?iss=your-realm&key=wrong-{KEY.decode()}"
    publish(Published(Event("a", "message", "1")))
    assert not proxy.requests


def test_key_without_an_issuer_is_the_token_itself(settings, proxy):
    settings.GRIP_URL = f"{proxy.uri}?key=secret"
    with mock.patch.object(proxy, "_believes", return_value=True) as believes:
        proxy.key = b"any"
        publish(Published(Event("a", "message", "1")))
    believes.assert_called_with("Bearer secret")


def test_redirect_is_no_success(proxy):
    proxy.mode, proxy.status = "fail", 302
    carrier = grip_broker.HttpProxy({"control_uri": proxy.uri})
    with pytest.raises(Unreachable, match="status 302"):
        carrier.carry([enclose(Published(Event("a", "message", "1")))])


def test_secrets_stay_out_of_messages():
    config = {"control_uri": "http://user:secret@127.0.0.1:9/?token=secret", "key": "secret"}
    carrier = grip_broker.HttpProxy(config)
    with pytest.raises(Unreachable) as raised:
        carrier.carry([enclose(Published(Event("a", "message", "1")))])
    assert "secret" not in f"{carrier.name} {raised.value}"
    assert "refused" in str(raised.value)
    assert not raised.value.sent


def test_proxy_that_is_named_twice_gets_things_once(settings, proxy):
    settings.GRIP_PROXIES = [{"control_uri": proxy.uri}]
    publish(Published(Event("a", "message", "1")))
    assert len(proxy.items) == 1


def test_each_proxy_gets_everything(settings, proxy):
    with control() as other:
        settings.GRIP_PROXIES = [{"control_uri": other.uri}]
        publish(Published(Event("a", "message", "1")))
        assert len(proxy.items) == len(other.items) == 1
        assert len(settings.GRIP_PROXIES) == 1


# The outbox


class Carrier:
    """A proxy that does as it is told."""

    name = "The proxy"

    def __init__(self):
        self.carried, self.lost = [], []
        self.error = None
        self.tried = threading.Semaphore(0)

    def carry(self, envelopes):
        messages = [envelope.message for envelope in envelopes]
        self.tried.release()
        error = self.error(messages) if callable(self.error) else self.error
        if error:
            raise error
        self.carried += messages

    def tell_losses(self, lost):
        if self.error and not callable(self.error):
            raise self.error
        self.lost.append(dict(lost))

    def probe(self):
        if self.error:
            raise self.error if not callable(self.error) else self.error([])


def event(n, channel="a", data="", event_id=None):
    return Published(Event(channel, "message", data, event_id if event_id != 0 else n))


@pytest.fixture
def carrier(monkeypatch):
    monkeypatch.setattr("django_eventstream.brokers.outbox.FIRST_PAUSE", 0.01)
    return Carrier()


def test_messages_keep_their_order_and_go_in_batches(carrier):
    outbox = Outbox(carrier)
    messages = [event(n, event_id=n) for n in range(1, 1000)]
    last = [outbox.put(enclose(message)) for message in messages][-1]
    last.result(10)
    assert carrier.carried == messages


def test_gap_is_nothing_for_a_proxy(carrier):
    Outbox(carrier).put(enclose(Gap())).result(1)
    assert carrier.carried == []


def test_what_waits_is_carried_once_the_proxy_is_back_and_the_log_tells_once(carrier, caplog):
    carrier.error = Unreachable("it is down")
    outbox = Outbox(carrier)
    messages = [event(n, event_id=n) for n in range(1, 6)]
    for message in messages:
        outbox.put(enclose(message)).result(5)  # nobody waits for a proxy that is down
    for _ in range(4):
        carrier.tried.acquire(timeout=5)
    carrier.error = None
    wait_until(lambda: carrier.carried == messages)
    outbox.flush(5)
    assert [record.message for record in caplog.records] == [
        "The proxy cannot be reached, trying again: it is down",
        "The proxy can be reached again.",
    ]
    assert carrier.lost == []


def test_what_finds_no_room_is_told_as_lost(carrier, monkeypatch):
    monkeypatch.setattr("django_eventstream.brokers.outbox.CAPACITY", 3)
    carrier.error = Unreachable("it is down")
    outbox = Outbox(carrier)
    outbox.put(enclose(event(1, "held"))).result(5)
    for n in range(1, 7):
        outbox.put(
            enclose(event(n, "reliable" if n % 2 else "loose", event_id=n if n % 2 else None))
        )
    carrier.error = None
    outbox.flush(5)
    assert [m.event.channel for m in carrier.carried] == ["held", "loose", "reliable", "loose"]
    assert carrier.lost == [{"reliable": True, "loose": False}]


def test_many_losses_are_told_in_parts(carrier, monkeypatch):
    monkeypatch.setattr("django_eventstream.brokers.outbox.CAPACITY", 300)
    carrier.error = Unreachable("it is down")
    outbox = Outbox(carrier)
    outbox.put(enclose(event(1, "held"))).result(5)
    for n in range(1000):
        outbox.put(enclose(event(n, f"c{n}", event_id=None)))
    carrier.error = None
    outbox.flush(10)
    assert [len(lost) for lost in carrier.lost] == [100, 100, 100]
    assert len(carrier.carried) == 301


def test_thread_that_cannot_be_started_is_started_by_the_next_message(carrier, monkeypatch):
    outbox = Outbox(carrier)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", mock.Mock(side_effect=RuntimeError("no thread")))
        with pytest.raises(RuntimeError):
            outbox.put(enclose(event(1)))
    outbox.put(enclose(event(2))).result(5)
    assert len(carrier.carried) == 2


def test_forked_child_ends_whatever_the_parents_threads_held(carrier):
    outbox = Outbox(carrier)
    outbox.put(enclose(event(1))).result(5)
    with outbox._changed:
        child = os.fork()
        if not child:
            multiprocessing.util._run_finalizers(0)  # as at the end of a process
            os._exit(0)
    wait_until(lambda: os.waitpid(child, os.WNOHANG)[0])


def test_kick_always_finds_room(carrier, monkeypatch):
    monkeypatch.setattr("django_eventstream.brokers.outbox.CAPACITY", 2)
    carrier.error = Unreachable("it is down")
    outbox = Outbox(carrier)
    outbox.put(enclose(event(1, "held"))).result(5)
    kick = Revoked("7", "a")
    for message in (kick, event(1, "b"), event(2, "c")):
        outbox.put(enclose(message))
    carrier.error = None
    outbox.flush(5)
    assert carrier.carried[1:] == [kick, event(2, "c")]


def test_large_messages_have_a_limit_of_their_own(carrier, monkeypatch):
    monkeypatch.setattr("django_eventstream.brokers.outbox.MAX_SIZE", 1000)
    carrier.error = Unreachable("it is down")
    outbox = Outbox(carrier)
    outbox.put(enclose(event(1, "held"))).result(5)
    for channel in "abc":
        outbox.put(enclose(event(1, channel, "x" * 600)))
    carrier.error = None
    outbox.flush(5)
    assert [m.event.channel for m in carrier.carried] == ["held", "c"]
    assert carrier.lost == [{"a": False, "b": False}]


def test_what_may_have_been_taken_is_repeated_only_where_that_is_seen(carrier):
    carrier.error = Unreachable("no answer", sent=True)
    outbox = Outbox(carrier)
    messages = [event(1, event_id=1), event(1, "loose"), Revoked("7", "a")]
    with outbox._changed:  # so that all go at once
        taken = [outbox.put(enclose(message)) for message in messages]
    for future in taken:
        future.result(5)
    carrier.error = None
    outbox.flush(5)
    assert messages[0] in carrier.carried
    assert messages[2] in carrier.carried
    assert messages[1] not in carrier.carried
    assert carrier.lost == [{"loose": False}]


def test_what_is_refused_keeps_nothing_else_back(carrier, caplog):
    def refuse(messages):
        return Refused("too large") if any(m.event.data == "large" for m in messages) else None

    carrier.error = refuse
    outbox = Outbox(carrier)
    messages = [event(n, f"c{n}", "large" if n == 3 else "", n) for n in range(1, 6)]
    with outbox._changed:  # so that all go at once
        taken = [outbox.put(enclose(message)) for message in messages]
    for future in taken:
        future.result(5)
    outbox.flush(5)
    assert carrier.carried == [m for m in messages if m.event.data != "large"]
    assert carrier.lost == [{"c3": True}]
    assert "refused channel 'c3': too large" in caplog.text


def test_bug_of_a_carrier_ends_nothing(carrier, caplog):
    carrier.error = lambda messages: ZeroDivisionError("a bug") if len(messages) else None
    outbox = Outbox(carrier)
    outbox.put(enclose(event(1))).result(5)
    carrier.error = None
    outbox.put(enclose(event(2))).result(5)
    outbox.flush(5)
    assert [m.event.id for m in carrier.carried] == [None]
    assert "a bug" in caplog.text


def test_closed_outbox_lets_go_of_everything(carrier):
    carrier.error = Unreachable("it is down")
    outbox = Outbox(carrier)
    outbox.put(enclose(event(1, "held"))).result(5)
    thread = outbox._thread
    waiting = outbox.put(enclose(event(2, "b")))
    outbox.close()
    thread.join(5)
    assert not thread.is_alive()
    assert waiting.done()
    outbox.flush(5)
    assert carrier.carried == []


def test_thread_ends_when_there_is_nothing_to_do_and_begins_again(carrier, monkeypatch):
    monkeypatch.setattr("django_eventstream.brokers.outbox.IDLE_TIME", 0.01)
    outbox = Outbox(carrier)
    for n in range(3):
        outbox.put(enclose(event(n))).result(5)
        wait_until(lambda: outbox._thread is None)
    assert len(carrier.carried) == 3


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_that_end_have_their_events_published(proxy, method):
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "EVENTSTREAM_TEST_GRIP_URL": proxy.uri,
    }
    command = [sys.executable, "-m", "tests.project.children", method]
    root = Path(__file__).parent.parent
    subprocess.run(command, env=environment, cwd=root, check=True, timeout=60)
    contents = sorted(item["http-stream"]["content"] for item in proxy.items)
    assert [content.count("child") for content in contents] == [1, 0]


# Settings


def test_settings_that_cannot_be_read_are_found(settings):
    from django_eventstream.checks import check_settings

    assert check_settings() == []
    for value in ("localhost:5561", "nonsense", 7, "http://a?key=base64:x"):
        settings.GRIP_URL = value
        [error] = check_settings()
        assert error.id == "django_eventstream.E007"
        assert "GRIP_URL" in error.msg
    settings.GRIP_URL = None
    for proxies in ([{"key": "x"}], ({"control_uri": "http://a"},), [7], "http://a"):
        settings.GRIP_PROXIES = proxies
        assert [error.id for error in check_settings()] == ["django_eventstream.E007"]


def test_sender_is_not_failed_by_settings_that_cannot_be_read(settings, caplog):
    settings.GRIP_URL = "nonsense"
    send_event("loose-a", "message", 1)
    assert "not configured correctly" in caplog.text
    response = get("/events/?channel=loose-a")
    assert error_of(response)["condition"] == "internal-error"


def test_other_settings_are_checked(settings):
    from django_eventstream.checks import check_settings

    settings.GRIP_PREFIX = "a,b"
    settings.EVENTSTREAM_CHANNEL_LIMIT = 20
    assert [check.id for check in check_settings()] == [
        "django_eventstream.E008",
        "django_eventstream.W004",
    ]
    settings.GRIP_PREFIX = "shop:"
    settings.EVENTSTREAM_CHANNEL_LIMIT = 19
    assert check_settings() == []
    settings.MIDDLEWARE = [grip_broker.LOGIN_REQUIRED]
    assert [check.id for check in check_settings()] == ["django_eventstream.W005"]
