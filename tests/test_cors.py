"""Which origins may read streams, on every kind of response of the endpoint."""

import pytest
from django.db import OperationalError
from django.http import HttpResponse
from django.test import AsyncRequestFactory, RequestFactory
from hypothesis import example, given
from hypothesis import strategies as st

from django_eventstream.channelmanager import DefaultChannelManager
from django_eventstream.cors import add_cors_headers, is_allowed
from django_eventstream.views import events


class LogIsDown(DefaultChannelManager):
    def can_read_channel(self, user, channel):
        raise OperationalError("down")


@pytest.fixture(autouse=True)
def project(settings):
    settings.ALLOWED_HOSTS = ["example.com"]
    settings.EVENTSTREAM_CHANNELMANAGER_CLASS = (
        "django_eventstream.channelmanager.DefaultChannelManager"
    )


def ask(origin=None, method="GET", response=None):
    """Return a response to a request of that origin, with its CORS headers."""
    headers = {} if origin is None else {"Origin": origin}
    request = RequestFactory().generic(method, "/events/", headers=headers)
    response = HttpResponse() if response is None else response
    add_cors_headers(response, request)
    return response


def allowed(origin):
    """Return whether the origin is echoed; if it is not, nothing else may be."""
    response = ask(origin)
    echoed = response.get("Access-Control-Allow-Origin")
    assert echoed in (None, origin)
    assert response["Vary"] == "Origin"
    return echoed is not None


# By default: ALLOWED_HOSTS


@pytest.mark.parametrize(
    "origin",
    [
        "http://example.com",
        "https://example.com",
        "http://example.com:8000",
        "https://example.com:65535",
        "capacitor://example.com",
        "HTTPS://Example.COM",
    ],
)
def test_allowed_host_is_allowed_with_any_scheme_and_port(origin):
    assert allowed(origin)


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "*",
        "example.com",
        "//example.com",
        "http:example.com",
        "http:///example.com",
        "://example.com",
        "http://",
        "http://:80",
        "http://example.com/",
        "http://example.com:0",
        "http://example.com:65536",
        "http://example.com:80:80",
        "http://example.com:x",
        "http://example.com.evil",
        "http://evilexample.com",
        "http://evil.example.com",
        "http://evil/example.com",
        "http://evil?example.com",
        "http://evil#example.com",
        "http://evil\\example.com",
        "http://evil@example.com",
        "http://example.com@evil",
        "http://example.com:80@evil",
        "http://example.com http://evil",
        "http://example.com,http://evil",
        "http://example.com\n",
        "http://example.com\t",
        "http://example.com%00.evil",
        "http://example\u3002com",
        "http://[::1]",
        "http://localhost",
        "http://127.0.0.1",
    ],
)
def test_anything_else_is_not(origin):
    assert not allowed(origin)


def test_dot_before_a_host_includes_subdomains(settings):
    settings.ALLOWED_HOSTS = [".example.com"]
    assert allowed("http://example.com")
    assert allowed("https://a.b.example.com:8000")
    assert not allowed("http://evilexample.com")
    assert not allowed("http://example.com.evil")
    assert not allowed("http://evil/.example.com")
    assert not allowed("http://evil:.example.com")


def test_address_of_version_6_is_allowed(settings):
    settings.ALLOWED_HOSTS = ["[2001:db8::1]"]
    assert allowed("http://[2001:db8::1]")
    assert allowed("http://[2001:DB8::1]:8000")
    assert not allowed("http://[2001:db8::2]")
    assert not allowed("http://[2001:db8::1]evil")
    assert not allowed("http://[2001:db8::1].evil")
    assert not allowed("http://2001:db8::1")


def test_upper_case_in_a_setting_makes_no_difference(settings):
    settings.ALLOWED_HOSTS = ["EXAMPLE.com"]
    assert allowed("http://example.com")
    settings.EVENTSTREAM_ALLOW_ORIGINS = ["HTTPS://API.example.com"]
    assert allowed("https://api.example.com")


def test_debug_allows_localhost_if_no_host_is_listed(settings):
    settings.ALLOWED_HOSTS = []
    settings.DEBUG = True
    assert allowed("http://localhost:8000")
    assert allowed("http://app.localhost:8000")
    assert allowed("http://127.0.0.1:8000")
    assert allowed("http://[::1]:8000")
    assert not allowed("http://127.0.0.2")
    assert not allowed("http://localhost.evil")
    assert not allowed("http://example.com")
    settings.ALLOWED_HOSTS = ["example.com"]
    assert not allowed("http://localhost:8000")


def test_nothing_allowed_is_nothing_to_vary_by(settings):
    settings.ALLOWED_HOSTS = []
    assert ask("http://localhost").headers == {"Content-Type": "text/html; charset=utf-8"}


# The settings


