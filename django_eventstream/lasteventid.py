"""Last-Event-ID: the text that carries a client's positions.

``channel:id`` pairs joined by commas, channel names percent-encoded::

    a%20b:7,room:12

Percent-encoding takes colons and commas out of names, so the text splits without doubt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote, unquote

from .exceptions import BadRequest

_BAD_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")

#: The Last-Event-ID that a ``stream-error`` leaves behind.
ERROR_ID = "error"


def parse_last_event_id(text: str) -> dict[str, int]:
    """Return the position, an int from 0, of each channel that the text names.

    Raises BadRequest when the text is malformed, or names a channel twice.
    """
    positions: dict[str, int] = {}
    for pair in text.split(","):
        name, colon, number = pair.partition(":")
        # isdecimal() knows digits of other scripts, and int() signs, spaces and underscores.
        if not (name and colon and number.isascii() and number.isdecimal()):
            raise _malformed(text)
        if _BAD_ESCAPE.search(name):  # which unquote() takes literally
            raise _malformed(text)
        try:
            channel = unquote(name, errors="strict")
            position = int(number)
        except ValueError as error:  # no UTF-8, or more digits than int() accepts
            raise _malformed(text) from error
        if channel in positions:
            raise _malformed(text)
        positions[channel] = position
    return positions


def format_last_event_id(positions: Mapping[str, int]) -> str:
    """Return the text for positions, in their order; "" for none."""
    return ",".join(f"{format_channel(name)}{id_}" for name, id_ in positions.items())


def format_channel(channel: str) -> str:
    """Return what stands before the id of a channel: its name, encoded, and a colon."""
    return quote(channel) + ":"


def _malformed(text: str) -> BadRequest:
    return BadRequest(
        f"Malformed Last-Event-ID {text[:200]!r}: expected channel:id pairs joined by commas, "
        "channel names percent-encoded."
    )
