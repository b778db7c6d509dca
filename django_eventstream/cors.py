"""Which origins may read streams (WHATWG Fetch, "CORS protocol")."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

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

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s\\]+", re.IGNORECASE)


def add_cors_headers(response: HttpResponseBase, request: HttpRequest) -> None:
    """Set on any response of an endpoint what the request's ``Origin`` is allowed."""
    patterns = allowed_patterns()
    credentials = settings.allow_credentials
    if "*" in patterns:
        # With credentials this would open every user's streams to every site: checks.W004.
        if not credentials:
            response["Access-Control-Allow-Origin"] = "*"
            _allow(response, request)
        return
    if not patterns:
        return
    patch_vary_headers(response, ["Origin"])
    origin = request.headers.get("Origin", "")
    if is_allowed(origin, patterns):
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
    if not is_origin(origin):  # "null" is none
        return False
    origin = origin.lower()
    host = urlsplit(origin).netloc
    host = re.sub(r":\d*$", "", host) if not host.endswith("]") else host
    hosts = [pattern for pattern in patterns if "://" not in pattern]
    return origin in map(str.lower, patterns) or bool(host and validate_host(host, hosts))


def is_origin(text: str) -> bool:
    """Return whether a text is a full origin, ``scheme://host`` with a port or without."""
    if not _ORIGIN.fullmatch(text):
        return False
    try:
        parts = urlsplit(text)
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def _allow(response: HttpResponseBase, request: HttpRequest) -> None:
    if request.method == "OPTIONS":
        response["Access-Control-Allow-Methods"] = METHODS
        headers = dict.fromkeys((*ALLOWED_HEADERS, *settings.allow_headers))
        response["Access-Control-Allow-Headers"] = ", ".join(headers)
        response["Access-Control-Max-Age"] = str(MAX_AGE)
