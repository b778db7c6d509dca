"""Storages for tests."""

import threading
from collections import defaultdict
from dataclasses import replace

from django_eventstream.event import Event
from django_eventstream.exceptions import EventDoesNotExist
from django_eventstream.storage import StorageBase
from django_eventstream.storage.database import DjangoModelStorage


class MemoryStorage(StorageBase):
    """A storage that no transaction reaches, complete but for its persistence."""

    def __init__(self):
        self._lock = threading.Lock()
        self._events = defaultdict(list)
        self._trimmed = defaultdict(int)

    def append_event(self, channel, event_type, data, *, skip_user_ids=()):
        with self._lock:
            log = self._events[channel]
            event_id = self._trimmed[channel] + len(log) + 1
            log.append(Event(channel, event_type, data, event_id, frozenset(skip_user_ids)))
            return log[-1]

    def get_events(self, channel, last_id, limit=100):
        with self._lock:
            current_id = self._trimmed[channel] + len(self._events[channel])
            if not self._trimmed[channel] <= last_id <= current_id:
                raise EventDoesNotExist(f"no event {last_id + 1}", current_id)
            start = last_id - self._trimmed[channel]
            return self._events[channel][start : start + limit]

    def get_current_id(self, channel):
        with self._lock:
            return self._trimmed[channel] + len(self._events[channel])


class ThreeArguments(StorageBase):
    """A storage as version 5.3.4 asked for."""

    def __init__(self):
        self._events = MemoryStorage()

    def append_event(self, channel, event_type, data):
        return self._events.append_event(channel, event_type, data)

    def get_events(self, channel, last_id, limit=100):
        return self._events.get_events(channel, last_id, limit)

    def get_current_id(self, channel):
        return self._events.get_current_id(channel)


class CannotNumber(DjangoModelStorage):
    """A storage that loses its database when it comes to one channel."""

    def number_pending(self, channel):
        if channel == "broken":
            raise ConnectionError("the database has gone away")
        return super().number_pending(channel)


class Shouting(DjangoModelStorage):
    """A project's storage that changes what is stored, and knows of single events only."""

    def append_event(self, channel, event_type, data, **kwargs):
        if data == '"refused"':
            raise ValueError(data)
        return super().append_event(channel, event_type, data.upper(), **kwargs)


class ShoutingMuch(Shouting):
    """The same for many at once."""

    def append_events(self, events):
        return super().append_events([replace(e, data=f"{e.data.upper()}!") for e in events])
