"""``{% load eventstream %}``."""

from __future__ import annotations

import asyncio
import functools
import json
import re
import threading
from html.parser import HTMLParser
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import django
import pytest
from django.contrib.auth.models import AnonymousUser, Group
from django.core.exceptions import SynchronousOnlyOperation
from django.core.management import call_command
from django.db import connection, transaction
from django.http import HttpResponse
from django.template import Context, RequestContext, Template, TemplateSyntaxError
from django.test import RequestFactory
from django.test.utils import override_script_prefix
from django.urls import NoReverseMatch, include, path, re_path
from django.utils.functional import SimpleLazyObject

import django_eventstream
from django_eventstream import get_current_event_id, send_event
from django_eventstream.lasteventid import parse_last_event_id
from django_eventstream.storage import get_storage
from tests.core.sseparser import ParsedEvent
from tests.processes import serve
from tests.project.channelmanager import AsyncChannelManager
from tests.project.views import add_group


@pytest.fixture(autouse=True)
def templates(settings):
    settings.TEMPLATES = [
        {"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}
    ]


def render(source, request=None, /, **variables):
    source = "{% load eventstream %}" + source
    context = Context(variables) if request is None else RequestContext(request, variables)
    return Template(source).render(context)


class Elements(HTMLParser):
    """The elements of a piece of HTML, as a browser reads them."""

    def __init__(self, html):
        super().__init__()
        self.found = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append(SimpleNamespace(tag=tag, attributes=dict(attrs), text=""))

    def handle_data(self, data):
        if self.found and data.strip():
            self.found[-1].text += data


def elements(html):
    return Elements(html).found


# The scripts


@pytest.fixture
def static(settings):
    settings.STATIC_URL = "/static/"


@pytest.mark.usefixtures("static")
class TestScripts:
    def test_classic_scripts_come_in_order(self):
        assert render("{% eventstream_scripts %}") == (
            '<script src="/static/django_eventstream/eventsource.min.js"></script>\n'
            '<script src="/static/django_eventstream/reconnecting-eventsource.js"></script>'
        )

    def test_they_can_be_deferred(self):
        for script in elements(render("{% eventstream_scripts defer=True %}")):
            assert "defer" in script.attributes

    def test_module_gets_its_name_before_it_is_loaded(self):
        import_map, preload = elements(render('{% eventstream_scripts "module" %}'))
        url = "/static/django_eventstream/eventstream.js"
        assert (import_map.tag, import_map.attributes) == ("script", {"type": "importmap"})
        assert json.loads(import_map.text) == {"imports": {"django-eventstream": url}}
        assert (preload.tag, preload.attributes) == ("link", {"rel": "modulepreload", "href": url})

    def test_both_kinds_can_be_had_at_once(self):
        html = render('{% eventstream_scripts "module" "classic" %}')
        module, classic = (
            render(f'{{% eventstream_scripts "{kind}" %}}') for kind in ("module", "classic")
        )
        assert html == f"{module}\n{classic}"

    def test_unknown_kind_is_refused(self):
        with pytest.raises(TemplateSyntaxError, match='"classic", "module" or both, not \'es\''):
            render('{% eventstream_scripts "es" %}')

    def test_hashed_names_are_those_of_the_manifest(self, settings, tmp_path):
        settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "django.contrib.staticfiles"]
        settings.STATIC_ROOT = tmp_path
        storage = "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"
        settings.STORAGES = {"staticfiles": {"BACKEND": storage}}
        call_command("collectstatic", interactive=False, verbosity=0)
        files = json.loads((tmp_path / "staticfiles.json").read_text())["paths"]
        import_map, preload, *classic = elements(
            render('{% eventstream_scripts "module" "classic" %}')
        )
        module = "/static/" + files["django_eventstream/eventstream.js"]
        assert json.loads(import_map.text)["imports"] == {"django-eventstream": module}
        assert preload.attributes["href"] == module
        assert [script.attributes["src"] for script in classic] == [
            "/static/" + files[f"django_eventstream/{name}"]
            for name in ("eventsource.min.js", "reconnecting-eventsource.js")
        ]
        assert re.search(r"eventstream\.[0-9a-f]{12}\.js$", module)

    def test_urls_are_escaped(self, settings):
        settings.STATIC_URL = 'https://cdn.example/?a="b"&c=</script><!--\'/'
        html = render('{% eventstream_scripts "module" "classic" %}')
        import_map, preload, *classic = elements(html)
        assert [script.tag for script in classic] == ["script", "script"]
        (url,) = json.loads(import_map.text)["imports"].values()
        assert preload.attributes["href"] == url
        assert url.endswith("django_eventstream/eventstream.js")
        assert not re.search("[<>&]", import_map.text)


