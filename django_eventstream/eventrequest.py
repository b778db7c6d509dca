"""From an HTTP request to a user, channels and positions."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from django.db import models
from django.http import HttpRequest
from django.utils.functional import LazyObject

from .channelmanager import call, get_channelmanager
from .conf import settings
from .event import check_channel
from .exceptions import BadRequest, EventPermissionError, ResumeNotAllowed
from .lasteventid import ERROR_ID, parse_last_event_id
from .storage import get_storage


class EventRequest:
    """What a client asks for.

    Made from a request: raises BadRequest (``EventRequest.Error``), ResumeNotAllowed, and
    whatever the channel manager raises. Without one, an empty request to be filled in.
    """

    __slots__ = (
        "channel_last_ids",
        "channels",
        "checked_at",
        "is_next",
        "is_recover",
        "user",
    )

    Error = BadRequest
    GripError = BadRequest
    ResumeNotAllowedError = ResumeNotAllowed

    def __init__(
        self,
        http_request: HttpRequest | None = None,
        channel_limit: int | None = None,
        view_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        #: The names of the channels, in the order of the Last-Event-ID.
        self.channels: list[str] = []
        #: The client's positions on those of them that it names.
        self.channel_last_ids: dict[str, int] = {}
        #: The user; None: anonymous.
        self.user: Any = None
        #: Whether this goes on with a stream that a proxy holds.
        self.is_next = False
        self.is_recover = False
        #: When the permissions were last checked, by the clock ``time.monotonic``.
        self.checked_at = 0.0
        if http_request is not None:
            limit = settings.channel_limit if channel_limit is None else channel_limit
            self._read(http_request, limit, view_kwargs or {})

    @property
    def user_id(self) -> str | None:
        """The user's primary key as text; None: anonymous."""
        return user_id(self.user)

    def reliable_channels(self) -> dict[str, bool]:
        """Return whether each channel is reliable."""
        manager = get_channelmanager()
        stored = get_storage() is not None
        return {
            channel: stored and bool(call(manager.is_channel_reliable, channel))
            for channel in self.channels
        }

    def check_permission(self, *, afresh: bool = False) -> None:
        """Raise EventPermissionError unless the user may read every channel.

        ``afresh``: load the user from the database first; one who was deleted or deactivated
        is forbidden everything.
        """
        self.checked_at = time.monotonic()
        if afresh and isinstance(self.user, models.Model):
            # type() of request.user would be that of a lazy wrapper.
            model = self.user._meta.model
            self.user, stale = model._base_manager.filter(pk=self.user.pk).first(), self.user
            if self.user is None:
                self.user = stale
                raise EventPermissionError.for_channels(self.channels)
        check_permission(self.user, self.channels)

    def _read(
        self, http_request: HttpRequest, channel_limit: int, view_kwargs: Mapping[str, Any]
    ) -> None:
        last_event_id = http_request.META.get("HTTP_LAST_EVENT_ID") or next(
            filter(None, reversed(http_request.GET.getlist("lastEventId"))), ""
        )
        if last_event_id == ERROR_ID:
            raise ResumeNotAllowed("This stream ended with an error and cannot be resumed.")
        self.user = current_user(getattr(http_request, "user", None))
        while isinstance(self.user, LazyObject):  # by now loaded, and it would keep the request
            self.user = vars(self.user)["_wrapped"]
        names = call(get_channelmanager().get_channels_for_request, http_request, view_kwargs)
        # Sorted: a set has another order in each process.
        self.channels = sorted(set(names))
        if not self.channels:
            raise BadRequest("No channels specified.")
        if len(self.channels) > channel_limit:
            raise BadRequest(
                f"Channel limit exceeded: a stream reads at most {channel_limit} channels."
            )
        for channel in self.channels:
            try:
                check_channel(channel)
            except (TypeError, ValueError) as error:
                raise BadRequest(str(error)) from error
        if last_event_id:
            positions = parse_last_event_id(last_event_id)
            self.channel_last_ids = {
                channel: positions[channel] for channel in self.channels if channel in positions
            }


def check_permission(user: Any, channels: Iterable[str]) -> None:
    """Raise EventPermissionError unless the user, who may be None, may read every channel."""
    denied = list(channels)
    if user is None or getattr(user, "is_active", True):
        manager = get_channelmanager()
        denied = [name for name in denied if not call(manager.can_read_channel, user, name)]
    if denied:
        raise EventPermissionError.for_channels(denied)


def current_user(user: Any) -> Any:
    """Return a user object as channel managers get it: None when it is no authenticated user."""
    return user if user is not None and getattr(user, "is_authenticated", True) else None


def user_id(user: Any) -> str | None:
    """Return a user's primary key as text; None when anonymous."""
    user = current_user(user)
    if user is None:
        return None
    return str(user.pk if hasattr(user, "pk") else user.id)
