"""Encoding of text/event-stream (WHATWG HTML, "Server-sent events", section 9.2.5)."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping

# "A stream is a sequence of lines separated by CRLF, LF or CR": any of them in the data
# would end the line, so each part becomes a data line of its own. str.splitlines() would
# also split at characters that the standard does not know as line ends.
_LINE_END = re.compile(r"\r\n|\r|\n")
_NOT_IN_FIELD = re.compile(r"[\r\n\0]")

KEEP_ALIVE = b"event: keep-alive\ndata:\n\n"


def clean_field(value: str) -> str:
    """Return the value of an ``event`` or ``id`` field without CR, LF and NUL."""
    return _NOT_IN_FIELD.sub("", value)


def encode_type(event_type: str) -> bytes:
    """Return the ``event`` line."""
    return f"event: {clean_field(event_type)}\n".encode()


def encode_id(event_id: str) -> bytes:
    """Return the ``id`` line."""
    return f"id: {clean_field(event_id)}\n".encode()


def encode_data(data: str) -> bytes:
    """Return the ``data`` lines, one for each line of the text, and the blank line."""
    if "\r" in data or "\n" in data:
        data = "\ndata: ".join(_LINE_END.split(data))
    return f"data: {data}\n\n".encode()


def encode_padding(size: int) -> bytes:
    """Return a comment of ``size`` spaces and a blank line, or nothing for 0."""
    return b":" + b" " * size + b"\n\n" if size else b""


@functools.lru_cache(maxsize=64)
def encode_open(event_id: str | None, padding: int = 0) -> bytes:
    """Return the ``stream-open`` event behind a comment of ``padding`` spaces.

    ``event_id`` None: without an ``id`` line. Streams that open at the same place share the
    bytes, 2 KB that each of them would otherwise hold until its first event.
    """
    id_line = encode_id(event_id) if event_id else b""
    return encode_padding(padding) + b"event: stream-open\n" + id_line + b"data:\n\n"


def encode_reset(channels: list[str], event_id: str | None) -> bytes:
    """Return the ``stream-reset`` event for channels that a client missed events on."""
    return (
        b"event: stream-reset\n"
        + (encode_id(event_id) if event_id else b"")
        + encode_data(json.dumps({"channels": channels}))
    )


def encode_error(members: Mapping[str, object]) -> bytes:
    """Return the ``stream-error`` event; its data holds the given members.

    Its id is ``error``, so that a reconnecting client can be told to stop.
    """
    return b"event: stream-error\nid: error\n" + encode_data(json.dumps(members))


def encode_retry(milliseconds: int) -> bytes:
    """Return a block that sets the client's reconnection time."""
    return b"retry: %d\n\n" % milliseconds