def nonces(source, request=None, /, **variables):
    """Return the nonces of the elements."""
    return {
        element.attributes.get("nonce")
        for element in elements(render(source, request, **variables))
    }


BOTH = '{% eventstream_scripts "module" "classic" %}'


@pytest.mark.usefixtures("static")
class TestNonce:
    def test_without_a_policy_there_is_none(self):
        assert nonces(BOTH) == nonces(BOTH, RequestFactory().get("/")) == {None}

    def test_context_variable_is_taken_though_it_is_false(self):
        # As Django's is until it is used; it must become true by being used here.
        class Lazy(SimpleLazyObject):
            used = False

            def __bool__(self):
                return False

        assert nonces(BOTH, csp_nonce=Lazy(lambda: "abc")) == {"abc"}

    def test_requests_of_django_csp_have_one(self):
        request = RequestFactory().get("/")
        request.csp_nonce = SimpleLazyObject(lambda: "def")
        assert nonces(BOTH, request) == {"def"}
        # Without a context of its own, by the context processor's variable.
        assert nonces(BOTH, None, request=request) == {"def"}

    def test_argument_goes_first(self):
        request = RequestFactory().get("/")
        request.csp_nonce = "def"
        source = '{% eventstream_scripts "module" "classic" nonce=mine %}'
        assert nonces(source, request, csp_nonce="abc", mine='g"h<') == {'g"h<'}


if django.VERSION >= (6, 0):  # tox runs these
    from django.utils.csp import CSP

    @pytest.mark.usefixtures("static")
    @pytest.mark.parametrize("processor", [True, False])
    def test_djangos_own_policy_allows_the_elements(settings, client, processor):
        settings.ROOT_URLCONF = __name__
        settings.MIDDLEWARE = ["django.middleware.csp.ContentSecurityPolicyMiddleware"]
        settings.SECURE_CSP = {"script-src": [CSP.SELF, CSP.NONCE]}
        processors = ["django.template.context_processors.csp"] if processor else []
        settings.TEMPLATES[0]["OPTIONS"] = {"context_processors": processors}
        response = client.get("/scripts/")
        (nonce,) = {element.attributes["nonce"] for element in elements(response.content.decode())}
        assert f"'nonce-{nonce}'" in response.headers["Content-Security-Policy"]


# The URL


def scripts(request):
    return HttpResponse(Template("{% load eventstream %}" + BOTH).render(RequestContext(request)))


def decorated(view):
    @functools.wraps(view)
    def inner(*args, **kwargs):
        return view(*args, **kwargs)

    return inner


def elsewhere(request, **kwargs):
    return django_eventstream.views.events(request, channels=["elsewhere"])


urlpatterns = [
    path("news/", include(django_eventstream.urls), {"channels": ["news", "alerts"]}),
    path(
        "rooms/<int:room_id>/",
        include(django_eventstream.urls),
        {"format-channels": ["room-{room_id}", "rooms"]},
    ),
    re_path(r"^one/(?P<channel>[\w-]+)/", include(django_eventstream.urls)),
    path("of/<str:channel>/events/", django_eventstream.views.events, name="of-channel"),
    path(
        "spaced/",
        include((django_eventstream.urls.urlpatterns, "stream"), namespace="spaced"),
        {"channels": ["in-namespace"]},
    ),
    path("direct/", django_eventstream.views.events, {"channels": ["direct"]}, name="direct"),
    path("decorated/", decorated(django_eventstream.views.events), {"channels": ["d"]}, name="dec"),
    path("elsewhere/", elsewhere, name="elsewhere"),
    path("other/<str:channel>/", elsewhere, name="other"),
    path("events/", include(django_eventstream.urls)),
    path("scripts/", scripts),
    # A page of the project's with a name that comes to mind.
    path("stream/", scripts, name="eventstream"),
]


