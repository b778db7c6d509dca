"""What brokers carry between processes, and senders hand to the hubs of their own process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from .event import Event


@dataclass(frozen=True)
class Published:
    """An event to be given to the streams that read its channel."""

    event: Event

    @property
    def channel(self) -> str:
        """The event's channel."""
        return self.event.channel


@dataclass(frozen=True)
class Revoked:
    """A user lost the permission to read a channel; ``user_id`` None: anonymous streams."""

    user_id: str | None
    channel: str


@dataclass(frozen=True)
class Gap:
    """Messages may have been missed, on one channel, or (None) on any."""

    channel: str | None = None


Message: TypeAlias = Published | Revoked | Gap
