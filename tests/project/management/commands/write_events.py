"""Writers for the concurrency test: threads that send, half of them inside transactions."""

import json
import random
import threading

from django.core.management.base import BaseCommand
from django.db import connection, transaction

from django_eventstream import send_event


class Rollback(Exception):
    """Ends a transaction."""


class Command(BaseCommand):
    """Prints the data of each committed event, per writer and channel, as JSON."""

    def add_arguments(self, parser):
        parser.add_argument("--process", type=int)
        parser.add_argument("--threads", type=int)
        parser.add_argument("--rounds", type=int)
        parser.add_argument("--prefix")

    def handle(self, *, process, threads, rounds, prefix, **options):
        channels = [f"{prefix}-{number}" for number in range(4)]
        committed = {}
        errors = []

        def write(number):
            name = f"{process}.{number}"
            source = random.Random(name)
            mine = committed[name] = {channel: [] for channel in channels}
            # Opposite orders, which would deadlock if the counters were locked meanwhile.
            order = channels if number % 4 < 2 else channels[::-1]
            try:
                for round_ in range(rounds):
                    sent = [(channel, f"{name}:{round_}:{channel}") for channel in order]
                    if number % 2:
                        try:
                            with transaction.atomic():
                                for channel, data in sent:
                                    send_event(channel, "message", data)
                                if source.random() < 0.3:
                                    raise Rollback
                        except Rollback:
                            continue
                    else:
                        for channel, data in sent:
                            send_event(channel, "message", data)
                    for channel, data in sent:
                        mine[channel].append(data)
            except Exception as error:
                errors.append(repr(error))
                raise
            finally:
                connection.close()

        writers = [threading.Thread(target=write, args=[number]) for number in range(threads)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        self.stdout.write(json.dumps({"committed": committed, "errors": errors}))