@pytest.fixture
def urls(settings, db):
    settings.ROOT_URLCONF = __name__
    settings.EVENTSTREAM_CHANNELMANAGER_CLASS = (
        "django_eventstream.channelmanager.DefaultChannelManager"
    )


def url(arguments, request=None, /, **variables):
    """Return what the tag gives, unescaped, as a list: path, channels, position."""
    found = render(
        f"{{% autoescape off %}}{{% eventstream_url {arguments} %}}{{% endautoescape %}}",
        request,
        **variables,
    )
    query = parse_qs(
        urlsplit(found).query, keep_blank_values=True, strict_parsing=bool("?" in found)
    )
    (position,) = query.pop("lastEventId", [None])
    channels = query.pop("channel", [])
    assert query == {}
    return [urlsplit(found).path, channels, position]


@pytest.mark.usefixtures("urls")
class TestUrl:
    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            # The package's own pattern, mounted more than once.
            ('channel="a"', ["/one/a/", [], "a:0"]),
            ('channel="a b"', ["/events/", ["a b"], "a%20b:0"]),
            ('channels="a,b"', ["/events/", ["a", "b"], "a:0,b:0"]),
            ('channels="news,alerts"', ["/news/", [], "alerts:0,news:0"]),
            ("room_id=7", ["/rooms/7/", [], "room-7:0,rooms:0"]),
            # In a namespace; mounted directly; decorated.
            ('"spaced:django_eventstream"', ["/spaced/", [], "in-namespace:0"]),
            ('"direct"', ["/direct/", [], "direct:0"]),
            ('"direct" channel="direct"', ["/direct/", [], "direct:0"]),
            ('"dec"', ["/decorated/", [], "d:0"]),
            ('"of-channel" channel="ä &"', ["/of/%C3%A4%20&/events/", [], "%C3%A4%20%26:0"]),
            ('"of-channel" "b"', ["/of/b/events/", [], "b:0"]),
            # Called by a view of the project's, which alone knows what it reads.
            ('"elsewhere" channel="x"', ["/elsewhere/", ["x"], "x:0"]),
            ('"other" channel="x"', ["/other/x/", [], "x:0"]),
            # By its path.
            ('"/news/"', ["/news/", [], "alerts:0,news:0"]),
            ('"/news/" channels="alerts,news"', ["/news/", [], "alerts:0,news:0"]),
            ('"/one/b/"', ["/one/b/", [], "b:0"]),
            ('"/events/?channel=x"', ["/events/", ["x"], "x:0"]),
            ('"/events/" channel="x"', ["/events/", ["x"], "x:0"]),
            # In the routes of Channels, or on another host.
            ('"/consumer/" channel="x"', ["/consumer/", ["x"], "x:0"]),
            ('"/consumer/" last_event_id="x:3"', ["/consumer/", [], "x:3"]),
            ('"https://b.example/news/" channel="x"', ["/news/", ["x"], "x:0"]),
            ('"//b.example/news/" channel="x"', ["/news/", ["x"], "x:0"]),
            # The view took the position.
            ('channel="a" last_event_id="a:3"', ["/one/a/", [], "a:3"]),
            ('"direct" last_event_id="direct:3"', ["/direct/", [], "direct:3"]),
        ],
    )
    def test_url_has_channels_and_position(self, arguments, expected):
        path, channels, position = url(arguments)
        if position:
            position = ",".join(sorted(position.split(",")))
        assert [path, channels, position] == expected

    def test_position_is_that_of_the_present(self):
        for _ in range(3):
            send_event("a", "message", 1)
        assert url('channel="a"') == ["/one/a/", [], "a:3"]

    def test_channels_may_be_a_list_or_any_other_iterable(self):
        names = ["a,b", "c", "c"]
        expected = ["/events/", ["a,b", "c"], "a%2Cb:0,c:0"]
        for channels in (names, tuple(names), dict.fromkeys(names), iter(names)):
            assert url("channels=channels", channels=channels) == expected

    @pytest.mark.parametrize("names", ["a, b,a", ",".join(["a", "b"] * 6), ["a", "b", "a"]])
    def test_channels_that_are_named_twice_are_asked_for_once(self, names):
        assert url("channels=names", names=names) == ["/events/", ["a", "b"], "a:0,b:0"]

    def test_numbers_may_name_channels(self):
        assert url("channels=names", names=[1, "1", 2]) == ["/events/", ["1", "2"], "1:0,2:0"]

    def test_host_and_query_are_kept(self):
        html = render(
            '{% eventstream_url "https://b.example:8/e/?k=%20&lastEventId=a:1&l#x" channel="a b" %}'
        )
        assert html == (
            "https://b.example:8/e/?k=%20&amp;l&amp;channel=a%20b&amp;lastEventId=a%2520b:0#x"
        )

    def test_pages_own_parameters_do_not_leak_in(self):
        request = RequestFactory().get("/page/?channel=secret&lastEventId=secret:5")
        assert url('channels="a,b"', request) == ["/events/", ["a", "b"], "a:0,b:0"]
        with pytest.raises(TemplateSyntaxError, match="does not know which channels"):
            url('"/events/"', request)

    def test_the_pages_request_is_left_as_it_was(self):
        request = RequestFactory().post("/page/?channel=secret", {"text": "hello"})
        before = dict(vars(request))
        url('channels="a,b"', request)
        assert (request.method, request.path, request.GET.dict()) == (
            "POST",
            "/page/",
            {"channel": "secret"},
        )
        assert before.items() <= vars(request).items()

    def test_mounts_under_a_prefix_are_found(self):
        with override_script_prefix("/below/"):
            assert url('channel="a"') == ["/below/one/a/", [], "a:0"]
            assert url('"/below/direct/"') == ["/below/direct/", [], "direct:0"]
            with pytest.raises(TemplateSyntaxError, match="does not know which channels"):
                url('"/direct/"')

    def test_the_namespace_of_the_page_is_the_current_one(self):
        request = RequestFactory().get("/page/")
        request.resolver_match = SimpleNamespace(namespace="spaced")
        assert url('"stream:django_eventstream"', request)[0] == "/spaced/"
        del request.resolver_match
        request.current_app = "spaced"
        request.resolver_match = None
        assert url('"stream:django_eventstream"', request)[0] == "/spaced/"

    def test_html_is_escaped_and_a_variable_is_not(self):
        html = render('<a href="{% eventstream_url channels="a,b" %}">')
        (link,) = elements(html)
        assert "&amp;" in html
        assert link.attributes["href"] == "/events/?channel=a&channel=b&lastEventId=a:0,b:0"
        html = render(
            '{% eventstream_url channels="a,b" as url %}{{ url|json_script:"url" }}{{ url|length }}'
        )
        script = elements(html)[0]
        assert (
            json.loads(script.text.partition("}")[0].rstrip("0123456789"))
            == (link.attributes["href"])
        )

    def test_names_of_channels_cannot_leave_an_attribute(self):
        html = render("<a href=\"{% eventstream_url '/e/' channel=name %}\">", name="\"><b>'&#")
        (link,) = elements(html)
        assert parse_qs(urlsplit(link.attributes["href"]).query)["channel"] == ["\"><b>'&#"]

    def test_unreliable_channels_have_no_position(self, settings):
        settings.EVENTSTREAM_CHANNELMANAGER_CLASS = "tests.project.channelmanager.ChannelManager"
        assert url('channels="a,loose-b"') == ["/events/", ["a", "loose-b"], "a:0"]
        assert url('channel="loose-b"') == ["/one/loose-b/", [], None]
        assert url('channel="loose-b" last_event_id=""') == ["/one/loose-b/", [], None]

    def test_without_storage_there_is_no_position(self, settings):
        settings.EVENTSTREAM_STORAGE_CLASS = None
        assert url('channel="a"') == ["/one/a/", [], None]
        assert url('"/news/"') == ["/news/", [], None]

    def test_asynchronous_channel_managers_are_asked(self, settings):
        settings.EVENTSTREAM_CHANNELMANAGER_CLASS = f"{__name__}.OfUser"
        request = RequestFactory().get("/page/")
        request.user = AnonymousUser()
        with override_script_prefix("/below/"):
            found = url('"/below/events/"', request)
        assert found == ["/below/events/", [], "user-None:0"]

    def test_on_an_event_loop_it_says_what_to_do(self):
        # As the rest of a template that reads the database.
        async def view():
            with pytest.raises(SynchronousOnlyOperation):
                url('channel="a"')

        asyncio.run(view())


