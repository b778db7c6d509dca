"""What brokers carry between processes, and senders hand to the hubs of their own process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from .event import Event, check_channel, check_data, check_event_type


@dataclass(frozen=True)
class Published:
    """An event to be given to the streams that read its channel."""

    event: Event

    @property
    def channel(self) -> str:
        """The event's channel."""
        return self.event.channel


@dataclass(frozen=True)
class Stored:
    """The log has an event with this id on a channel, which the message is too small to carry."""

    channel: str
    id: int


@dataclass(frozen=True)
class Revoked:
    """A user lost the permission to read a channel; ``user_id`` None: anonymous streams."""

    user_id: str | None
    channel: str


@dataclass(frozen=True)
class Gap:
    """Messages may have been missed, on one channel, or (None) on any."""

    channel: str | None = None


Message: TypeAlias = Published | Stored | Revoked | Gap


@dataclass(frozen=True)
class Tally:
    """How far a sender has counted, and how many seconds ago, on each of some channels.

    It tells of messages that were lost with none behind them.
    """

    counts: Mapping[str, tuple[int, float]]
    channel: None = None


class Unreadable(ValueError):
    """A text is no message, or one of another version of the package."""


@dataclass(frozen=True)
class Envelope:
    """A message on its way to other processes.

    ``sequence`` counts 1, 2, 3 … what a sender sends on a channel, but for what the log has,
    whose ids do that: there it is None. ``pause`` is how many seconds before it the one before
    was sent.
    """

    message: Message | Tally
    sender: str
    sequence: int | None = None
    pause: float = 0.0

    @cached_property
    def text(self) -> str:
        """The envelope as a text (JSON), made once for all brokers."""
        message = self.message
        fields: dict[str, Any] = {"from": self.sender, "channel": message.channel}
        if self.sequence is not None:
            fields |= {"sequence": self.sequence, "pause": round(self.pause, 6)}
        if isinstance(message, Published):
            event = message.event
            fields |= {"kind": "published", "type": event.type, "data": event.data}
            if event.id is not None:
                fields["id"] = event.id
            if event.skip_user_ids:
                fields["skip"] = sorted(event.skip_user_ids)
        elif isinstance(message, Stored):
            fields |= {"kind": "stored", "id": message.id}
        elif isinstance(message, Revoked):
            fields |= {"kind": "revoked", "user": message.user_id}
        elif isinstance(message, Tally):
            fields |= {"kind": "tally", "counts": dict(message.counts)}
        else:
            fields["kind"] = "gap"
        # In ASCII, as json does by default: there are databases that hold nothing else.
        return json.dumps(fields, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str | bytes) -> Envelope:
        """Return what a text carries. Raises Unreadable."""
        try:
            fields = json.loads(text)
            sequence, pause = fields.get("sequence"), fields.get("pause", 0.0)
            _expect(sequence, int, type(None))
            _expect(pause, int, float)
            return cls(_message(fields), _expect(fields["from"], str), sequence, pause)
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise Unreadable(f"not a message of this version: {error!r}") from error


def _message(fields: dict[str, Any]) -> Message | Tally:
    kind, channel = fields["kind"], fields["channel"]
    if kind == "gap":
        return Gap(_expect(channel, str, type(None)))
    if kind == "tally":
        counts = fields["counts"].items()
        return Tally(
            {name: (_expect(last, int), _expect(ago, int, float)) for name, (last, ago) in counts}
        )
    channel = check_channel(channel)
    if kind == "stored":
        return Stored(channel, _event_id(fields["id"]))
    if kind == "revoked":
        return Revoked(_expect(fields["user"], str, type(None)), channel)
    if kind != "published":
        raise ValueError(f"kind {kind!r}")
    event_id = fields.get("id")
    # Checked as what is sent here: that it can be written, or else every stream would fail at it.
    return Published(
        Event(
            channel,
            check_event_type(fields["type"]),
            check_data(fields["data"]),
            None if event_id is None else _event_id(event_id),
            frozenset(_expect(user_id, str) for user_id in fields.get("skip", ())),
        )
    )


def _event_id(value: Any) -> int:
    if not 1 <= _expect(value, int) < 1 << 63:
        raise ValueError(f"id {value}")
    return int(value)


def _expect(value: Any, *types: type) -> Any:
    if type(value) not in types:  # exactly: True is an int
        raise TypeError(f"{value!r} is no {types[0].__name__}")
    return value
