"""``manage.py eventstream_raise_counters``."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from django_eventstream.storage import get_storage


class Command(BaseCommand):
    """Put ids out of reach of clients that know events which a restored backup does not."""

    help = (
        "Raises the counter of every channel. Run it after restoring the database, or Redis, from "
        "a backup: clients may have seen later events than it holds, and would miss as many new "
        "ones while the ids are counted again. Behind a raised counter they get a stream-reset."
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
        if storage is None:
            raise CommandError("There is no storage: EVENTSTREAM_STORAGE_CLASS is not set.")
        if by < 1:
            raise CommandError("--by takes a number from 1 up.")
        try:
            count = storage.raise_counters(by)
        except NotImplementedError as error:
            raise CommandError(
                f"{type(storage).__name__} (EVENTSTREAM_STORAGE_CLASS) has no raise_counters()."
            ) from error
        self.stdout.write(f"Raised {count} counters by {by}.")
