"""``manage.py eventstream_trim``."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from django_eventstream.storage import get_storage


class Command(BaseCommand):
    """Remove old events; for schedulers, where no process trims often enough."""

    help = (
        "Removes events beyond EVENTSTREAM_RETENTION and EVENTSTREAM_MAX_EVENTS_PER_CHANNEL. "
        "There are none with RedisStorage: Redis removes them by itself."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        storage = get_storage()
        if storage is None:
            raise CommandError("There is no storage: EVENTSTREAM_STORAGE_CLASS is not set.")
        self.stdout.write(f"Removed {storage.trim()} events.")
