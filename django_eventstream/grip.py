"""The driver that hands streams over to a GRIP proxy (Pushpin, Fastly Fanout).

A request that came through a proxy is answered at once, with what one read of the log finds
and headers that have the proxy hold the stream, give it what ``brokers.grip`` publishes, and
ask again by the *next link*: right away while more of the log is to be read, when the proxy
misses an event, and after a while. The protocol is that of
https://pushpin.org/docs/protocols/grip/; ``django_grip.GripMiddleware`` reads its request
headers and writes those of the response.

The next link comes without cookies: a signed token says who reads which channels. Its time
is that of the day, so that the link is the same for all streams of a user (or of all who are
anonymous) on the same channels, and the proxy may ask once for all of them.
"""

from __future__ import annotations

import logging
import math
import time
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias
from urllib.parse import unquote

import django_grip
import jwt
from django.apps import apps
from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.signing import BadSignature, TimestampSigner, b62_encode
from django.db import Error as DatabaseError
from django.db.models import Model
from django.http import HttpRequest, HttpResponse
from django.utils.encoding import escape_uri_path
from gripcontrol import Channel

from .brokers.grip import escape, get_configs, get_prefix, name_events, name_kicks, name_user
from .conf import settings
from .eventrequest import EventRequest
from .exceptions import (
    BadRequest,
    EventDoesNotExist,
    EventPermissionError,
    InternalError,
    StorageUnavailable,
    StreamError,
)
from .feed import Entry, Feed
from .hub import publish
from .lasteventid import format_channel, format_last_event_id, parse_last_event_id
from .messages import Published
from .protocol import StreamProtocol
from .sse import KEEP_ALIVE, encode_error, encode_retry
from .storage import get_storage
from .storage.base import read_page
from .streaming import retry_delay
from .views import CONTENT_TYPE, BriefResponse

logger = logging.getLogger("django_eventstream")

#: Where the streams of a request stand on each channel; None: unreliable.
Positions: TypeAlias = Mapping[str, "int | None"]

#: How many bytes a response has at most. Pushpin takes 100,000 where it begins to hold; an
#: event that is larger gets a response to itself.
MAX_FIRST_BODY = 90_000
MAX_BODY = 500_000
#: How many characters of a link servers take for sure: gunicorn 4,094 bytes, with the method.
MAX_LINK = 3_900
#: For how many seconds a token is good; and of how many seconds all have the same time.
TOKEN_AGE = 14 * 24 * 3600
TOKEN_ROUND = 24 * 3600
#: By how much an interval is longer at most, so that not all streams are asked for at once:
#: those that wait for their turn at Pushpin get no events meanwhile.
JITTER = 0.5
#: After how many seconds a proxy asks again while the log cannot be read.
UNREADABLE_PAUSE = 10
#: For how many seconds a permission is good without another look: a kick that comes before the
#: proxy holds the stream is heard by nobody.
RECHECK_AFTER = 1.0
#: The parameters that a next link has besides those of the stream's own URL.
TOKEN = "es-meta"  # noqa: S105
LINK_PARAMETERS = (TOKEN, "link", "recover", "lastEventId", "channel")


# The token


class Unusable(Exception):
    """A token is genuine and cannot be used here; its client can come back for another."""


