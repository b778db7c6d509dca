"""``{% load eventstream %}``: the scripts for browsers, and the URL of a stream to start from."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from django import template
from django.http import HttpRequest, QueryDict
from django.template import TemplateSyntaxError
from django.templatetags.static import static
from django.urls import NoReverseMatch, Resolver404, ResolverMatch, get_script_prefix
from django.urls import resolve as resolve_path
from django.urls import reverse as reverse_name
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from ..channelmanager import call, get_channelmanager
from ..conf import settings
from ..eventstream import get_current_event_id
from ..exceptions import BadRequest
from ..lasteventid import parse_last_event_id
from ..storage import get_storage
from ..views import aevents, events

try:
    from django.middleware.csp import get_nonce
except ImportError:  # before Django 6.0

    def get_nonce(request: HttpRequest) -> Any:  # type: ignore[misc]
        """Return None: there is no such middleware."""
        return None


register = template.Library()

CLASSIC = ("eventsource.min.js", "reconnecting-eventsource.js")
MODULE = "eventstream.js"

#: As ``json_script`` does: what would end the element, or begin a comment in it.
_ESCAPES = {ord(">"): "\\u003E", ord("<"): "\\u003C", ord("&"): "\\u0026"}


# The scripts


@register.simple_tag(takes_context=True)
def eventstream_scripts(
    context: template.Context, *kinds: str, nonce: Any = None, defer: bool = False
) -> SafeString:
    """Return the elements that load the scripts.

    ``"classic"``, the default, defines ``ReconnectingEventSource``, and ``EventSource`` where the
    browser has none. ``"module"`` lets modules ``import { EventStream } from
    "django-eventstream"``. Both may be given. ``defer`` defers the classic scripts; ``nonce`` is
    for pages whose Content-Security-Policy is not made by Django or django-csp.
    """
    attributes: list[tuple[str, Any]] = []
    nonce = _nonce(context, nonce)
    if nonce is not None:
        attributes.append(("nonce", nonce))
    html = []
    for kind in kinds or ("classic",):
        if kind == "classic":
            html += [_script(name, attributes, defer) for name in CLASSIC]
        elif kind == "module":
            html += _module(attributes)
        else:
            raise TemplateSyntaxError(
                f'{{% eventstream_scripts %}} takes "classic", "module" or both, not {kind!r}.'
            )
    return format_html_join("\n", "{}", ((element,) for element in html))


def _script(name: str, attributes: Iterable[tuple[str, Any]], defer: bool) -> SafeString:
    return format_html(
        '<script src="{}"{}{}></script>',
        static(f"django_eventstream/{name}"),
        " defer" if defer else "",
        _attributes(attributes),
    )


def _module(attributes: Iterable[tuple[str, Any]]) -> list[SafeString]:
    """Return an import map and a preload link.

    In this order: many browsers ignore a map that comes after the first load of a module.
    """
    url = static(f"django_eventstream/{MODULE}")
    import_map = json.dumps({"imports": {"django-eventstream": url}}).translate(_ESCAPES)
    return [
        format_html(
            '<script type="importmap"{}>{}</script>',
            _attributes(attributes),
            SafeString(import_map),
        ),
        format_html('<link rel="modulepreload" href="{}"{}>', url, _attributes(attributes)),
    ]


def _attributes(attributes: Iterable[tuple[str, Any]]) -> SafeString:
    return format_html_join("", ' {}="{}"', attributes)


def _nonce(context: template.Context, nonce: Any) -> Any:
    """Return the nonce of the page's Content-Security-Policy, None if there is none.

    Compared with None throughout: Django's own is false until somebody uses it.
    """
    if nonce is None:
        nonce = context.get("csp_nonce")  # Django's context processor
    request = _request(context)
    if nonce is None and request is not None:
        nonce = getattr(request, "csp_nonce", None)  # django-csp
        if nonce is None:
            nonce = get_nonce(request)
    return nonce


# The URL


@register.simple_tag(takes_context=True)
def eventstream_url(
    context: template.Context,
    view: str = "django_eventstream",
    *args: Any,
    channel: str | None = None,
    channels: str | Iterable[str] | None = None,
    last_event_id: str | None = None,
    **kwargs: Any,
) -> str:
    """Return the URL of an endpoint, with the position at which its stream is to start.

    ``view`` is the name of a URL pattern, by default that of ``django_eventstream.urls``, or a
    path or URL; ``args`` and ``kwargs`` are those of the pattern. ``channel`` is one channel,
    ``channels`` are several: a list, or names joined by commas. Without them, those that the URL
    selects are taken.

    The position is that of the present. So this stands **before** what shows the page's data, and
    the data is read after it, as lazy querysets are. Otherwise have the view take the position
    first, by ``get_current_event_id``, and pass it as ``last_event_id``.
    """
    request = _request(context)
    names = _names(channel, channels)
    view = str(view)
    if not view:
        raise TemplateSyntaxError(
            "{% eventstream_url %} got an empty name: does the variable exist?"
        )
    names_needed = bool(names)
    if view.startswith("/") or "://" in view:
        if args or kwargs:
            raise TemplateSyntaxError(
                "{% eventstream_url %} takes arguments of a URL pattern only with the pattern's "
                f"name, not with the path {view!r}."
            )
        url = view
    else:
        url, names_needed = _reverse(view, args, kwargs, names, request)
    match = _resolve(url)
    # What other views make of channels in the query is theirs to know.
    endpoints = inspect.unwrap(events), inspect.unwrap(aevents)
    is_endpoint = match is not None and inspect.unwrap(match.func) in endpoints
    if names_needed and not (is_endpoint and _ask(request, url, match) == set(names)):
        url = _add_to_query(url, *(("channel", name) for name in names))
    if is_endpoint and names:
        found = _ask(request, url, match)
        if found != set(names):
            raise TemplateSyntaxError(
                f"{{% eventstream_url %}}: {url!r} reads the channels {sorted(found)}, whatever "
                f"channels it is asked for, and not {sorted(names)}. Leave channel= away, or give "
                "the name of another URL pattern: each may be mounted under a name of its own."
            )
    if last_event_id is not None and (last_event_id := str(last_event_id)):
        try:
            parse_last_event_id(last_event_id)
        except BadRequest as error:
            raise TemplateSyntaxError(f"{{% eventstream_url %}}: {error}") from error
        return _add_to_query(url, ("lastEventId", last_event_id))
    if not names:
        names = sorted(_ask(request, url, match)) if match is not None else []
    if not names:
        raise TemplateSyntaxError(
            f"{{% eventstream_url %}} does not know which channels {url!r} reads. "
            'Name them: channel="news", or channels="news,alerts".'
        )
    if len(names) > settings.channel_limit:
        raise TemplateSyntaxError(
            f"{{% eventstream_url %}}: {len(names)} channels, but a stream reads at most "
            f"{settings.channel_limit}: open several, or raise EVENTSTREAM_CHANNEL_LIMIT."
        )
    position = get_current_event_id(names) if get_storage() is not None else ""
    if not position:  # no channel is reliable
        return url
    if last_event_id is not None:
        raise TemplateSyntaxError(
            "{% eventstream_url %} got an empty last_event_id: does the variable exist?"
        )
    return _add_to_query(url, ("lastEventId", position))


def _names(channel: Any, channels: Any) -> list[str]:
    """Return the names that the tag was given, [] if it was given none."""
    if channel is not None and channels is not None:
        raise TemplateSyntaxError("{% eventstream_url %} takes channel= or channels=, not both.")
    if channel is None and channels is None:
        return []
    if channel is not None:
        names = [channel]
    elif isinstance(channels, str):
        names = [name.strip() for name in channels.split(",")]
    else:
        names = list(channels)
    if not names or not all(names):
        raise TemplateSyntaxError(
            "{% eventstream_url %} got an empty name of a channel: does the variable exist?"
        )
    return list(dict.fromkeys(map(str, names)))


def _reverse(
    view: str, args: Any, kwargs: dict[str, Any], names: list[str], request: HttpRequest | None
) -> tuple[str, bool]:
    """Return the path of a URL pattern, and whether it still has to be told the channels."""
    current_app = getattr(request, "current_app", None)
    if current_app is None and request is not None:
        current_app = getattr(request.resolver_match, "namespace", None)
    if names and not args:
        # The endpoint may be mounted more than once: first look for one that has these channels.
        named: list[dict[str, Any]] = [{"channels": names}]
        if len(names) == 1:
            named.insert(0, {"channel": names[0]})
        for more in named:
            try:
                return reverse_name(view, kwargs=kwargs | more, current_app=current_app), False
            except NoReverseMatch:
                pass
    try:
        return reverse_name(view, args=args, kwargs=kwargs, current_app=current_app), bool(names)
    except NoReverseMatch as error:
        raise NoReverseMatch(
            f"{{% eventstream_url %}}: {error} Endpoints made by include(django_eventstream.urls) "
            "have the name 'django_eventstream', within a namespace 'NAMESPACE:django_eventstream',"
            " and take the arguments of their URL pattern. For one that is mounted in Channels "
            'routes, give its path: {% eventstream_url "/events/" %}.'
        ) from error


def _resolve(url: str) -> ResolverMatch | None:
    """Return what Django's URLconf has at this URL."""
    parts = urlsplit(url)
    if parts.netloc or not parts.path.startswith(get_script_prefix()):
        return None
    try:
        return resolve_path(_path_info(url))
    except Resolver404:
        return None  # it may be in the routes of Channels


