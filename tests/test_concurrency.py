"""Many writers and readers at once, in several processes, on each database."""

import json
import os
import subprocess
import sys
import threading
from collections import Counter

import pytest
from django.db import connection, transaction

from django_eventstream import send_event
from django_eventstream.storage import get_storage
from tests import settings
from tests.conftest import manage
from tests.processes import Process, serve

pytestmark = [pytest.mark.slow, pytest.mark.database]

#: How often each writer sends; larger by hand.
ROUNDS = int(os.environ.get("EVENTSTREAM_TEST_SIZE", "1")) * 15


def test_writers_and_resuming_readers(shared_database):
    """16 writers on 4 channels, half in transactions that sometimes roll back."""
    channels = [f"load-{number}" for number in range(4)]
    done = threading.Event()
    received = {}
    failures = []

    def read(site, reader):
        """Read two channels, dropping the connection after every few events."""
        mine = [channels[reader % 4], channels[(reader + 1) % 4]]
        path = "/events/?" + "&".join(f"channel={channel}" for channel in mine)
        log = received[reader] = {channel: [] for channel in mine}
        position = "load-0:0,load-1:0,load-2:0,load-3:0"
        try:
            while True:
                with site.open(path, position) as stream:
                    for _ in range(40 + reader):
                        event = stream.next()
                        if event.type == "message":
                            data = json.loads(event.data)
                            log[data.rpartition(":")[2]].append(data)
                        elif event.type == "end":
                            log[json.loads(event.data)].append("end")
                        else:
                            assert event.type == "stream-open", event
                        position = stream.last_event_id
                        if all(log[channel][-1:] == ["end"] for channel in mine):
                            return
        except Exception as error:
            failures.append((reader, repr(error)))
            raise
        finally:
            done.set()

    with serve("uvicorn", database=shared_database) as site:
        readers = [threading.Thread(target=read, args=[site, number]) for number in range(6)]
        for reader in readers:
            reader.start()
        environment = {
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "EVENTSTREAM_TEST_DATABASE_NAME": shared_database,
        }
        command = [sys.executable, "-m", "tests.project.manage", "write_events"]
        command += ["--threads=4", f"--rounds={ROUNDS}", "--prefix=load"]
        writers = [
            subprocess.Popen(
                [*command, f"--process={number}"],
                env={**os.environ, **environment},
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(4)
        ]
        committed = {channel: {} for channel in channels}
        for writer in writers:
            output, _ = writer.communicate(timeout=300)
            result = json.loads(output)
            assert result["errors"] == []
            for name, logs in result["committed"].items():
                for channel, data in logs.items():
                    committed[channel][name] = data
        site.send(*({"channel": c, "event_type": "end", "data": c} for c in channels))
        for reader in readers:
            reader.join(120)
        assert failures == []
        assert not any(reader.is_alive() for reader in readers)

    for log in received.values():
        for channel, data in log.items():
            assert data.pop() == "end"
            everything = Counter(item for items in committed[channel].values() for item in items)
            assert Counter(data) == everything  # no loss, no phantom, nothing twice
            for name, items in committed[channel].items():
                assert [item for item in data if item.startswith(f"{name}:")] == items
            # Whoever reads it, a channel has one order.
            others = [other[channel] for other in received.values() if channel in other]
            for other in others:
                assert [item for item in other if item != "end"] == data


@pytest.mark.parametrize("end", ["live", "resumed"])
def test_process_killed_between_commit_and_publication_loses_nothing(shared_database, end):
    channel = f"killed-{end}"
    environment = {
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "EVENTSTREAM_TEST_DATABASE_NAME": shared_database,
    }
    command = [sys.executable, "-m", "tests.project.manage", "die_after_commit", channel]
    with serve("uvicorn", database=shared_database) as site:
        path = f"/events/?channel={channel}"
        with site.open(path) as stream:
            stream.next()
            if end == "live":
                with Process(command, env=environment) as process:
                    assert process.popen.wait(30) == 9
                assert [json.loads(event.data) for event in stream.take(2)] == [1, 2]
        if end == "resumed":
            with Process(command, env=environment) as process:
                assert process.popen.wait(30) == 9
            with site.open(path, f"{channel}:0") as stream:
                assert [json.loads(event.data) for event in stream.take(3)[1:]] == [1, 2]


@pytest.mark.parametrize("inserts", [1, 2, 3])
def test_process_killed_while_it_sends_many_leaves_all_or_none(shared_database, inserts):
    """700 events are three inserts of a batch each: it dies after each, before the commit."""
    channel = f"many-{inserts}"
    environment = {
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "EVENTSTREAM_TEST_DATABASE_NAME": shared_database,
    }
    die = ["tests.project.manage", "die_sending_many", channel, str(inserts)]
    with Process([sys.executable, "-m", *die], env=environment) as process:
        assert process.popen.wait(30) == 9
    code = (
        "from django_eventstream import send_event as s;"
        "from django_eventstream.models import Event as E;"
        f"assert not E.objects.filter(channel={channel!r}).exists();"
        f"assert s({channel!r}, 'm', 1).id == 1"
    )
    manage(shared_database, "shell", "-c", code)


def test_events_of_another_process_arrive_by_the_poll(shared_database):
    with (
        serve("uvicorn", database=shared_database) as site,
        site.open("/events/?channel=polled") as stream,
    ):
        stream.next()
        code = "from django_eventstream import send_event as s; s('polled', 'message', 1)"
        manage(shared_database, "shell", "-c", code)
        assert json.loads(stream.next().data) == 1


def test_server_killed_under_streams_resumes(shared_database):
    path, position = "/events/?channel=crash", "crash:0"
    received = []
    for round_ in range(3):
        with serve("uvicorn", database=shared_database) as site:
            with site.open(path, position) as stream:
                stream.next()
                behind = 2 if round_ else 0
                received += [json.loads(event.data) for event in stream.take(behind)]
                site.send(
                    *(
                        {"channel": "crash", "event_type": "m", "data": [round_, n]}
                        for n in range(3)
                    )
                )
                received.append(json.loads(stream.next().data))
                position = stream.last_event_id
                site.process.kill()
    assert received == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2], [2, 0]]


@pytest.mark.django_db(transaction=True)
def test_sender_does_not_wait_for_an_open_transaction():
    entered, leave = threading.Event(), threading.Event()

    def hold():
        try:
            with transaction.atomic():
                send_event("a", "m", "held")
                send_event("b", "m", "held")
                entered.set()
                assert leave.wait(20)
        finally:
            connection.close()

    holder = threading.Thread(target=hold)
    holder.start()
    assert entered.wait(20)
    if settings.BACKEND == "sqlite":  # which has one writer at a time
        leave.set()
        holder.join()
    try:
        sent = [send_event("b", "m", 1).id]
        with transaction.atomic():
            send_event("b", "m", 2)
            send_event("a", "m", 2)
        sent += get_storage().get_current_ids(["a", "b"]).values()
    finally:
        leave.set()
        holder.join()
    current_ids = get_storage().get_current_ids(["a", "b"])
    data = [event.data for event in get_storage().get_events("b", 0)]
    assert current_ids == {"a": 2, "b": 3}
    if settings.BACKEND == "sqlite":
        assert sent == [2, 2, 3]
        assert data == ['"held"', "1", "2"]
    else:
        assert sent == [1, 1, 2]
        assert data == ["1", "2", '"held"']
