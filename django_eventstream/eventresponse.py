"""What one read of the log found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .event import Event


@dataclass
class EventResponse:
    """The events that an EventRequest asks for, as far as one read goes."""

    #: Per channel, what follows the client's position.
    channel_items: dict[str, list[Event]] = field(default_factory=dict)
    #: Per reliable channel, the position from which the items go on.
    channel_last_ids: dict[str, int] = field(default_factory=dict)
    #: The channels on which the client missed events that cannot be given to it.
    channel_reset: set[str] = field(default_factory=set)
    #: The channels on which the log holds more than was read.
    channel_more: set[str] = field(default_factory=set)
    is_next: bool = False
    is_recover: bool = False
    user: Any = None
