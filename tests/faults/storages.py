"""Storages with faults."""

from __future__ import annotations

import os
import signal

from django_eventstream.event import Event
from django_eventstream.storage.database import DjangoModelStorage
from tests.faults import inside


class MortalStorage(DjangoModelStorage):
    """The log in the database, of a process that may die between commit and numbering."""

    def number_pending(self, channel: str) -> list[Event]:
        if inside.NAME in inside.orders().get("die", ()):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().number_pending(channel)
