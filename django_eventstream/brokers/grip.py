"""Publishing to GRIP proxies (Pushpin, Fastly Fanout), which hold streams for this project.

The protocol is that of https://pushpin.org/docs/protocols/grip/. A proxy hands what is
published on a channel to the streams that it holds there:

- Each event goes to ``events-<channel>``. On a reliable channel it carries its id and the one
  before; a proxy that misses one asks the endpoint for what it lacks, so that a lost publish
  costs a read of the log. Where the proxy writes the ``id`` line (``build-id``), ``%`` is a
  sign, and doubled in all else.
- A kick goes to ``user-<id>``, for the streams that read the channel (``require-sub``).

Names are percent-encoded, which takes out what has a meaning in headers.
"""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit, urlunsplit

import jwt
import requests
from django.conf import settings as django_settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from gripcontrol import GripPubControl, HttpStreamFormat, parse_grip_uri
from pubcontrol import Item

from ..conf import settings
from ..exceptions import EventPermissionError
from ..feed import Entry
from ..messages import Envelope, Published, Revoked
from ..sse import encode_error, encode_id, encode_reset
from .outbox import Outbox, OutboxBroker, Refused, Unreachable

logger = logging.getLogger("django_eventstream")

#: Seconds for connecting to a proxy, and for its answer.
TIMEOUT = (3.0, 10.0)
#: After how many idle seconds a connection is not used again: the proxy may be closing it.
REUSE_TIME = 2.0
#: For how many seconds a token for the control interface is valid.
TOKEN_TIME = 600

#: How many channels Pushpin lets a stream have, the one for kicks among them.
MAX_SUBSCRIPTIONS = 20

#: What the addresses of control interfaces begin with, on HTTP and on ZeroMQ.
SCHEMES = ("http", "https", "tcp", "ipc")
_PREFIX = re.compile(r"[\w.:/-]*", re.ASCII)

LOGIN_REQUIRED = "django.contrib.auth.middleware.LoginRequiredMiddleware"

#: The user name of anonymous streams.
ANONYMOUS = "anonymous"


# Names


def get_prefix() -> str:
    """Return what the project puts before the names of all its GRIP channels."""
    return str(getattr(django_settings, "GRIP_PREFIX", "") or "")


def name_events(channel: str) -> str:
    """Return the GRIP channel of an event channel, without the prefix."""
    return f"events-{quote(channel)}"


def name_user(user_id: str | None) -> str:
    """Return a user as proxies know it: without the signs that lists and headers use."""
    if user_id is None:
        return ANONYMOUS
    name = quote(user_id, safe="")
    return "%61nonymous" if name == ANONYMOUS else name


def name_kicks(user_id: str | None) -> str:
    """Return the GRIP channel on which a user's streams are ended, without the prefix."""
    return f"user-{name_user(user_id)}"


def escape(data: bytes) -> bytes:
    """Double ``%``, which is a sign to the filter that builds ids."""
    return data.replace(b"%", b"%%")


# Items


class Publication(NamedTuple):
    """An item, and the GRIP channel that it is published on."""

    channel: str
    item: Item


def export_event(message: Published) -> Publication:
    """Return what publishes an event."""
    event = message.event
    head, id_line, tail = Entry(event).parts(encode_id("%I"))
    meta = {}
    if event.skip_user_ids:
        meta["skip_users"] = ",".join(sorted(map(name_user, event.skip_user_ids)))
    channel = name_events(event.channel)
    if event.id is None:
        return _publication(channel, head + tail, meta=meta)
    return _publication(
        channel,
        escape(head) + id_line + escape(tail),
        item_id=str(event.id),
        previous_id=str(event.id - 1),
        filters=["build-id"],
        meta=meta,
    )


def export_kick(message: Revoked) -> list[Publication]:
    """Return what ends a user's streams on a channel with one error."""
    channel = name_kicks(message.user_id)
    meta = {"require_sub": get_prefix() + name_events(message.channel)}
    error = encode_error(EventPermissionError.for_channels([message.channel]).members)
    # A proxy drops an id that it has just seen: kicks in a row need their own.
    kick = uuid.uuid4().hex
    first, last = f"kick-{kick}-1", f"kick-{kick}-2"
    end = Item(HttpStreamFormat(close=True), last, first, meta)
    return [
        _publication(channel, error, item_id=first, meta=meta),
        Publication(get_prefix() + channel, end),
    ]


