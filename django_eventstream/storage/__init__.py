"""Event logs: what makes channels reliable."""

from __future__ import annotations

import inspect
from functools import cache
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from ..conf import settings
from ..event import Event
from ..exceptions import EventDoesNotExist
from .base import StorageBase

if TYPE_CHECKING:  # loaded when first used, by __getattr__: see there
    from .database import DjangoModelStorage
    from .redis import RedisStorage

__all__ = [
    "DjangoModelStorage",
    "Event",
    "EventDoesNotExist",
    "RedisStorage",
    "StorageBase",
    "get_storage",
    "stores_skipped",
]


#: What every storage has of its own.
METHODS = ("append_event", "get_events", "get_current_id")


@cache
def get_storage() -> StorageBase | None:
    """Return the project's storage, None when there is none.

    Raises ImproperlyConfigured when ``EVENTSTREAM_STORAGE_CLASS`` cannot be loaded.
    """
    path = settings.storage_class
    if not path:
        return None
    try:
        storage = import_string(path)()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ImproperlyConfigured(
            f"EVENTSTREAM_STORAGE_CLASS: {path!r} cannot be loaded ({error!r}); give the dotted "
            "path of a storage, such as 'django_eventstream.storage.DjangoModelStorage'."
        ) from error
    if not isinstance(storage, StorageBase):
        raise ImproperlyConfigured(
            f"EVENTSTREAM_STORAGE_CLASS: {path!r} is no storage; "
            "let it inherit from django_eventstream.storage.StorageBase."
        )
    for name in METHODS:
        if getattr(type(storage), name) is getattr(StorageBase, name):
            raise ImproperlyConfigured(
                f"EVENTSTREAM_STORAGE_CLASS: {path!r} has no method {name}; "
                "see the docstrings of django_eventstream.storage.StorageBase."
            )
    return storage


@cache
def stores_skipped(storage: StorageBase) -> bool:
    """Return whether a storage keeps ``skip_user_ids``; those of version 5.3.4 do not."""
    parameters = inspect.signature(storage.append_event).parameters
    return "skip_user_ids" in parameters or any(
        parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()
    )


@cache
def stores_many(storage: StorageBase) -> bool:
    """Return whether ``append_events`` does what ``append_event`` does.

    A project may have changed the latter alone, in a subclass that inherits the former.
    """
    classes = type(storage).__mro__
    one, many = (
        next(place for place, cls in enumerate(classes) if name in vars(cls))
        for name in ("append_event", "append_events")
    )
    return many <= one


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting in ("EVENTSTREAM_STORAGE_CLASS", "EVENTSTREAM_STORAGE_CONNECTION"):
        get_storage.cache_clear()
        stores_skipped.cache_clear()
        stores_many.cache_clear()


setting_changed.connect(_forget)


# Lazily, for this module is imported before the project's apps are ready, and without Redis.
def __getattr__(name: str) -> Any:
    if name == "DjangoModelStorage":
        from .database import DjangoModelStorage

        return DjangoModelStorage
    if name == "RedisStorage":
        from .redis import RedisStorage

        return RedisStorage
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
