"""A process that is killed while it sends many events."""

import os

from django.core.management.base import BaseCommand
from django.db import connection

from django_eventstream import send_events


class Command(BaseCommand):
    """Sends 700 events on a channel, and dies after some of the inserts."""

    def add_arguments(self, parser):
        parser.add_argument("channel")
        parser.add_argument("inserts", type=int)

    def handle(self, *, channel, inserts, **options):
        def count(execute, sql, params, many, context):
            nonlocal inserts
            result = execute(sql, params, many, context)
            if sql.startswith("INSERT INTO") and "eid" in sql:
                inserts -= 1
                if not inserts:
                    os._exit(9)
            return result

        with connection.execute_wrapper(count):
            send_events((channel, "message", number) for number in range(700))