def export_loss(channel: str, reliable: bool) -> Publication:
    """Return what tells the streams of a channel that they may have missed events."""
    name = name_events(channel)
    if not reliable:
        return _publication(name, encode_reset([channel], None))
    # It follows an item that no stream has got, so that all ask for what they lack.
    loss = uuid.uuid4().hex
    return _publication(
        name, b":\n\n", item_id=f"{loss}-2", previous_id=f"{loss}-1", filters=["build-id"]
    )


def _publication(
    channel: str,
    content: bytes,
    *,
    item_id: str | None = None,
    previous_id: str | None = None,
    filters: list[str] | None = None,
    meta: Mapping[str, str] | None = None,
) -> Publication:
    stream = HttpStreamFormat(content.decode(), content_filters=filters)
    return Publication(get_prefix() + channel, Item(stream, item_id, previous_id, meta or {}))


# Proxies


class Proxy:
    """The control interface of a proxy: it carries messages as GRIP has them."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        # Without the parts that may hold a password or a key.
        parts = urlsplit(uri)
        shown = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")
        self.name = f"The GRIP proxy at {shown.geturl()}"

    def carry(self, envelopes: Sequence[Envelope]) -> None:
        """Publish messages. Raises Unreachable and Refused."""
        publications: list[Publication] = []
        for envelope in envelopes:
            if isinstance(envelope.message, Published):
                publications.append(export_event(envelope.message))
            elif isinstance(envelope.message, Revoked):
                publications += export_kick(envelope.message)
        self.publish(publications)

    def tell_losses(self, lost: Mapping[str, bool]) -> None:
        """Publish word of lost events. Raises Unreachable and Refused."""
        self.publish([export_loss(channel, reliable) for channel, reliable in lost.items()])

    def probe(self) -> None:
        """Publish to nobody: no stream has this channel. Raises Unreachable and Refused."""
        self.publish([_publication("probe", b":\n\n")])

    def publish(self, publications: Sequence[Publication]) -> None:
        """Publish in this order. Raises Unreachable and Refused."""
        raise NotImplementedError


class HttpProxy(Proxy):
    """A control interface on HTTP.

    ``config`` is an entry of ``GRIP_PROXIES``. With a ``key`` and a ``control_iss`` requests
    carry a signed token (JWT), with a ``key`` alone the key itself, each as bearer token.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config["control_uri"])
        self._issuer = config.get("control_iss")
        self._key = config.get("key")
        self._session = requests.Session()
        self._used_at = 0.0

    def publish(self, publications: Sequence[Publication]) -> None:
        """Publish in this order. Raises Unreachable and Refused."""
        items = [{**item.export(), "channel": channel} for channel, item in publications]
        self.post("/publish/", json.dumps({"items": items}), "application/json")

    def post(
        self, path: str, body: str, content_type: str = "application/x-www-form-urlencoded"
    ) -> None:
        """Make a request to the control interface. Raises Unreachable and Refused."""
        scheme, netloc, base, query, _ = urlsplit(self.uri)
        url = urlunsplit((scheme, netloc, base.rstrip("/") + path, query, ""))
        headers = {"Content-Type": content_type}
        if time.monotonic() - self._used_at > REUSE_TIME:
            self._session.close()  # its connections; a new one is made
        try:
            response = self._session.post(
                url,
                body.encode(),
                headers=headers,
                auth=self._authorize,
                timeout=TIMEOUT,
                allow_redirects=False,  # a POST would become a GET, and be lost
            )
        except requests.RequestException as error:
            sent = not isinstance(error, requests.ConnectTimeout) and not _is_refusal(error)
            raise Unreachable(find_reason(error), sent=sent) from error
        self._used_at = time.monotonic()
        if not 200 <= response.status_code < 300:
            text = f"status {response.status_code}: {response.text[:200].strip()}"
            if response.status_code in (400, 413, 422):
                raise Refused(text)
            raise Unreachable(text, sent=False, busy=response.status_code == 429)

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        # By this hook, for a .netrc file takes the place of a header.
        if self._key:
            if self._issuer:
                claims = {"iss": self._issuer, "exp": int(time.time()) + TOKEN_TIME}
                token = jwt.encode(claims, self._key, algorithm="HS256")
            else:
                token = self._key.decode() if isinstance(self._key, bytes) else self._key
            request.headers["Authorization"] = f"Bearer {token}"
        return request


