"""``manage.py eventstream_raise_counters``."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db.models import F

from django_eventstream.models import EventCounter
from django_eventstream.storage import get_storage
from django_eventstream.storage.database import DjangoModelStorage


class Command(BaseCommand):
    """Put ids out of reach of clients that know events which a restored backup does not."""

    help = (
        "Raises the counter of every channel. Run it after restoring the database from a backup: "
        "clients may have seen later events than it holds, and would miss as many new ones "
        "while the ids are counted again. Behind a raised counter they get a stream-reset."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--by",
            type=int,
            default=1_000_000,
            help="More than any channel can have sent since the backup (default: %(default)s).",
        )

    def handle(self, *args: Any, by: int = 0, **options: Any) -> None:
        storage = get_storage()
        if not isinstance(storage, DjangoModelStorage):
            raise CommandError("EVENTSTREAM_STORAGE_CLASS is no DjangoModelStorage.")
        if by < 1:
            raise CommandError("--by takes a number from 1 up.")
        counters = EventCounter.objects.using(storage.using)
        self.stdout.write(f"Raised {counters.update(value=F('value') + by)} counters by {by}.")
