"""Streams as views of Django REST framework, with the project's own authentication."""

import json
import subprocess
import sys

import pytest
from django.contrib.auth.models import User
from django.core.handlers.base import BaseHandler
from django.urls import include, path, reverse
from rest_framework.authentication import BaseAuthentication
from rest_framework.decorators import api_view, renderer_classes
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import IsAuthenticated
from rest_framework.renderers import JSONRenderer
from rest_framework.response import Response
from rest_framework.routers import DefaultRouter
from rest_framework.views import APIView

from django_eventstream import asend_event
from django_eventstream.renderers import BrowsableAPIEventStreamRenderer, SSEEventRenderer
from django_eventstream.views import events
from django_eventstream.viewsets import EventsViewSet, configure_events_view_set
from tests.core.sseparser import SSEParser

HOSTILE = "</script><img src=x onerror=alert(1)>\"'"


class NameAuthentication(BaseAuthentication):
    """``Authorization: Name NAME`` is all it takes."""

    def authenticate(self, request):
        scheme, _, name = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Name":
            return None
        user = User.objects.filter(username=name).first()
        if user is None:
            raise AuthenticationFailed("No such user.")
        return user, None

    def authenticate_header(self, request):
        return "Name"


class Members(EventsViewSet):
    authentication_classes = (NameAuthentication,)
    permission_classes = (IsAuthenticated,)
    channels = ("users-news",)


class ByName(EventsViewSet):
    authentication_classes = (NameAuthentication,)


class Inherited(EventsViewSet):
    """As 5.3.4's users subclass it."""

    def __init__(self, *args, **kwargs):
        super().__init__(channels=["inherited"], messages_types=["info"], *args, **kwargs)  # noqa: B026


class WithJSON(EventsViewSet):
    renderer_classes = (BrowsableAPIEventStreamRenderer, JSONRenderer, SSEEventRenderer)


class Ordinary(APIView):
    renderer_classes = (BrowsableAPIEventStreamRenderer, SSEEventRenderer)

    def get(self, request):
        return Response(json.loads(request.GET["data"]))


router = DefaultRouter()
router.register("free", EventsViewSet, basename="free")
router.register("news", configure_events_view_set(channels=["news", "extra"]), basename="news")
router.register(
    "sports", configure_events_view_set(["sports"], messages_types=["goal", "foul"]), "sports"
)
router.register("hostile", configure_events_view_set([HOSTILE], [HOSTILE]), "hostile")
router.register("instance", EventsViewSet(channels=["instance"]), basename="instance")
router.register("inherited", Inherited, basename="inherited")
router.register("inherited-instance", Inherited(), basename="inherited-instance")
router.register("members", Members, basename="members")
router.register("by-name", ByName, basename="by-name")
router.register("with-json", WithJSON, basename="with-json")


@api_view(["GET"])
@renderer_classes([SSEEventRenderer])
def own_view(request):
    """A view of a project's own that calls the endpoint's."""
    return events(request, channels=["news"])


urlpatterns = [
    path("api/", include(router.urls)),
    path("own/", own_view),
    path("ordinary/", Ordinary.as_view()),
]

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def project(rest_framework_project):
    return rest_framework_project


async def read(response, count=1):
    """Return the first events of a stream, and leave."""
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/event-stream"
    parser = SSEParser(strict=True)
    events = []
    chunks = response.streaming_content
    try:
        while len(events) < count:
            events += parser.feed(await anext(chunks))
    finally:
        await chunks.aclose()
        response.close()
    return events


async def opened_channels(response):
    """Return the channels of a stream, by the positions that it starts from."""
    event = (await read(response))[0]
    assert event.type == "stream-open"
    return [position.rpartition(":")[0] for position in event.last_event_id.split(",")]


def error_of(response):
    """Return the condition of a stream that was refused."""
    body = b"".join(response)
    assert body.startswith(b"event: stream-error\nid: error\ndata: ")
    return json.loads(body.split(b"data: ")[1])["condition"]


@pytest.mark.parametrize(
    ("url", "channels"),
    [
        ("/api/free/?channels=a,b", ["a", "b"]),
        ("/api/free/?channels=a&channels=b,c", ["a", "b", "c"]),
        ("/api/free/a%20b/", ["a%20b"]),
        ("/api/free/a/?messages_types=info", ["a"]),
        ("/api/news/", ["extra", "news"]),
        ("/api/news/?messages_types=info", ["extra", "news"]),
        ("/api/sports/", ["sports"]),
        ("/api/instance/", ["instance"]),
        ("/api/inherited/", ["inherited"]),
        ("/api/inherited-instance/", ["inherited"]),
    ],
)
async def test_channels_come_from_the_view_the_path_or_the_query(async_client, url, channels):
    assert await opened_channels(await async_client.get(url)) == channels