def _path_info(url: str) -> str:
    """Return the path as Django's URLconf sees it."""
    return "/" + unquote(urlsplit(url).path.removeprefix(get_script_prefix()))


def _ask(request: HttpRequest | None, url: str, match: ResolverMatch | None) -> set[str]:
    """Return the channels that the channel manager selects for a request to this URL."""
    stream_request = HttpRequest()
    if request is not None:
        stream_request = type(request).__new__(type(request))
        stream_request.__dict__.update(request.__dict__)  # copy() would leave some out
    parts = urlsplit(url)
    stream_request.method = "GET"
    stream_request.path = unquote(parts.path)
    stream_request.path_info = _path_info(url)
    stream_request.resolver_match = match
    # The page's own parameters are none of the stream's.
    stream_request.GET = QueryDict(parts.query)
    kwargs = match.kwargs if match is not None else {}
    return set(call(get_channelmanager().get_channels_for_request, stream_request, kwargs))


def _request(context: template.Context) -> HttpRequest | None:
    """Return the page's request: Django's own, where Django REST framework wraps it."""
    request = getattr(context, "request", None) or context.get("request")
    return getattr(request, "_request", request)


def _add_to_query(url: str, *parameters: tuple[str, str]) -> str:
    """Return the URL with more parameters; a ``lastEventId`` that it has is replaced."""
    parts = urlsplit(url)
    pairs = [pair for pair in parts.query.split("&") if pair]
    for name, value in parameters:
        if name == "lastEventId":
            pairs = [pair for pair in pairs if pair.partition("=")[0] != name]
        # Colons and commas mean nothing in a query, and positions are full of them.
        pairs.append(f"{name}={quote(value, safe=':,')}")
    return urlunsplit(parts._replace(query="&".join(pairs)))
