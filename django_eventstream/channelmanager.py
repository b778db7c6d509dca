"""Who reads what: the one place where a project decides about channels."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from asgiref.sync import async_to_sync
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.core.signals import setting_changed
from django.http import HttpRequest
from django.utils.module_loading import import_string

from . import threads
from .conf import settings

METHODS = ("get_channels_for_request", "can_read_channel", "is_channel_reliable")


class ChannelManagerBase:
    """The contract of channel managers. Each method may be plain or ``async def``.

    One instance serves the whole process, from any thread. (What the methods return is
    annotated as Any, so that type checkers let subclasses choose between the two.)
    """

    def get_channels_for_request(self, request: HttpRequest, view_kwargs: Mapping[str, Any]) -> Any:
        """Return the names of the channels that a request is to read.

        ``view_kwargs`` are the keyword arguments of the URL pattern. May raise BadRequest or
        EventPermissionError.
        """
        raise NotImplementedError

    def can_read_channel(self, user: Any, channel: str) -> Any:
        """Return whether a user may read a channel; ``user`` is None when anonymous."""
        raise NotImplementedError

    def is_channel_reliable(self, channel: str) -> Any:
        """Return whether a channel's events are stored; without a storage, none are."""
        raise NotImplementedError


class DefaultChannelManager(ChannelManagerBase):
    """Channels from the URL pattern, else from ``channel`` parameters; everything allowed."""

    def get_channels_for_request(self, request: HttpRequest, view_kwargs: Mapping[str, Any]) -> Any:
        """Return the channels that the URL pattern or, without keywords, the client names.

        ``format-channels`` (a list, formatted with the other keywords) goes before
        ``channels`` (a list) and ``channel`` (one name).
        """
        if "format-channels" in view_kwargs:
            names = _check_list(view_kwargs["format-channels"], "format-channels")
            try:
                return {name.format(**view_kwargs) for name in names}
            except (AttributeError, LookupError, ValueError) as error:
                raise ImproperlyConfigured(
                    f"'format-channels': {names!r} cannot be formatted with the arguments "
                    f"{sorted(view_kwargs)} of the URL pattern: {error!r}."
                ) from error
        if "channels" in view_kwargs:
            return set(_check_list(view_kwargs["channels"], "channels"))
        if "channel" in view_kwargs:
            return {view_kwargs["channel"]}
        if view_kwargs:
            return set()
        return set(filter(None, request.GET.getlist("channel")))

    def can_read_channel(self, user: Any, channel: str) -> Any:
        """Allow everybody everything."""
        return True

    def is_channel_reliable(self, channel: str) -> Any:
        """Make every channel reliable."""
        return True


def _check_list(names: Iterable[str], keyword: str) -> Iterable[str]:
    if isinstance(names, str):  # an iterable too, of one channel for each letter
        raise ImproperlyConfigured(
            f"The keyword {keyword!r} of a URL pattern is a list of channel names, not one text: "
            f"write {{{keyword!r}: [{names!r}]}}."
        )
    return names


@cache
def get_channelmanager() -> ChannelManagerBase:
    """Return the project's channel manager.

    Raises ImproperlyConfigured when ``EVENTSTREAM_CHANNELMANAGER_CLASS`` names none.
    """
    path = settings.channelmanager_class
    try:
        manager: ChannelManagerBase = import_string(path)()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ImproperlyConfigured(
            f"EVENTSTREAM_CHANNELMANAGER_CLASS: {path!r} cannot be loaded ({error!r}); "
            "give the dotted path of a subclass of DefaultChannelManager."
        ) from error
    for name in METHODS:
        if not callable(getattr(manager, name, None)):
            raise ImproperlyConfigured(
                f"EVENTSTREAM_CHANNELMANAGER_CLASS: {path!r} has no method {name}; "
                "let it inherit from django_eventstream.channelmanager.DefaultChannelManager."
            )
    return manager


def may_block() -> bool:
    """Return whether the project's channel manager may do I/O: if it has a method of its own."""
    manager = get_channelmanager()
    return any(
        getattr(getattr(manager, name), "__func__", None)
        is not getattr(DefaultChannelManager, name)
        for name in METHODS
    )


def call(method: Callable[..., Any], *args: Any) -> Any:
    """Call a channel manager's method, plain or ``async def``, from synchronous code."""
    result = method(*args)
    if inspect.isawaitable(result):
        if threads.is_on_event_loop():
            if inspect.iscoroutine(result):
                result.close()
            raise SynchronousOnlyOperation(
                "The channel manager is asynchronous and cannot be asked on an event loop by "
                "synchronous code: await asend_event(), or sync_to_async() of other functions."
            )

        async def wait() -> Any:
            return await result

        return async_to_sync(wait)()
    return result


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting == "EVENTSTREAM_CHANNELMANAGER_CLASS":
        get_channelmanager.cache_clear()


setting_changed.connect(_forget)