class OfUser(AsyncChannelManager):
    async def get_channels_for_request(self, request, view_kwargs):
        assert request.method == "GET"
        assert (request.path, request.path_info) == ("/below/events/", "/events/")
        assert request.resolver_match.func is django_eventstream.views.events
        return [f"user-{request.user.pk}"]


@pytest.mark.usefixtures("urls")
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ('"nope"', NoReverseMatch, "'NAMESPACE:django_eventstream'.*mounted in Channels"),
        ('"nope:django_eventstream"', NoReverseMatch, "'nope' is not a registered namespace"),
        ('room_id="x"', NoReverseMatch, "'NAMESPACE:django_eventstream'"),
        ('"of-channel"', NoReverseMatch, "arguments of their URL pattern"),
        ('"/news/" room_id=7', TemplateSyntaxError, "only with the pattern's name"),
        ("missing", TemplateSyntaxError, "does the variable exist"),
        ("channel=missing", TemplateSyntaxError, "does the variable exist"),
        ("channels=missing", TemplateSyntaxError, "does the variable exist"),
        ("channels=empty", TemplateSyntaxError, "does the variable exist"),
        ('channel="a" channels="b"', TemplateSyntaxError, "channel= or channels=, not both"),
        ('channel="a" last_event_id=missing', TemplateSyntaxError, "empty last_event_id"),
        ('channel="a" last_event_id=5', TemplateSyntaxError, "Malformed Last-Event-ID '5'"),
        ('"elsewhere"', TemplateSyntaxError, "which channels '/elsewhere/' reads. Name them"),
        ('"/consumer/"', TemplateSyntaxError, "Name them"),
        ('"/news/" channel="a"', TemplateSyntaxError, r"reads the channels \['alerts', 'news'\]"),
        ("channels=many", TemplateSyntaxError, "11 channels, but .* at most 10"),
        ("channel=long", ValueError, "255"),
    ],
)
def test_error_names_the_remedy(arguments, error, message):
    with pytest.raises(error, match=message):
        url(arguments, empty=[], many=[f"c{n}" for n in range(11)], long="x" * 256)


