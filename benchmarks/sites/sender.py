"""Processes that send: ``python -m sender WAY SECONDS CHANNEL ...``, one for each channel.

They begin together. Prints how many events a second there were in all.
"""

import json
import multiprocessing
import sys
import time
from functools import partial

import django

django.setup()

from django.db import connection, transaction
from django.utils import timezone

import django_eventstream
from django_eventstream import send_event

DATA = {"id": 1, "text": "x" * 100}


def in_bare_transaction(channel):
    """Do what a log with numbers cannot do without."""
    now = timezone.now()
    if connection.vendor == "sqlite":
        now = now.isoformat(" ")
    text = json.dumps(json.dumps(DATA))
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            "UPDATE django_eventstream_eventcounter SET value = value + 1, updated = %s"
            " WHERE name = %s",
            [now, channel],
        )
        cursor.execute(
            "SELECT value FROM django_eventstream_eventcounter WHERE name = %s", [channel]
        )
        (value,) = cursor.fetchone()
        cursor.execute(
            "INSERT INTO django_eventstream_event (channel, type, data, eid, created)"
            " VALUES (%s, %s, %s, %s, %s)",
            [channel, "message", text, value, now],
        )
    return 1


def one_by_one(channel):
    send_event(channel, "message", DATA)
    return 1


def many(size, channel):
    django_eventstream.send_events([(channel, "message", DATA)] * size)
    return size


WAYS = {
    "bare": in_bare_transaction,
    "single": one_by_one,
    "100": partial(many, 100),
    "1000": partial(many, 1000),
}


def run(way, channel, start, seconds, counts):
    send = WAYS[way]
    one_by_one(channel)  # so that there is a counter
    for _ in range(10):  # what is imported or connected at first is not measured
        send(channel)
    start.wait()
    sent = 0
    started = time.monotonic()
    while (now := time.monotonic()) < started + seconds:
        sent += send(channel)
    counts.put(sent / (now - started))


def main(way, seconds, *channels):
    context = multiprocessing.get_context("fork")
    start, counts = context.Barrier(len(channels)), context.SimpleQueue()
    senders = [
        context.Process(target=run, args=[way, channel, start, float(seconds), counts])
        for channel in channels
    ]
    for sender in senders:
        sender.start()
    print(sum(counts.get() for _ in senders))
    for sender in senders:
        sender.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