class ZmqProxy(Proxy):
    """A control interface on ZeroMQ, by pubcontrol; messages to it are not answered."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config["control_zmq_uri"])
        try:
            self._control = GripPubControl(dict(config))
        except ValueError as error:
            raise ImproperlyConfigured(
                f"GRIP_PROXIES: {self.uri} needs pyzmq and tnetstring3 to be installed ({error})."
            ) from error

    def publish(self, publications: Sequence[Publication]) -> None:
        """Publish in this order."""
        for channel, item in publications:
            self._control.publish(channel, item, blocking=True)


def get_configs() -> list[Mapping[str, Any]]:
    """Return the project's proxies as django-grip's settings name them.

    Entries have ``control_uri`` or ``control_zmq_uri`` and, as the case may be,
    ``control_iss``, ``key``, ``verify_iss`` and ``verify_key``.
    """
    configs: list[dict[str, Any]]
    try:
        proxies = getattr(django_settings, "GRIP_PROXIES", None) or []
        if not isinstance(proxies, list):
            raise TypeError("GRIP_PROXIES is no list")
        configs = [dict(config) for config in proxies]
        if url := getattr(django_settings, "GRIP_URL", None):
            configs.append(parse_grip_uri(url))
        for config in configs:
            uri = urlsplit(config.get("control_uri") or config["control_zmq_uri"])
            if uri.scheme not in SCHEMES or not (uri.netloc or uri.path) or uri.port == 0:
                raise ValueError("this is no URL")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # Not the value, which may hold a key.
        raise ImproperlyConfigured(
            f"GRIP_URL or GRIP_PROXIES: cannot be read ({error!r}); set GRIP_URL to the address "
            "of the proxy's control interface, such as 'http://localhost:5561'."
        ) from error
    if verify_key := getattr(django_settings, "GRIP_VERIFY_KEY", None):
        for config in configs:
            config.setdefault("verify_key", verify_key)
    # django-grip adds the proxy of GRIP_URL to GRIP_PROXIES when it is imported.
    return [config for n, config in enumerate(configs) if config not in configs[:n]]


def find_reason(error: BaseException) -> str:
    """Return what is at the root of an error, without the URL that requests puts into its own."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    is_systems = isinstance(error, OSError) and not isinstance(error, requests.RequestException)
    return str(error) if is_systems else type(error).__name__


def _is_refusal(error: requests.RequestException) -> bool:
    """Return whether an error means that no connection was made."""
    reason = error.args[0] if error.args else None
    return "NewConnectionError" in repr(reason) or "NameResolutionError" in repr(reason)


# The broker


class GripBroker(OutboxBroker):
    """Publishes to each of the project's proxies, from a thread of its own for each."""

    is_lossy = False  # a proxy counts by itself
    patience = sum(TIMEOUT)
    handoff = "django_eventstream.grip.hand_over"

    def __init__(self) -> None:
        self.outboxes = [Outbox(proxy) for proxy in map(_connect, get_configs()) if proxy]

    @property
    def reaches_other_processes(self) -> bool:  # type: ignore[override]
        """Whether there is a proxy."""
        return bool(self.outboxes)

    def check(self) -> Iterable[checks.CheckMessage]:
        """Check GRIP_PREFIX, and that Pushpin holds streams with so many channels."""
        if not _PREFIX.fullmatch(get_prefix()):
            yield checks.Error(
                f"GRIP_PREFIX is {get_prefix()!r}, which cannot be a part of a header.",
                hint="Use letters, digits and the signs - _ . : / only.",
                id="django_eventstream.E008",
            )
        if settings.channel_limit >= MAX_SUBSCRIPTIONS:
            yield checks.Warning(
                f"EVENTSTREAM_CHANNEL_LIMIT is {settings.channel_limit}: Pushpin ends streams "
                f"with {MAX_SUBSCRIPTIONS} channels or more, unless it is told otherwise.",
                hint="Raise connection_subscription_max in pushpin.conf, and silence this check.",
                id="django_eventstream.W004",
            )
        if LOGIN_REQUIRED in django_settings.MIDDLEWARE:
            yield checks.Warning(
                "LoginRequiredMiddleware refuses what a GRIP proxy asks of the endpoint: its "
                "requests carry a signed token in place of cookies.",
                hint="Mark the endpoint with login_not_required, let the channel manager's "
                "can_read_channel() refuse user None, and silence this check.",
                id="django_eventstream.W005",
            )


def _connect(config: Mapping[str, Any]) -> Proxy | None:
    if config.get("control_uri"):
        return HttpProxy(config)
    return ZmqProxy(config) if config.get("control_zmq_uri") else None