@pytest.mark.parametrize(
    ("url", "parameter"),
    [
        ("/api/news/?channels=other", "channels"),
        ("/api/news/other/", "channels"),
        ("/api/free/a/?channels=b", "channels"),
        ("/api/sports/?messages_types=info", "messages_types"),
        ("/api/inherited/?messages_types=info", "messages_types"),
        ("/api/inherited/other/", "channels"),
    ],
)
@pytest.mark.parametrize("accept", ["text/event-stream", "*/*", "text/html"])
async def test_naming_channels_or_types_twice_is_answered_with_400(
    async_client, url, parameter, accept
):
    response = await async_client.get(url, headers={"accept": accept, "origin": "http://a.test"})
    assert response.status_code == 400
    if accept == "text/html":
        assert f"Conflicting {parameter}" in response.text
        assert "eventstream-events" not in response.text
    else:
        assert response.headers["Content-Type"] == "application/json"
        assert list(response.json()) == ["error"]
        assert f"Conflicting {parameter}" in response.json()["error"]
        assert response.headers["Access-Control-Allow-Origin"] == "*"


async def test_configured_view_sets_share_nothing(async_client):
    first = configure_events_view_set(channels=["a"], messages_types=["x"])
    second = configure_events_view_set(channels=["b"])
    first().channels.append("of one request")
    assert (first.channels, first.messages_types) == (["a"], ["x"])
    assert (first().channels, first().messages_types) == (["a"], ["x"])
    assert (second().channels, second().messages_types) == (["b"], [])
    assert (EventsViewSet().channels, EventsViewSet().messages_types) == ([], [])
    # Neither do requests: what one selects, the next one does not get.
    assert await opened_channels(await async_client.get("/api/free/?channels=a")) == ["a"]
    assert error_of(await async_client.get("/api/free/")) == "bad-request"


def test_text_in_place_of_a_list_of_names_raises():
    with pytest.raises(TypeError, match="channels must be a list of names, not the text 'news'"):
        configure_events_view_set(channels="news")
    with pytest.raises(TypeError, match="messages_types must be a list"):
        EventsViewSet(messages_types="info")


async def test_events_arrive(async_client):
    response = await async_client.get("/api/news/", headers={"accept": "text/event-stream"})
    await response.streaming_content.__anext__()  # now it is open
    await asend_event("news", "info", {"text": "hello"})
    resumed = await async_client.get(
        "/api/news/", headers={"accept": "text/event-stream", "last-event-id": "news:0"}
    )
    response.close()
    event = (await read(resumed, 2))[1]
    assert (event.type, event.data) == ("info", '{"text": "hello"}')
    for name in ("Cache-Control", "X-Accel-Buffering"):
        assert resumed.headers[name] == {
            "Cache-Control": "no-cache, no-transform",
            "X-Accel-Buffering": "no",
        }.get(name)


def test_urls_have_names():
    assert reverse("news-list") == "/api/news/"
    assert reverse("free-channel", kwargs={"channel": "a"}) == "/api/free/a/"


# Formats


