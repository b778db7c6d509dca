"""What a project with strict type checks writes; mypy reads it, nothing runs it."""

from typing import Any

from django_eventstream import channel_permission_changed, send_event, send_events
from django_eventstream.channelmanager import DefaultChannelManager
from django_eventstream.event import Event


class Plain(DefaultChannelManager):
    def can_read_channel(self, user: Any, channel: str) -> bool:
        return user is not None and bool(super().can_read_channel(user, channel))


class Asynchronous(DefaultChannelManager):
    async def can_read_channel(self, user: Any, channel: str) -> bool:
        return user is not None

    async def is_channel_reliable(self, channel: str) -> bool:
        return channel.startswith("log-")


def post(user: Any) -> int | None:
    event: Event = send_event("test", "message", {"x": 1}, skip_user_ids=[user.pk])
    several: list[Event] = send_events([("test", "message", 1), ("test", "message", 2, [user.pk])])
    assert several
    channel_permission_changed(user, "test")
    return event.id