@pytest.mark.parametrize("name", ["EVENTSTREAM_ALLOW_ORIGIN", "EVENTSTREAM_ALLOW_ORIGINS"])
@pytest.mark.parametrize("value", ["other.org", ["other.org"], ("other.org",)])
def test_settings_take_the_place_of_allowed_hosts(settings, name, value):
    setattr(settings, name, value)
    assert allowed("https://other.org:1")
    assert not allowed("https://sub.other.org")
    assert not allowed("http://example.com")


def test_singular_goes_before_plural(settings):
    settings.EVENTSTREAM_ALLOW_ORIGINS = ["plural.org"]
    settings.EVENTSTREAM_ALLOW_ORIGIN = ["singular.org"]
    assert allowed("http://singular.org")
    assert not allowed("http://plural.org")


@pytest.mark.parametrize("empty", [None, "", [], ()])
def test_empty_setting_leaves_it_to_allowed_hosts(settings, empty):
    settings.EVENTSTREAM_ALLOW_ORIGIN = settings.EVENTSTREAM_ALLOW_ORIGINS = empty
    assert allowed("http://example.com")


def test_full_origin_is_allowed_with_its_scheme_and_port_only(settings):
    settings.EVENTSTREAM_ALLOW_ORIGINS = ["https://a.org", "http://b.org:8080", "http://[::1]:80"]
    assert allowed("https://a.org")
    assert allowed("http://b.org:8080")
    assert not allowed("http://a.org")
    assert not allowed("https://a.org:8443")
    assert not allowed("https://sub.a.org")
    assert not allowed("http://b.org")
    assert not allowed("http://b.org:80")
    assert not allowed("https://b.org:8080")


def test_default_port_is_the_same_origin_named_or_not(settings):
    # Browsers leave it out (WHATWG URL, "origin").
    settings.EVENTSTREAM_ALLOW_ORIGINS = ["https://a.org:443", "http://b.org", "app://c.org:443"]
    assert allowed("https://a.org")
    assert allowed("http://b.org:80")
    assert not allowed("https://a.org:80")
    assert not allowed("http://b.org:443")
    assert not allowed("app://c.org")


def test_hosts_and_full_origins_go_together(settings):
    settings.EVENTSTREAM_ALLOW_ORIGINS = ["https://a.org", ".b.org"]
    assert allowed("https://a.org")
    assert allowed("http://sub.b.org:1")
    assert not allowed("http://a.org")


@pytest.mark.parametrize("entry", ["null", "https://a.org/", "https://*.a.org", "a.org:80"])
def test_what_is_neither_host_nor_origin_allows_nothing(settings, entry):
    settings.EVENTSTREAM_ALLOW_ORIGINS = [entry]
    for origin in ("null", "https://a.org", "https://sub.a.org", "http://a.org:80", entry):
        assert not allowed(origin)


def test_setting_of_a_full_origin_does_not_allow_null(settings):
    settings.EVENTSTREAM_ALLOW_ORIGINS = ["https://a.org/"]  # not parsed, as "null" is not
    assert not allowed("null")


# Everything, and credentials


@pytest.mark.parametrize("hosts", [["*"], ["example.com", "*"]])
@pytest.mark.parametrize("origin", [None, "http://anything.test"])
def test_everything_allowed_is_an_asterisk(settings, hosts, origin):
    settings.ALLOWED_HOSTS = hosts
    response = ask(origin)
    assert response["Access-Control-Allow-Origin"] == "*"
    assert response["Vary"] == "Origin"  # for "null" has another answer
    settings.ALLOWED_HOSTS = []
    settings.EVENTSTREAM_ALLOW_ORIGIN = "*"
    assert ask(origin)["Access-Control-Allow-Origin"] == "*"


def test_null_is_not_allowed_where_everything_is(settings):
    settings.ALLOWED_HOSTS = ["*"]
    response = ask("null")
    assert "Access-Control-Allow-Origin" not in response
    assert response["Vary"] == "Origin"


def test_dot_at_the_end_of_a_host_does_not_matter():
    assert allowed("http://example.com.")
    assert not allowed("http://example.com..")


def test_credentials_are_allowed_to_origins_that_are(settings):
    assert "Access-Control-Allow-Credentials" not in ask("http://example.com")
    settings.EVENTSTREAM_ALLOW_CREDENTIALS = True
    assert ask("http://example.com")["Access-Control-Allow-Credentials"] == "true"
    assert "Access-Control-Allow-Credentials" not in ask("http://evil")
    assert "Access-Control-Allow-Credentials" not in ask()


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_everything_with_credentials_is_nothing(settings, method):
    settings.ALLOWED_HOSTS = ["*", "example.com"]
    settings.EVENTSTREAM_ALLOW_CREDENTIALS = True
    response = ask("http://example.com", method)
    assert response.headers == {"Content-Type": "text/html; charset=utf-8"}


# Vary


def test_answer_varies_also_for_requests_without_an_origin():
    response = ask()
    assert response["Vary"] == "Origin"
    assert "Access-Control-Allow-Origin" not in response