# Joining a page and its stream


@pytest.mark.slow
@pytest.mark.parametrize(
    ("server", "application"), [("uvicorn", "application"), ("daphne", "through_channels")]
)
def test_page_and_stream_leave_no_gap(server, application, shared_database):
    channel = f"joined-{server}"
    with serve(server, application, database=shared_database) as site:
        site.send({"channel": channel, "event_type": "added", "data": "long ago"})
        status, _, html = site.request("GET", f"/joined/{channel}/")
        assert status == 200
        main, *shown = elements(html.decode())
        assert [element.text for element in shown] == [f"{channel}-between"]
        site.send({"channel": channel, "event_type": "added", "data": "after"})
        with site.open(main.attributes["data-url"]) as stream:
            opened, *events = stream.take(3)
    assert opened == ParsedEvent("stream-open", "", f"{channel}:1")
    # The first one the page has already, and knows by its name.
    assert [json.loads(event.data) for event in events] == [f"{channel}-between", "after"]


@pytest.mark.database
@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("urls")
def test_in_a_transaction_position_and_data_leave_no_gap():
    # At REPEATABLE READ both are of one picture, which may be older than the present.
    add_group("before", "groups")
    with transaction.atomic():
        assert Group.objects.count() == 1  # takes the picture
        thread = threading.Thread(target=add_and_disconnect, args=["meanwhile"])
        if connection.vendor != "sqlite":  # where the writer may have to wait for this reader
            thread.start()
            thread.join()
        position = url('channel="groups"')[2]
        shown = set(Group.objects.values_list("name", flat=True))
    if connection.vendor == "sqlite":
        thread.start()
        thread.join()
    (number,) = parse_last_event_id(position).values()
    events = get_storage().get_events("groups", number)
    assert shown | {json.loads(event.data) for event in events} == {"before", "meanwhile"}
    assert get_current_event_id(["groups"]) == "groups:2"


def add_and_disconnect(name):
    add_group(name, "groups")
    connection.close()
