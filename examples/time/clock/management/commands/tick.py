import time
from datetime import datetime, timezone

from django.core.management.base import BaseCommand

from django_eventstream import send_event


class Command(BaseCommand):
    help = "Sends the time to all pages, every second, until Ctrl-C."

    def handle(self, **options):
        second = int(time.time())
        while True:
            # A process that was held up makes up for it; after a computer's sleep it need not.
            second = max(second, int(time.time()) - 60) + 1
            try:
                time.sleep(max(0, second - time.time()))
            except KeyboardInterrupt:
                return
            send_event("time", "tick", {"time": datetime.fromtimestamp(second, timezone.utc)})