@pytest.mark.parametrize(
    ("before", "after"),
    [("Cookie, Accept", "Cookie, Accept, Origin"), ("origin", "origin"), ("*", "*")],
)
def test_vary_keeps_what_it_has(before, after):
    response = ask("http://evil", response=HttpResponse(headers={"Vary": before}))
    assert response["Vary"] == after


# Preflights


def test_preflight_allows_what_streams_need():
    response = ask("http://example.com", "OPTIONS")
    assert response["Access-Control-Allow-Methods"] == "GET, OPTIONS"
    headers = response["Access-Control-Allow-Headers"]
    assert headers == "Last-Event-ID, Cache-Control, Authorization"
    assert response["Access-Control-Max-Age"] == "3600"


@pytest.mark.parametrize("value", ["X-One, Last-Event-ID,X-Two", ["X-One", "X-Two"]])
def test_preflight_allows_the_headers_of_the_setting_once_each(settings, value):
    settings.EVENTSTREAM_ALLOW_HEADERS = value
    headers = ask("http://example.com", "OPTIONS")["Access-Control-Allow-Headers"]
    assert headers == "Last-Event-ID, Cache-Control, Authorization, X-One, X-Two"


def test_preflight_of_an_origin_that_is_not_allowed_allows_nothing():
    response = ask("http://evil", "OPTIONS")
    assert response.headers == {"Content-Type": "text/html; charset=utf-8", "Vary": "Origin"}


def test_only_preflights_tell_of_methods_and_headers():
    assert "Access-Control-Allow-Methods" not in ask("http://example.com")


# Every response of the endpoint


def respond(kind, origin, settings):
    """Return the endpoint's response of a kind to a request of that origin."""
    headers = {"Origin": origin}
    factory = AsyncRequestFactory()
    request = factory.get("/events/", {"channel": "a"}, headers=headers)
    status, content = 200, b"event: stream-error"
    if kind == "stream":
        content = None
    elif kind == "stream-error":
        request = factory.get("/events/", headers=headers)
    elif kind == "stream-error under WSGI":
        request = RequestFactory().get("/events/", {"channel": "a"}, headers=headers)
    elif kind == "retry":
        settings.EVENTSTREAM_CHANNELMANAGER_CLASS = "tests.test_cors.LogIsDown"
        content = b"retry:"
    elif kind == "400":
        request = factory.get("/events/", headers={**headers, "Last-Event-ID": "error"})
        status, content = 400, b"This stream ended"
    elif kind == "405":
        request = factory.post("/events/", headers=headers)
        status, content = 405, b""
    elif kind == "preflight":
        request = factory.options("/events/", headers=headers)
        content = b""
    response = events(request)
    assert response.status_code == status
    assert response.streaming == (content is None)
    if content is not None:
        assert response.content.startswith(content)
    response.close()
    return response


KINDS = [
    "stream",
    "stream-error",
    "stream-error under WSGI",
    "retry",
    "400",
    "405",
    "preflight",
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_response_tells_an_allowed_origin(kind, settings):
    settings.EVENTSTREAM_ALLOW_CREDENTIALS = True
    response = respond(kind, "http://example.com", settings)
    assert response["Access-Control-Allow-Origin"] == "http://example.com"
    assert response["Access-Control-Allow-Credentials"] == "true"
    assert response["Vary"] == "Origin"


@pytest.mark.parametrize("kind", KINDS)
def test_no_response_tells_another_origin(kind, settings):
    response = respond(kind, "http://evil", settings)
    assert not [name for name in response.headers if name.startswith("Access-Control")]
    assert response["Vary"] == "Origin"


# Any origin at all

PIECES = st.sampled_from(
    [
        *("http", "https", "://", ":", "/", "//", "\\", "@", "?", "#", "%", ",", ";", " ", "\t"),
        *("example.com", "EXAMPLE.com", "api.org", ".", "evil", "null", "*", "[", "]", "[::1]"),
        *(
            "80",
            "443",
            "8443",
            "\0",
            "\n",
            "\xa0",
            "\u2100",
            "\uff0e",
            "\u3002",
            "-",
            "_",
            "\u212a",
        ),
    ]
)


def host_by_hand(origin):
    """Return the host that a browser would ask, by the first steps of WHATWG's URL parser."""
    _, _, rest = origin.partition("://")
    for end in "/\\?#":
        rest = rest.partition(end)[0]
    host = rest.rpartition("@")[2]
    if not host.startswith("["):
        host = host.partition(":")[0]
    return host.lower()


@given(st.lists(PIECES, max_size=12).map("".join) | st.text())
@example("http://example.com")
@example("https://sub.example.com:1")
@example("https://api.org")
def test_no_origin_is_allowed_whose_host_is_not(origin):
    if is_allowed(origin, [".example.com", "https://api.org"]):
        host = host_by_hand(origin)
        assert host == "example.com" or host.endswith(".example.com") or host == "api.org"
        assert host != "api.org" or origin.lower() in ("https://api.org", "https://api.org:443")
        assert origin.isascii()
        assert origin.isprintable()
