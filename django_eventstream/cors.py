"""Which origins may read streams (WHATWG Fetch, "CORS protocol")."""

from __future__ import annotations

import re

from django.conf import settings as django_settings
from django.http import HttpRequest
from django.http.request import validate_host
from django.http.response import HttpResponseBase
from django.utils.cache import patch_vary_headers

from .conf import settings

METHODS = "GET, OPTIONS"
ALLOWED_HEADERS = ("Last-Event-ID", "Cache-Control", "Authorization")
#: For how many seconds browsers may remember the answer to a preflight.
MAX_AGE = 3600

# As browsers serialize them: ASCII, without a user, a path or a wildcard.
_ORIGIN = re.compile(
    r"([a-z][a-z0-9+.-]*)://([\w.-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?",
    re.ASCII | re.IGNORECASE,
)
_DEFAULT_PORTS = {"http": 80, "https": 443}


def add_cors_headers(response: HttpResponseBase, request: HttpRequest) -> None:
    """Set on any response of an endpoint what the request's ``Origin`` is allowed."""
    patterns = allowed_patterns()
    credentials = settings.allow_credentials
    if not patterns or ("*" in patterns and credentials):
        # Everything with credentials would open every user's streams to every site: W003.
        return
    patch_vary_headers(response, ["Origin"])
    origin = request.META.get("HTTP_ORIGIN", "")
    if "*" in patterns:
        # Sandboxed and local pages, whose origin is "null", could be anybody's.
        if origin != "null":
            response["Access-Control-Allow-Origin"] = "*"
            _allow(response, request)
    elif is_allowed(origin, patterns):
        response["Access-Control-Allow-Origin"] = origin
        if credentials:
            response["Access-Control-Allow-Credentials"] = "true"
        _allow(response, request)


def allowed_patterns() -> list[str]:
    """Return host patterns and full origins that are allowed, ``*`` for all."""
    patterns = settings.allow_origins
    if patterns is None:
        patterns = list(django_settings.ALLOWED_HOSTS)
        if not patterns and django_settings.DEBUG:
            patterns = [".localhost", "127.0.0.1", "[::1]"]  # as HttpRequest.get_host()
    return patterns


def is_allowed(origin: str, patterns: list[str]) -> bool:
    """Return whether an origin is among full origins, or its host among host patterns."""
    parts = _split(origin)  # "null" has none
    if parts is None:
        return False
    hosts = [pattern for pattern in patterns if "://" not in pattern]
    origins = [_split(pattern) for pattern in patterns if "://" in pattern]
    # Django's own matching of hosts takes no dot at the end into account either.
    return parts in origins or validate_host(parts[1].removesuffix("."), hosts)


def is_origin(text: str) -> bool:
    """Return whether a text is a full origin, ``scheme://host`` with a port or without."""
    return _split(text) is not None


def _split(origin: str) -> tuple[str, str, int] | None:
    """Return scheme, host and port (0: none), by which origins are the same."""
    match = _ORIGIN.fullmatch(origin)
    if match is None:
        return None
    scheme, host, port = match[1].lower(), match[2].lower(), int(match[3] or 0)
    if match[3] and not 0 < port < 65536:
        return None
    # Browsers leave out the default port; settings may name it.
    return scheme, host, 0 if port == _DEFAULT_PORTS.get(scheme) else port


def _allow(response: HttpResponseBase, request: HttpRequest) -> None:
    if request.method == "OPTIONS":
        response["Access-Control-Allow-Methods"] = METHODS
        headers = dict.fromkeys((*ALLOWED_HEADERS, *settings.allow_headers))
        response["Access-Control-Allow-Headers"] = ", ".join(headers)
        response["Access-Control-Max-Age"] = str(MAX_AGE)
