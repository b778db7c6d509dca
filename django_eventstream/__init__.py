"""Server-Sent Events for Django.

The public names are imported when first used (PEP 562): ``import django_eventstream`` needs
no settings, and neither Channels nor Redis nor Django REST framework.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # loaded when first used, by __getattr__: apps may not be ready
    from . import routing as routing
    from . import urls as urls
    from .eventrequest import EventRequest
    from .eventresponse import EventResponse
    from .eventstream import (
        asend_event,
        asend_events,
        channel_permission_changed,
        get_current_event_id,
        get_events,
        send_event,
        send_events,
    )
    from .exceptions import EventPermissionError

__all__ = [
    "EventPermissionError",
    "EventRequest",
    "EventResponse",
    "asend_event",
    "asend_events",
    "channel_permission_changed",
    "get_current_event_id",
    "get_events",
    "send_event",
    "send_events",
]

_MODULES = {
    "EventPermissionError": "exceptions",
    "EventRequest": "eventrequest",
    "EventResponse": "eventresponse",
    "asend_event": "eventstream",
    "asend_events": "eventstream",
    "channel_permission_changed": "eventstream",
    "get_current_event_id": "eventstream",
    "get_events": "eventstream",
    "send_event": "eventstream",
    "send_events": "eventstream",
}
_SUBMODULES = frozenset({"consumers", "routing", "urls", "views"})


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(f".{name}", __name__)
    if name in _MODULES:
        value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBMODULES})
