"""A process that is killed between the commit of its events and their publication."""

import os

from django.core.management.base import BaseCommand
from django.db import transaction

from django_eventstream import send_event


class Command(BaseCommand):
    """Sends two events on a channel, commits, and dies before they are numbered."""

    def add_arguments(self, parser):
        parser.add_argument("channel")

    def handle(self, *, channel, **options):
        with transaction.atomic():
            transaction.on_commit(lambda: os._exit(9))
            send_event(channel, "message", 1)
            send_event(channel, "message", 2)
