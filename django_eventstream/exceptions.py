"""The errors of the package, in one tree.

EventStreamError
├── StreamError               ends a stream with one ``stream-error``
│   ├── BadRequest            condition ``bad-request``: the client's fault
│   │   └── ResumeNotAllowed  answered with a plain 400, so that an EventSource stops
│   ├── EventPermissionError  condition ``forbidden``
│   └── InternalError         condition ``internal-error``: the project's configuration
├── EventDoesNotExist         a position that a storage does not hold
└── StorageUnavailable        the log cannot be read now; retrying can mend it
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar


class EventStreamError(Exception):
    """Base class of the package's errors."""


class StreamError(EventStreamError):
    """An error that a client is told of, as the last thing in its stream."""

    #: The ``condition`` member of the ``stream-error`` event's data.
    condition: ClassVar[str] = "internal-error"

    @property
    def members(self) -> dict[str, object]:
        """What the ``stream-error`` event's data holds."""
        return {"condition": self.condition, "text": str(self)}


class BadRequest(StreamError, ValueError):
    """The request cannot be served as it is."""

    condition = "bad-request"


class ResumeNotAllowed(BadRequest):
    """The client reconnected after a ``stream-error``."""


class EventPermissionError(StreamError):
    """The user may not read one or more of the channels.

    ``channels`` lists them.
    """

    condition = "forbidden"

    def __init__(self, message: str, channels: Iterable[str] | None = None) -> None:
        super().__init__(message)
        self.channels: list[str] = list(channels or ())

    @classmethod
    def for_channels(cls, channels: Iterable[str]) -> EventPermissionError:
        """The error with the sentence that every driver uses."""
        channels = list(channels)
        return cls(f"Permission denied to channels: {', '.join(channels)}", channels)

    @property
    def members(self) -> dict[str, object]:
        return {**super().members, "channels": self.channels}


class InternalError(StreamError):
    """A fault of the project's configuration, which retrying cannot mend."""


class EventDoesNotExist(EventStreamError):
    """A storage does not hold what follows a position: it was trimmed, or never was.

    ``current_id`` is the id of the channel's latest event, 0 if there was none.
    """

    def __init__(self, message: str, current_id: int) -> None:
        super().__init__(message)
        self.current_id = current_id


class StorageUnavailable(EventStreamError):
    """The log could not be read; the cause is chained."""


def describe(error: Exception) -> str:
    """Return an error for the log: the repr of redis-py's does not say what they do."""
    return f"{type(error).__name__}: {error}"