@pytest.mark.parametrize(
    "accept", ["text/html", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"]
)
async def test_browsers_get_the_page(async_client, accept):
    response = await async_client.get(
        "/api/sports/", headers={"accept": accept, "origin": "http://a.test"}
    )
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert 'data-url="/api/sports/"' in response.text
    assert 'data-types="[&quot;goal&quot;, &quot;foul&quot;]"' in response.text
    assert "reconnecting-eventsource.js" in response.text
    # It holds a CSRF token, which is not for other sites.
    assert "Access-Control-Allow-Origin" not in response.headers


async def test_page_listens_to_message_events_by_default(async_client):
    response = await async_client.get("/api/free/?channels=a,b&format=api_sse")
    assert 'data-url="/api/free/?channels=a%2Cb"' in response.text
    assert 'data-types="[&quot;message&quot;]"' in response.text
    assert "<code>a</code> <code>b</code>" in response.text


async def test_page_escapes_channels_and_types(async_client):
    for url in ("/api/hostile/", "/api/free/?channels=<img>&messages_types=<img>&x=<img>"):
        response = await async_client.get(url, headers={"accept": "text/html"})
        assert response.status_code == 200
        assert "<img" not in response.text
        assert "&lt;img" in response.text


@pytest.mark.parametrize("accept", [None, "*/*", "text/*", "text/event-stream"])
@pytest.mark.parametrize("url", ["/api/news/", "/api/with-json/?channels=a", "/own/"])
async def test_others_get_the_stream(async_client, url, accept):
    headers = {"accept": accept} if accept else {}
    await read(await async_client.get(url, headers=headers))


async def test_format_parameter_selects_the_stream(async_client):
    response = await async_client.get(
        "/api/news/?format=text/event-stream", headers={"accept": "*/*"}
    )
    await read(response)


@pytest.mark.parametrize("url", ["/api/news/", "/api/with-json/?channels=a"])
async def test_other_formats_are_not_acceptable(async_client, url):
    response = await async_client.get(url, headers={"accept": "application/json"})
    assert response.status_code == 406
    assert response.headers["Content-Type"] == "application/json"
    assert "detail" in response.json()
    response = await async_client.get("/api/news.xml")
    assert response.status_code == 404


@pytest.mark.parametrize("method", ["post", "put", "delete", "head"])
async def test_other_methods_are_not_allowed(async_client, method):
    response = await getattr(async_client, method)(
        "/api/news/", headers={"origin": "http://a.test"}
    )
    assert response.status_code == 405
    assert response.headers["Allow"] == "GET, OPTIONS"
    assert response.headers["Access-Control-Allow-Origin"] == "*"


PLAIN = ["rest_framework.renderers.JSONRenderer"]
OURS = "django_eventstream.renderers."


@pytest.mark.parametrize(
    ("renderers", "page"),
    [
        (PLAIN, 406),
        ([*PLAIN, OURS + "SSEEventRenderer"], 406),
        ([*PLAIN, OURS + "BrowsableAPIEventStreamRenderer"], 200),
        ([*PLAIN, OURS + "BrowsableAPIEventStreamRenderer", OURS + "SSEEventRenderer"], 200),
    ],
)
async def test_project_that_lists_renderers_decides_about_the_page(
    async_client, project, renderers, page
):
    project.REST_FRAMEWORK = {"DEFAULT_RENDERER_CLASSES": renderers}
    response = await async_client.get("/api/news/", headers={"accept": "text/html"})
    assert response.status_code == page
    await read(await async_client.get("/api/news/", headers={"accept": "*/*"}))


async def test_renderers_show_other_data_of_other_views(async_client):
    url = "/ordinary/?data=%s"
    response = await async_client.get(url % '["<b>"]', headers={"accept": "text/html"})
    assert response.status_code == 200
    assert "eventstream-events" not in response.text
    assert "&lt;b&gt;" in response.text
    stream = {"accept": "text/event-stream"}
    for data, body in [('{"a": "b"}', b'data: {"a":"b"}\n\n'), ('"text"', b"text"), ("null", b"")]:
        response = await async_client.get(url % data, headers=stream)
        assert response.content == body
    assert SSEEventRenderer().render(b"bytes") == b"bytes"


# Who may


async def test_permission_classes_apply(async_client):
    await User.objects.acreate(username="ann")
    anonymous = await async_client.get("/api/members/", headers={"origin": "http://a.test"})
    assert anonymous.status_code == 401
    assert anonymous.headers["WWW-Authenticate"] == "Name"
    assert anonymous.headers["Content-Type"] == "application/json"
    assert anonymous.headers["Access-Control-Allow-Origin"] == "*"
    page = await async_client.get("/api/members/", headers={"accept": "text/html"})
    assert page.status_code == 401
    assert "eventstream-events" not in page.text
    ann = {"authorization": "Name ann"}
    assert await opened_channels(await async_client.get("/api/members/", headers=ann)) == [
        "users-news"
    ]


async def test_channel_manager_gets_the_user_of_the_framework(async_client):
    await User.objects.acreate(username="ann")
    url = "/api/by-name/?channels=users-news"
    assert error_of(await async_client.get(url)) == "forbidden"
    ann = {"authorization": "Name ann"}
    assert await opened_channels(await async_client.get(url, headers=ann)) == ["users-news"]
    unknown = await async_client.get(url, headers={"authorization": "Name bob"})
    assert unknown.status_code == 401


async def test_preflights_need_no_authentication(async_client):
    response = await async_client.options(
        "/api/members/",
        headers={"origin": "http://a.test", "access-control-request-method": "GET"},
    )
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Methods"] == "GET, OPTIONS"
    assert "Authorization" in response.headers["Access-Control-Allow-Headers"]


async def test_streams_run_outside_of_the_transaction_of_a_request(async_client, settings):
    settings.DATABASES["default"]["ATOMIC_REQUESTS"] = True
    try:
        await read(await async_client.get("/api/news/"))
        view = EventsViewSet.as_view({"get": "list"})
        assert BaseHandler().make_view_atomic(view) is view
    finally:
        settings.DATABASES["default"]["ATOMIC_REQUESTS"] = False


# Without the framework


@pytest.mark.slow
@pytest.mark.parametrize("module", ["django_eventstream.renderers", "django_eventstream.viewsets"])
def test_import_without_the_framework_names_the_extra(module):
    script = f"""
import sys
sys.modules["rest_framework"] = None
import django
django.setup()
import {module}
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "ImportError: django_eventstream's renderers and viewsets need" in done.stderr
    assert "pip install django-eventstream[drf]" in done.stderr


@pytest.mark.slow
def test_package_does_not_import_the_framework():
    script = """
import sys
import django
django.setup()
import django_eventstream
from django_eventstream import urls, views
assert not any(name.startswith("rest_framework") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
