"""A process that reads the log for the harness, and trims it: one order a line, one answer a line.

read            the rows that have come, and how many have no number yet
trim CHANNEL ID
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from typing import Any

import django

django.setup()

from django.conf import settings
from django.db import connection

from django_eventstream.models import Event
from django_eventstream.storage import get_storage

PAGE = 1000


class Auditor:
    """Knows how far it has read on each channel."""

    def __init__(self, channels: list[str]) -> None:
        self._channels = channels
        self._known: dict[str, int] = defaultdict(int)

    def read(self) -> dict[str, Any]:
        rows: list[tuple[str, int | None, str]] = []
        pending = 0
        is_table = get_storage().is_transactional
        for channel in self._channels:
            known = self._known[channel]
            if is_table:  # not through the storage, which numbers what is pending
                new = Event.objects.filter(channel=channel, eid__gt=known).order_by("eid")
                found = [(eid, json.loads(data)) for eid, data in new.values_list("eid", "data")]
            else:
                found = self._read_storage(channel, known)
            rows += [(channel, event_id, data) for event_id, data in found]
        if is_table:
            pending = Event.objects.filter(eid__isnull=True).count()
        for channel, event_id, _ in rows:  # now that nothing has failed
            self._known[channel] = event_id or 0
        return {"rows": rows, "pending": pending}

    def _read_storage(self, channel: str, known: int) -> list[tuple[int | None, str]]:
        found: list[tuple[int | None, str]] = []
        while page := get_storage().get_events(channel, known + len(found), limit=PAGE):
            found += [(event.id, event.data) for event in page]
        return found

    def trim(self, channel: str, event_id: str) -> dict[str, Any]:
        last = int(event_id)
        if get_storage().is_transactional:
            Event.objects.filter(channel=channel, eid__lte=last).delete()
            return {}
        from redis import Redis  # not needed for the others

        with Redis.from_url(settings.EVENTSTREAM_STORAGE_CONNECTION) as client:
            for first in range(1, last + 1, PAGE):
                ids = range(first, min(first + PAGE, last + 1))
                client.delete(*[f"event:{channel}:{number}" for number in ids])
        return {}


def main(channels: list[str]) -> None:
    auditor = Auditor(channels)
    for line in sys.stdin:
        order, *arguments = line.split()
        try:
            answer = getattr(auditor, order)(*arguments)
        except Exception as error:
            answer = {"error": repr(error)}
        connection.close()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1].split(","))
