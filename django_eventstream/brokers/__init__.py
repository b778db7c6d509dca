"""Brokers: what carries events and control messages out of the process."""

from __future__ import annotations

import logging
import os
from functools import cache
from typing import Any

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from ..messages import Message
from .base import BrokerBase

__all__ = ["BrokerBase", "get_brokers", "publish"]

logger = logging.getLogger("django_eventstream")

#: Brokers that a project asks for by other settings than the package's own.
IMPLIED = {
    "django_eventstream.brokers.grip.GripBroker": (
        *("GRIP_URL", "GRIP_PROXIES", "GRIP_PROXY_REQUIRED"),
    )
}


@cache
def get_brokers() -> tuple[BrokerBase, ...]:
    """Return the project's brokers.

    Raises ImproperlyConfigured when their settings cannot be used.
    """
    return tuple(
        import_string(path)()
        for path, settings in IMPLIED.items()
        if any(getattr(django_settings, setting, None) for setting in settings)
    )


def publish(message: Message, *, wait: bool = False) -> None:
    """Have every broker carry a message; nothing is raised, for brokers are hints."""
    try:
        brokers = get_brokers()
    except ImproperlyConfigured:
        logger.exception("The brokers are not configured correctly, nothing leaves this process")
        return
    for broker in brokers:
        try:
            broker.publish(message, wait=wait)
        except Exception:
            logger.exception("A broker failed, left to the event log: %r", message)


def _forget(*, setting: str, **kwargs: Any) -> None:
    if any(setting in settings for settings in IMPLIED.values()):
        if get_brokers.cache_info().currsize:
            for broker in get_brokers():
                broker.close()
        get_brokers.cache_clear()


setting_changed.connect(_forget)

# A forked child has none of the threads that its parent's brokers work with.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=get_brokers.cache_clear)