class _Signer(TimestampSigner):
    """Signs for this purpose only, with the time of the day."""

    def __init__(self) -> None:
        super().__init__(salt="django_eventstream.grip.next-link")

    def timestamp(self) -> str:
        """Return the time at which the day began."""
        return b62_encode(int(time.time()) // TOKEN_ROUND * TOKEN_ROUND)


@dataclass(frozen=True)
class Token:
    """What a next link says of the stream that it goes on with."""

    channels: list[str]
    #: Label of the user's model and the user's primary key as text; None: anonymous.
    user: tuple[str, str] | None
    #: Whether the proxy takes ``%`` in the body of the next response for a sign.
    has_signs: bool
    #: The positions, in the order of the channels, where the link has no room for them.
    positions: list[int | None] | None = None
    #: Since when, in seconds, the log could not be read; 0: it could.
    unreadable_since: int = 0

    def dumps(self) -> str:
        """Return the token as text."""
        values = [
            self.channels,
            self.user,
            self.has_signs,
            self.positions,
            self.unreadable_since,
        ]
        return _Signer().sign_object(values, compress=True)

    @classmethod
    def loads(cls, text: str) -> Token:
        """Return the token that a text stands for.

        Raises BadRequest when it is forged, cut short, or expired, Unusable when it is of
        another version.
        """
        try:
            channels, user, *rest = _Signer().unsign_object(text, max_age=TOKEN_AGE)
            return cls(channels, tuple(user) if user else None, *rest)
        except BadSignature as error:  # SignatureExpired is one
            if _is_of_version_5(text):
                raise Unusable from error
            raise BadRequest("The link to go on with this stream is not valid.") from error
        except (TypeError, ValueError) as error:
            raise Unusable from error

    @property
    def user_id(self) -> str | None:
        """The user's primary key as text; None: anonymous."""
        return self.user[1] if self.user else None

    def load_user(self) -> Any:
        """Return the user as the database has it now; None: anonymous.

        Raises EventPermissionError when it is gone, Unusable when such users are.
        """
        if self.user is None:
            return None
        model, pk = self.user
        try:
            user = apps.get_model(model)._base_manager.filter(pk=pk).first()
        except (LookupError, ValueError, ValidationError) as error:
            raise Unusable from error
        if user is None:
            raise EventPermissionError.for_channels(self.channels)
        return user


def _is_of_version_5(text: str) -> bool:
    """Return whether a token was made by version 5.3.4, whose streams outlive an upgrade."""
    options: Any = {"verify_exp": False}
    try:
        jwt.decode(text, django_settings.SECRET_KEY, ["HS256"], options, issuer="es")
    except jwt.InvalidTokenError:
        return False
    return True


def _identify(user: Any) -> tuple[str, str] | None:
    if user is None:
        return None
    if isinstance(user, Model):
        return user._meta.label_lower, str(user.pk)
    raise InternalError(
        "Streams behind a GRIP proxy need users from the database, to check permissions again; "
        f"this one is a {type(user).__name__}."
    )


# Requests


def hand_over(request: Any, view_kwargs: Mapping[str, Any] | None) -> HttpResponse | None:
    """Answer a request that came through a proxy; None when it did not.

    Without keyword arguments only one that goes on with a stream.
    """
    if hasattr(request, "grip"):
        return _respond(request, view_kwargs)
    # The middleware is not there, as in a Channels consumer.
    middleware = django_grip.GripMiddleware(lambda request: HttpResponse())
    middleware.process_request(request)
    response = _respond(request, view_kwargs)
    if response is None:
        del request.grip  # which would look like the middleware's, should this be asked again
        return None
    handed_over: HttpResponse = middleware.process_response(request, response)
    return handed_over


def _respond(request: Any, view_kwargs: Mapping[str, Any] | None) -> HttpResponse | None:
    goes_on = request.grip.proxied and request.GET.get("link") == "next"
    if view_kwargs is None and not goes_on:
        return None
    if not request.grip.proxied:
        if not getattr(django_settings, "GRIP_PROXY_REQUIRED", False):
            return None
        request.grip.start_instruct()  # which the middleware refuses to give to nobody
        return HttpResponse()
    if goes_on:
        return _go_on(request)
    event_request = EventRequest(request, view_kwargs=view_kwargs)
    channels = event_request.reliable_channels()
    event_request.check_permission()
    has_signs = any(channels.values())
    token = Token(list(channels), _identify(event_request.user), has_signs)
    positions, more, body = _read(event_request, channels)
    return _instruct(request, token, positions, escape(body) if has_signs else body, more=more)


def _go_on(request: Any) -> HttpResponse:
    """Answer the request of a next link."""
    token = None
    try:
        token = Token.loads(request.GET.get(TOKEN, ""))
        event_request = _read_next(request, token)
        try:
            event_request.user = token.load_user()
            channels = event_request.reliable_channels()
            event_request.check_permission()
            positions, more, body = _read(event_request, channels)
        except (DatabaseError, StorageUnavailable) as error:
            return _hold_on(request, token, event_request.channel_last_ids, error)
    except Unusable:
        return _end(encode_retry(retry_delay()))
    except StreamError as error:
        body = encode_error(error.members)
        return _end(escape(body) if token is not None and token.has_signs else body)
    return _instruct(
        request,
        replace(token, has_signs=any(channels.values()), positions=None, unreadable_since=0),
        positions,
        # A body passes the filters that were set before it.
        escape(body) if token.has_signs else body,
        more=more,
    )


def _read_next(request: Any, token: Token) -> EventRequest:
    """Return what a next link asks for, the user left out."""
    event_request = EventRequest()
    event_request.channels = token.channels
    event_request.is_next = True
    positions: Mapping[str, int | None] = {}
    if token.positions is not None:
        positions = dict(zip(token.channels, token.positions, strict=True))
    elif request.GET.get("recover") == "true":
        event_request.is_recover = True
        positions = _parse_grip_last(request.grip.last)
    elif text := request.GET.get("lastEventId"):
        positions = parse_last_event_id(text)
    for channel in token.channels:
        if (position := positions.get(channel)) is not None:
            event_request.channel_last_ids[channel] = position
    return event_request


def _parse_grip_last(last: Mapping[str, str]) -> dict[str, int]:
    """Return the positions that a proxy tells, from its channels and their last ids."""
    prefix = f"{get_prefix()}events-"
    try:
        return {
            unquote(name.removeprefix(prefix)): int(last_id)
            for name, last_id in last.items()
            if name.startswith(prefix)
        }
    except ValueError as error:
        raise BadRequest(f"Malformed Grip-Last: {last!r}.") from error


# The log


def _read(
    event_request: EventRequest, channels: Mapping[str, bool]
) -> tuple[Positions, bool, bytes]:
    """Drive the state machine through one response.

    Returns the positions after it, whether more of the log is to be read, and the body.
    Raises StorageUnavailable; where that took long, EventPermissionError.
    """
    protocol = StreamProtocol(
        channels,
        last_event_id=event_request.channel_last_ids,
        user_id=event_request.user_id,
        padding=min(settings.padding, MAX_FIRST_BODY // 2),
        resumed=event_request.is_next,
    )
    feeds = {channel: Feed(channel) for channel in channels}
    reliable = [channel for channel, is_reliable in channels.items() if is_reliable]
    storage = get_storage()
    try:
        current_ids: dict[str, int] = {}
        if storage is not None and reliable:
            current_ids, left_behind = storage.poll(reliable)
            for event in left_behind:  # by a sender that was killed
                publish(Published(event))
        for channel, current_id in current_ids.items():
            feeds[channel].receive_current(current_id)
        protocol.receive_start(feeds, current_ids)
        body = protocol.data_to_send()
        while wanted := protocol.wanted():
            assert storage is not None
            channel, position = wanted[0]
            try:
                events = read_page(storage, channel, position, settings.page_size)
            except EventDoesNotExist as error:
                protocol.receive_missing(channel, error.current_id)
                continue
            entries = _fit(event_request, protocol, map(Entry, events), len(escape(body)))
            if not entries:
                break
            protocol.receive_page(channel, entries)
            body += protocol.data_to_send()
        if event_request.is_next and not event_request.is_recover and not protocol.wanted():
            # The proxy follows no channel between pages.
            for channel in channels.keys() - reliable:
                feeds[channel].receive_gap()
    except ImproperlyConfigured:
        raise
    except Exception as error:
        raise StorageUnavailable(f"The event log cannot be read: {error!r}") from error
    body += protocol.data_to_send()
    if time.monotonic() - event_request.checked_at > RECHECK_AFTER:
        event_request.check_permission(afresh=True)
    positions = {cursor.channel: cursor.position for cursor in protocol.cursors}
    return positions, bool(protocol.wanted()), body


def _fit(
    event_request: EventRequest, protocol: StreamProtocol, entries: Iterable[Entry], size: int
) -> list[Entry]:
    """Return the entries for which a body of ``size`` bytes has room."""
    room = (MAX_BODY if event_request.is_next else MAX_FIRST_BODY) - size
    ids = sum(len(cursor.feed.name) + 20 for cursor in protocol.cursors)
    fitting: list[Entry] = []
    for entry in entries:
        room -= 2 * (len(entry.bare) + ids)  # if every sign were doubled
        if room < 0 and (size or fitting or not event_request.is_next):
            break
        fitting.append(entry)
    return fitting


# Responses


def _instruct(
    request: Any,
    token: Token,
    positions: Positions,
    body: bytes,
    *,
    more: bool,
    pause: float | None = None,
) -> HttpResponse:
    """Return the response that has the proxy hold the stream, or ask at once for ``more``.

    ``pause``: after how many seconds it asks again.
    """
    instruct = request.grip.start_instruct()
    id_format = []
    for channel in token.channels:
        name, position = name_events(channel), positions[channel]
        grip_channel = Channel(name, None if position is None else str(position))
        if position is not None:
            grip_channel.filters.append("build-id")
            literal = escape(format_channel(channel).encode()).decode()
            id_format.append(f"{literal}%({get_prefix()}{name})s")
        grip_channel.filters.append("skip-users")
        instruct.add_channel(grip_channel)
    kicks = Channel(name_kicks(token.user_id))
    kicks.filters.append("require-sub")
    instruct.add_channel(kicks)
    instruct.meta["user"] = name_user(token.user_id)
    if id_format:
        instruct.meta["id_format"] = ",".join(id_format)
    link = _link(request, token, positions if more else None)
    if more:
        instruct.set_next_link(link)
    else:
        # The same for the same link: streams that have one in common are asked for together.
        jitter = zlib.crc32(link.encode()) / 2**32
        instruct.set_next_link(
            link, math.ceil((pause or settings.grip_interval) * (1 + JITTER * jitter))
        )
        instruct.set_hold_stream()
        instruct.set_keep_alive(KEEP_ALIVE.decode(), math.ceil(settings.keep_alive_interval))
    return BriefResponse(body, content_type=CONTENT_TYPE)


def _link(request: HttpRequest, token: Token, positions: Positions | None) -> str:
    """Return the next link; without ``positions`` the proxy tells them when it asks."""
    parameters = request.GET.copy()
    for name in LINK_PARAMETERS:
        parameters.pop(name, None)
    parameters["link"] = "next"
    if positions is None:
        parameters["recover"] = "true"
    else:
        known = {name: place for name, place in positions.items() if place is not None}
        parameters["lastEventId"] = format_last_event_id(known)
    parameters[TOKEN] = token.dumps()
    link = f"{escape_uri_path(request.path)}?{parameters.urlencode()}"
    if positions is not None and len(link) > MAX_LINK and token.positions is None:
        # In the token they are shorter than percent-encoded twice.
        in_order = [positions[channel] for channel in token.channels]
        return _link(request, replace(token, positions=in_order), None)
    return link


def _hold_on(
    request: Any, token: Token, positions: Mapping[str, int], error: Exception
) -> HttpResponse:
    """Answer while the log cannot be read: hold on for a while, then let the client come back."""
    now = int(time.time())
    since = token.unreadable_since or now
    if now - since > settings.read_timeout:
        logger.warning("Ending a stream behind a proxy, the client is to come back: %r", error)
        return _end(encode_retry(retry_delay()))
    if not token.unreadable_since:
        logger.warning("Holding a stream behind a proxy, without the event log: %r", error)
    waiting = replace(token, has_signs=bool(positions), positions=None, unreadable_since=since)
    places = {channel: positions.get(channel) for channel in token.channels}
    return _instruct(request, waiting, places, b"", more=False, pause=UNREADABLE_PAUSE)


def _end(body: bytes) -> HttpResponse:
    """Return a response after which the proxy ends the stream."""
    return BriefResponse(body, content_type=CONTENT_TYPE)


# django-grip


class _Config(dict[str, Any]):
    """A proxy as django-grip looks at it: it asks for a ``key`` also where there is none."""

    def __missing__(self, name: str) -> None:
        return None


def _get_proxies() -> list[_Config]:
    try:
        return [_Config(config) for config in get_configs()]
    except ImproperlyConfigured:  # which the endpoint, and the system checks, tell
        return []


# Its own (version 3.5.2) appends to GRIP_PROXIES at each request, and fails with a KeyError
# where a proxy has a verify key and no key, as Pushpin with a sig_key does.
django_grip._get_proxies = _get_proxies
