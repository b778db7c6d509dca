"""System checks: wrong settings are found by ``manage.py check``, with the remedy."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from django.conf import settings as django_settings
from django.core import checks
from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured

from .brokers import SHORT_NAMES, get_brokers, get_names
from .channelmanager import get_channelmanager
from .conf import Settings, settings
from .cors import allowed_patterns, is_origin
from .storage import get_storage, stores_skipped
from .storage.database import DjangoModelStorage

PREFIX = "EVENTSTREAM_"

#: The least value of each numeric setting, and whether it is a whole number.
NUMBERS: dict[str, tuple[float, bool]] = {
    "CHANNEL_LIMIT": (1, True),
    "PADDING": (0, True),
    "KEEP_ALIVE_INTERVAL": (0.05, False),
    "RETRY_DELAY": (0, False),
    "SEND_TIMEOUT": (1, False),
    "MAX_STREAM_AGE": (1, False),
    "RETENTION": (1, False),
    "MAX_EVENTS_PER_CHANNEL": (1, True),
    "POLL_INTERVAL": (0.01, False),
    "PAGE_SIZE": (1, True),
    "READ_TIMEOUT": (0, False),
    "DATABASE_THREADS": (1, True),
    "BUFFER_SIZE": (0, True),
    "BURST_SIZE": (1, True),
    "GRIP_INTERVAL": (5, False),
}
#: The greatest value, where there is one. A hundred years: the calendar ends somewhere.
MOST = {"RETENTION": 100 * 365 * 86400}
#: Settings whose ``None`` means something.
OPTIONAL = frozenset({"MAX_EVENTS_PER_CHANNEL", "MAX_STREAM_AGE"})
BOOLEANS = ("CLEAN_SHUTDOWN", "ALLOW_CREDENTIALS")
#: Names that have no property of their own.
OTHER_NAMES = frozenset({"ALLOW_ORIGIN"})

_HOST = re.compile(r"\*|\.?[\w-]+(\.[\w-]+)*|\[[0-9a-f:.]+\]", re.ASCII | re.IGNORECASE)
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+", re.IGNORECASE)  # a token, RFC 9110, 5.6.2


def check_settings(**kwargs: Any) -> list[CheckMessage]:
    """Check all settings of the package."""
    return [
        *_check_names(),
        *_check_plugins(),
        *_check_numbers(),
        *_check_booleans(),
        *_check_origins(),
        *_check_headers(),
        *_check_brokers(),
    ]


def _check_names() -> Iterator[CheckMessage]:
    known = set(OTHER_NAMES)
    for name, value in vars(Settings).items():
        if isinstance(value, property):
            known.add(name.upper())
    for setting in dir(django_settings):
        name = setting.removeprefix(PREFIX)  # which would make any two names look alike
        if setting.startswith(PREFIX) and name not in known:
            close = difflib.get_close_matches(name, known, 1)
            yield checks.Warning(
                f"{setting} is no setting of django-eventstream.",
                hint=f"Did you mean {PREFIX}{close[0]}?" if close else "Remove it.",
                id="django_eventstream.W001",
            )


def _check_plugins() -> Iterator[CheckMessage]:
    try:
        storage = get_storage()
    except Exception as error:
        if str(error).startswith("EVENTSTREAM_STORAGE_CONNECTION"):
            yield Error(str(error), id="django_eventstream.E010")
        else:
            yield Error(
                _sentence("EVENTSTREAM_STORAGE_CLASS", error),
                hint="For the project's database: 'django_eventstream.storage.DjangoModelStorage'.",
                id="django_eventstream.E001",
            )
    else:
        if storage is not None and not stores_skipped(storage):
            yield checks.Warning(
                "EVENTSTREAM_STORAGE_CLASS: the storage does not keep skip_user_ids. Users to be "
                "skipped are so while connected, but get the event when they resume.",
                hint="Let append_event() take and store the keyword argument skip_user_ids.",
                id="django_eventstream.W002",
            )
    try:
        get_channelmanager()
    except Exception as error:
        yield Error(
            _sentence("EVENTSTREAM_CHANNELMANAGER_CLASS", error),
            hint="Give the dotted path of a subclass of "
            "django_eventstream.channelmanager.DefaultChannelManager.",
            id="django_eventstream.E002",
        )


def _check_numbers() -> Iterator[CheckMessage]:
    for name, (least, whole) in NUMBERS.items():
        value = getattr(django_settings, PREFIX + name, least)
        if value is None and name in OPTIONAL:
            continue
        # True is an int.
        is_number = isinstance(value, int if whole else (int, float))
        most = MOST.get(name, sys.float_info.max)
        if isinstance(value, bool) or not is_number or not least <= value <= most:
            kind = "a whole number" if whole else "a number"
            end = f"to {most}" if name in MOST else "up"
            yield Error(
                f"{PREFIX}{name} is {value!r}.",
                hint=f"Set it to {kind} from {least:g} {end}, or remove it for the default, "
                f"{getattr(_DEFAULTS, name.lower())!r}.",
                id="django_eventstream.E003",
            )


def _check_booleans() -> Iterator[CheckMessage]:
    for name in BOOLEANS:
        value = getattr(django_settings, PREFIX + name, False)
        if not isinstance(value, bool):
            yield Error(
                f"{PREFIX}{name} is {value!r}.",
                hint="Set it to True or False. (A text is true, whatever it says.)",
                id="django_eventstream.E006",
            )


def _check_origins() -> Iterator[CheckMessage]:
    for name in ("ALLOW_ORIGIN", "ALLOW_ORIGINS"):
        value = getattr(django_settings, PREFIX + name, None) or ()
        origins = [value] if isinstance(value, str) else value
        if not isinstance(origins, (list, tuple, set, frozenset)):
            yield _no_origin(name, value)
            continue
        for origin in origins:
            if not (isinstance(origin, str) and (_is_host(origin) or is_origin(origin))):
                yield _no_origin(name, origin)
    try:
        everything = "*" in allowed_patterns()
    except (TypeError, ImproperlyConfigured):
        return  # said above
    if everything and settings.allow_credentials:
        yield checks.Warning(
            "EVENTSTREAM_ALLOW_CREDENTIALS is on while every origin is allowed: any site could "
            "read the streams of its visitors. No cross-origin request is allowed instead.",
            hint="List the origins in EVENTSTREAM_ALLOW_ORIGINS.",
            id="django_eventstream.W003",
        )


def _check_headers() -> Iterator[CheckMessage]:
    value = getattr(django_settings, PREFIX + "ALLOW_HEADERS", None) or ()
    headers: Iterable[Any] = value.split(",") if isinstance(value, str) else value
    if not isinstance(headers, (list, tuple, set, frozenset)) or not all(
        isinstance(header, str) and _HEADER.fullmatch(header.strip()) for header in headers
    ):
        yield Error(
            f"EVENTSTREAM_ALLOW_HEADERS is {value!r}.",
            hint="Set it to a list of names of HTTP headers.",
            id="django_eventstream.E005",
        )


def _check_brokers() -> Iterator[CheckMessage]:
    try:
        storage = get_storage()
    except Exception:
        return  # said above
    try:
        brokers = get_brokers()
    except ImproperlyConfigured as error:
        text = str(error)
        if text.startswith("GRIP"):
            yield Error(text, id="django_eventstream.E007")
        else:
            yield Error(text, id="django_eventstream.E009")
        return
    for broker in brokers:
        yield from broker.check()
    names = get_names()
    paths = [SHORT_NAMES.get(name, name) for name in names]
    # A broker of the project's own may read it.
    has_redis = SHORT_NAMES["redis"] in paths or not {*paths} <= {*SHORT_NAMES.values()}
    if settings.redis and not has_redis:
        yield checks.Warning(
            f"EVENTSTREAM_REDIS has no effect: EVENTSTREAM_BROKER names {', '.join(names)} only.",
            hint="Add 'redis' to EVENTSTREAM_BROKER, or remove one of the two.",
            id="django_eventstream.W006",
        )
    # A storage of the project's own may read it.
    is_read = storage is not None and not isinstance(storage, DjangoModelStorage)
    if settings.storage_connection and not is_read and (settings.redis or not has_redis):
        yield checks.Warning(
            "EVENTSTREAM_STORAGE_CONNECTION has no effect: EVENTSTREAM_STORAGE_CLASS is "
            f"{settings.storage_class!r}.",
            hint="Set it to 'django_eventstream.storage.RedisStorage', or remove one of the two.",
            id="django_eventstream.W008",
        )


def check_deployment(**kwargs: Any) -> list[CheckMessage]:
    """Check, for ``manage.py check --deploy``, that processes hear of each other."""
    try:
        if any(broker.reaches_other_processes for broker in get_brokers()):
            return []
    except ImproperlyConfigured:
        return []  # said by check_settings
    return [
        checks.Warning(
            "No broker reaches other processes. With more than one server process, or senders "
            "in tasks and commands, kicks and unstored events reach the streams of the sender's "
            "own process only.",
            hint="Set EVENTSTREAM_BROKER to 'database', 'redis' or 'channels'. If there is one "
            "process only, silence this check.",
            id="django_eventstream.W007",
        )
    ]


def _is_host(text: str) -> bool:
    # "null" is the origin of what has none, and never allowed.
    return text.lower() != "null" and _HOST.fullmatch(text) is not None


def _no_origin(name: str, value: Any) -> CheckMessage:
    return Error(
        f"{PREFIX}{name}: {value!r} is neither a host nor an origin.",
        hint="Give hosts ('example.com', '.example.com', '*') or full origins without a path "
        "('https://example.com:8443'), in ASCII ('xn--…' for international names).",
        id="django_eventstream.E004",
    )


def _sentence(name: str, error: Exception) -> str:
    text = str(error)
    if isinstance(error, ImproperlyConfigured) and text.startswith(name):
        return text
    return f"{name}: cannot be loaded: {type(error).__name__}: {text}"


class _Defaults(Settings):
    @staticmethod
    def _get(name: str, default: Any) -> Any:
        return default


_DEFAULTS = _Defaults()
