"""The event, as every part of the package hands it on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .sse import clean_field

#: The longest channel name and event type, in characters.
MAX_NAME_LENGTH = 255

#: Types that the stream itself uses.
RESERVED_TYPES = frozenset({"stream-open", "stream-reset", "stream-error", "keep-alive"})


@dataclass(frozen=True, slots=True)
class Event:
    """One event.

    ``data`` is the encoded text. ``id`` is the event's number on its channel: None on an
    unreliable channel, and while the event waits for the commit of its transaction.
    """

    channel: str
    type: str
    data: str
    id: int | None = None
    #: Ids (as text) of the users who must not get the event.
    skip_user_ids: frozenset[str] = frozenset()


def check_channel(channel: str) -> str:
    """Return the name as a plain ``str``.

    Raises TypeError for what is no text, ValueError for what no storage could hold.
    """
    return _check_name(channel, "channel name")


def check_event_type(event_type: str) -> str:
    """Return the type as it goes over the wire: a plain ``str`` without CR, LF and NUL.

    Raises TypeError for what is no text, ValueError for a reserved or too long type.
    """
    if not isinstance(event_type, str):
        raise TypeError(f"An event type is a str, not {type(event_type).__name__}.")
    # Cleaned first: "stream-\nopen" must not pass as something else than it becomes.
    event_type = clean_field(str.__str__(event_type))
    if event_type in RESERVED_TYPES:
        raise ValueError(
            f"The event type {event_type!r} is reserved for the stream itself; use another."
        )
    if len(event_type) > MAX_NAME_LENGTH:
        raise ValueError(
            f"An event type has at most {MAX_NAME_LENGTH} characters, this one {len(event_type)}."
        )
    return _check_encodable(event_type, "event type")


def check_skip_user_ids(user_ids: Iterable[Any] | None) -> frozenset[str]:
    """Return user ids (int, str, UUID …) as a set of text, as streams compare them."""
    if user_ids is None:
        return frozenset()
    if isinstance(user_ids, (str, bytes)) or not isinstance(user_ids, Iterable):
        what = "text" if isinstance(user_ids, (str, bytes)) else type(user_ids).__name__
        raise TypeError(f"skip_user_ids is a list of user ids, not one {what}.")
    return frozenset(map(_check_user_id, user_ids))


def _check_user_id(user_id: Any) -> str:
    if hasattr(user_id, "pk"):  # whose text would be a name, and skip nobody
        raise TypeError("skip_user_ids is a list of user ids, not of users; give user.pk.")
    return str(user_id)


def check_data(data: str) -> str:
    """Return encoded data unchanged if it can be written to a stream.

    Raises TypeError for what is no text, ValueError for lone surrogates.
    """
    if not isinstance(data, str):
        raise TypeError(
            f"With json_encode=False the data is a str that is sent as it is, "
            f"not {type(data).__name__}."
        )
    return _check_encodable(str.__str__(data), "event data")


def _check_name(name: str, what: str) -> str:
    if not isinstance(name, str):
        raise TypeError(f"A {what} is a str, not {type(name).__name__}.")
    # str.__str__: members of text enumerations become their value.
    name = str.__str__(name)
    if not name:
        raise ValueError(f"A {what} is at least one character long.")
    if len(name) > MAX_NAME_LENGTH:
        raise ValueError(
            f"A {what} has at most {MAX_NAME_LENGTH} characters, this one {len(name)}."
        )
    if "\0" in name:
        raise ValueError(f"A {what} contains no NUL character: {name!r}.")
    return _check_encodable(name, what)


def _check_encodable(text: str, what: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"The {what} cannot be encoded as UTF-8: {error}.") from error
    return text
