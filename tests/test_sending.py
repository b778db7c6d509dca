"""Sending: validation, numbering, transactions; without streams."""

import contextlib
import datetime
import enum
import json
import threading
import uuid
from unittest import mock

import pytest
from django.core.exceptions import SynchronousOnlyOperation
from django.db import DatabaseError, connection, transaction
from django.db.models.signals import post_save
from django.test import TestCase, TransactionTestCase, override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_eventstream import (
    asend_event,
    asend_events,
    get_current_event_id,
    hub,
    send_event,
    send_events,
)
from django_eventstream.models import BrokerMessage, Event, EventCounter
from django_eventstream.storage import get_storage
from django_eventstream.testing import capture_events
from tests.processes import wait_until
from tests.settings import BACKEND, ISOLATION

#: Whether an event is appended by a statement of its own; elsewhere it takes a transaction.
IS_ONE_STATEMENT = BACKEND == "postgresql" and not ISOLATION

pytestmark = pytest.mark.database


def rows(channel):
    return list(Event.objects.filter(channel=channel).order_by("id").values_list("eid", flat=True))


def is_waiting_for_a_lock(process):
    with connection.cursor() as cursor:
        cursor.execute("SELECT wait_event_type FROM pg_stat_activity WHERE pid = %s", [process])
        return cursor.fetchone() == ("Lock",)


def ids(events):
    return [event.id for event in events]


class OutsideTransactions(TransactionTestCase):
    def test_event_is_stored_numbered_and_published_at_once(self):
        with capture_events() as published:
            event = send_event("a", "message", {"n": 1})
        assert (event.channel, event.type, event.data, event.id) == ("a", "message", '{"n": 1}', 1)
        assert published == [event]
        row = Event.objects.get()
        assert (row.channel, row.type, row.eid) == ("a", "message", 1)
        # As version 5.3.4 stores it: a JSON string of the text.
        assert row.data == json.dumps('{"n": 1}')

    def test_ids_count_per_channel_without_gaps(self):
        assert [send_event("a", "m", n).id for n in range(3)] == [1, 2, 3]
        assert send_event("b", "m", 0).id == 1
        assert get_current_event_id(["b", "a", "c"]) == "b:1,a:3,c:0"

    def test_names_are_compared_exactly(self):
        names = ["name", "NAME", "näme", "name ", " name", "ñame"]
        for name in names:
            assert send_event(name, "m", name).id == 1
        storage = get_storage()
        for name in names:
            (event,) = storage.get_events(name, 0)
            assert json.loads(event.data) == name
        assert send_event("NAME", "m", 2).id == 2

    def test_any_text_survives_the_log(self):
        text = "\0 \x7f ‮ 😀 \r\n ' \" \\ %s {}"
        send_event("a", "m", text)
        send_event("a", "m", text, json_encode=False)
        encoded, plain = get_storage().get_events("a", 0)
        assert json.loads(encoded.data) == plain.data == text

    def test_data_is_encoded_by_djangos_encoder(self):
        data = {"at": datetime.date(2026, 1, 2), "key": uuid.UUID(int=1)}
        assert json.loads(send_event("a", "m", data).data) == {
            "at": "2026-01-02",
            "key": "00000000-0000-0000-0000-000000000001",
        }

    def test_users_to_skip_are_stored_as_text(self):
        key = uuid.UUID(int=1)
        event = send_event("a", "m", 1, skip_user_ids=[1, "2", key])
        assert event.skip_user_ids == {"1", "2", str(key)}
        assert get_storage().get_events("a", 0) == [event]

    def test_member_of_an_enumeration_is_its_value(self):
        Name = enum.Enum("Name", {"ROOM": "room"}, type=str)
        assert send_event(Name.ROOM, "m", 1).channel == "room"
        assert get_current_event_id([Name.ROOM]) == "room:1"

    def test_unreliable_event_is_published_and_not_stored(self):
        with capture_events() as published:
            assert send_event("loose-a", "m", 1).id is None
        assert ids(published) == [None]
        assert not Event.objects.exists()

    def test_concurrent_senders_leave_no_gap(self):
        def send():
            try:
                for number in range(10):
                    send_event("a", "m", number)
            finally:
                connection.close()

        threads = [threading.Thread(target=send) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(rows("a")) == list(range(1, 61))
        assert get_storage().get_current_id("a") == 60


class BadInput(TransactionTestCase):
    def check(self, error, *args, match, **kwargs):
        with capture_events() as published, pytest.raises(error, match=match):
            send_event(*args, **kwargs)
        assert not published
        assert not Event.objects.exists()
        assert not EventCounter.objects.exists()

    def test_reserved_types(self):
        for event_type in ["stream-open", "stream-reset", "stream-error", "keep-alive"]:
            self.check(ValueError, "a", event_type, 1, match="reserved")
        self.check(ValueError, "a", "stream-\nopen", 1, match="reserved")

    def test_long_and_wrong_names(self):
        self.check(ValueError, "x" * 256, "m", 1, match="255 characters")
        self.check(ValueError, "a", "x" * 256, 1, match="255 characters")
        self.check(ValueError, "", "m", 1, match="one character")
        self.check(ValueError, "a\0b", "m", 1, match="NUL")
        self.check(ValueError, "a\ud800", "m", 1, match="UTF-8")
        self.check(TypeError, 7, "m", 1, match="channel name is a str")
        self.check(TypeError, "a", None, 1, match="event type is a str")

    def test_data_that_cannot_be_encoded(self):
        self.check(TypeError, "a", "m", object(), match="not JSON serializable")
        self.check(ValueError, "a", "m", float("nan"), match="JSON")
        self.check(TypeError, "a", "m", {"x": 1}, json_encode=False, match="json_encode=False")
        self.check(ValueError, "a", "m", "\ud800", json_encode=False, match="UTF-8")

    def test_skipping_one_text_instead_of_a_list(self):
        self.check(TypeError, "a", "m", 1, skip_user_ids="12", match="list of user ids")

    def test_position_without_a_storage(self):
        with override_settings(EVENTSTREAM_STORAGE_CLASS=None):
            with pytest.raises(ValueError, match="EVENTSTREAM_STORAGE_CLASS"):
                get_current_event_id(["a"])
        with pytest.raises(TypeError, match="list of channel names"):
            get_current_event_id("a")


class InsideTransactions(TransactionTestCase):
    def test_event_is_numbered_and_published_right_after_the_commit(self):
        with capture_events() as published:
            with transaction.atomic():
                event = send_event("a", "m", 1)
                assert event.id is None
                assert get_storage().number_pending("a") == []  # not before the commit
                assert rows("a") == [None]
                assert not published
            assert ids(published) == [1]
        assert rows("a") == [1]

    def test_event_that_another_call_numbers_is_published_all_the_same(self):
        # Its sender finds nothing left to number, and publishes nothing.
        calls = {
            "a sender": lambda: send_event("a", "m", "own"),
            "a page": lambda: get_current_event_id(["a"]),
            "a poll": lambda: get_storage().poll([]),
        }
        for who, call in calls.items():
            with self.subTest(who), capture_events() as published:
                with transaction.atomic():
                    get_storage().append_event("a", "m", f"left to {who}")
                numbered = call()
                if who == "a poll":
                    published += numbered[1]
                assert published[0].data == f"left to {who}"
                assert ids(published) == list(range(published[0].id, published[-1].id + 1))
                assert get_storage().take_numbered() == []

    def test_rollback_uses_no_id_up(self):
        with capture_events() as published:
            with pytest.raises(RuntimeError), transaction.atomic():
                send_event("a", "m", "gone")
                raise RuntimeError
            assert not published
        assert send_event("a", "m", 1).id == 1

    def test_rolled_back_savepoint_takes_its_events_along(self):
        with capture_events() as published, transaction.atomic():
            send_event("a", "m", 1)
            with pytest.raises(RuntimeError), transaction.atomic():
                send_event("a", "m", "gone")
                send_event("b", "m", "gone")
                raise RuntimeError
            with transaction.atomic():
                send_event("a", "m", 2)
        assert [event.data for event in published] == ["1", "2"]
        assert rows("a") == [1, 2]
        assert rows("b") == []

    def test_event_sent_first_in_a_rolled_back_savepoint_does_not_stop_later_ones(self):
        with capture_events() as published, transaction.atomic():
            with pytest.raises(RuntimeError), transaction.atomic():
                send_event("a", "m", "gone")
                raise RuntimeError
            send_event("a", "m", 1)
        assert ids(published) == [1]

    def test_one_numbering_serves_all_events_of_a_channel(self):
        with self.assertNumQueries(3 + 2), transaction.atomic():  # the events, BEGIN and COMMIT
            for number in range(3):
                send_event("loose-a", "m", number)
                send_event("a", "m", number)
            hooks = len(connection.run_on_commit)
            connection.run_on_commit.clear()
        assert hooks == 3 + 1

    def test_one_hook_serves_all_channels_of_a_transaction(self):
        with capture_events() as published, transaction.atomic():
            for number in range(50):
                send_event(f"channel-{number}", "m", number)
                with transaction.atomic():
                    send_event(f"channel-{number}", "m", number)
            assert len(connection.run_on_commit) == 1
        assert len(published) == 100
        assert set(ids(published)) == {1, 2}

    def test_channel_that_cannot_be_numbered_does_not_stop_the_others(self):
        storage = "tests.storages.CannotNumber"
        with override_settings(EVENTSTREAM_STORAGE_CLASS=storage):
            with capture_events() as published, self.assertLogs("django_eventstream", "ERROR"):
                with transaction.atomic():
                    send_event("broken", "m", 1)
                    send_event("whole", "m", 1)
        assert [event.channel for event in published] == ["whole"]

    def test_events_keep_their_order_across_channels_of_a_transaction(self):
        with transaction.atomic():
            for number in range(700):  # more than are numbered at a time
                send_event("ab"[number % 2], "m", number)
        for channel, first in (("a", 0), ("b", 1)):
            events = get_storage().get_events(channel, 0, 1000)
            assert [json.loads(event.data) for event in events] == list(range(first, 700, 2))
            assert [event.id for event in events] == list(range(1, 351))

    def test_what_was_committed_earlier_goes_first(self):
        with transaction.atomic():
            send_event("a", "m", 1)
            connection.run_on_commit.clear()  # as if the process were killed here
        assert rows("a") == [None]
        assert send_event("a", "m", 2).id == 2
        assert rows("a") == [1, 2]

    def test_more_than_a_batch_that_was_committed_earlier_goes_first(self):
        with transaction.atomic():
            transaction.on_commit(lambda: send_event("a", "m", "after"))
            for number in range(700):
                send_event("a", "m", number)
        events = get_storage().get_events("a", 0, 1000)
        assert [json.loads(event.data) for event in events] == [*range(700), "after"]
        assert [event.id for event in events] == list(range(1, 702))

    def test_any_read_completes_what_a_killed_process_left(self):
        for read in (
            lambda storage: storage.get_current_id("a"),
            lambda storage: storage.get_current_ids(["a", "b"])["a"],
            lambda storage: storage.get_events("a", 0)[0].id,
            lambda storage: storage.poll([])[1][0].id,
        ):
            Event.objects.all().delete()
            EventCounter.objects.all().delete()
            with transaction.atomic():
                send_event("a", "m", 1)
                connection.run_on_commit.clear()
            assert read(get_storage()) == 1
            assert rows("a") == [1]

    def test_unreliable_event_waits_for_the_commit_unless_told_not_to(self):
        with capture_events() as published:
            with transaction.atomic():
                send_event("loose-a", "m", "later")
                send_event("loose-a", "m", "at once", on_commit=False)
                assert [event.data for event in published] == ['"at once"']
            assert len(published) == 2
            with pytest.raises(RuntimeError), transaction.atomic():
                send_event("loose-a", "m", "gone")
                raise RuntimeError
            assert len(published) == 2

    def test_nothing_raises_into_the_caller_after_the_commit(self):
        with self.assertLogs("django_eventstream", "ERROR"):
            with override_settings(EVENTSTREAM_STORAGE_CLASS="tests.storages.CannotNumber"):
                with transaction.atomic():
                    send_event("broken", "m", 1)
        assert rows("broken") == [None]
        assert get_storage().get_current_id("broken") == 1

    def test_autocommit_off_leaves_events_to_the_poll(self):
        connection.set_autocommit(False)
        try:
            with capture_events() as published:
                assert send_event("a", "m", 1).id is None
                assert send_event("loose-a", "m", 1).id is None
                assert ids(published) == [None]  # unreliable: Django tells of no commit
                connection.commit()
                send_event("a", "m", "gone")
                connection.rollback()
        finally:
            connection.set_autocommit(True)
        assert rows("a") == [None]
        assert get_storage().poll(["a"])[0] == {"a": 1}

    def test_other_storages_append_after_the_commit(self):
        with override_settings(EVENTSTREAM_STORAGE_CLASS="tests.storages.MemoryStorage"):
            with capture_events() as published:
                with transaction.atomic():
                    assert send_event("a", "m", 1).id is None
                    assert get_storage().get_current_id("a") == 0
                assert ids(published) == [1]
                with pytest.raises(RuntimeError), transaction.atomic():
                    send_event("a", "m", "gone")
                    raise RuntimeError
                assert send_event("a", "m", 2).id == 2

    def test_storage_of_version_5_skips_live_only(self):
        with override_settings(EVENTSTREAM_STORAGE_CLASS="tests.storages.ThreeArguments"):
            with capture_events() as published:
                event = send_event("a", "m", 1, skip_user_ids=[1])
            assert event.id == 1
            assert published[0].skip_user_ids == {"1"}
            assert get_storage().get_events("a", 0)[0].skip_user_ids == frozenset()


class ManyEvents(TransactionTestCase):
    def test_ids_and_order_are_those_of_single_events(self):
        send_event("a", "m", "first")
        with capture_events() as published:
            events = send_events(
                ("loose-c" if n % 5 == 4 else "ab"[n % 2], "m", {"n": n}) for n in range(700)
            )
        assert published == events
        assert [json.loads(event.data)["n"] for event in events] == [*range(700)]
        assert all(event.id is None for event in events if event.channel == "loose-c")
        for channel, first in (("a", 2), ("b", 1)):
            mine = [event for event in events if event.channel == channel]
            assert ids(mine) == [*range(first, first + len(mine))]
            assert get_storage().get_events(channel, first - 1, 1000) == mine
        assert send_event("b", "m", "last").id == len(mine) + 1

    def test_options_hold_for_all_and_users_to_skip_for_one(self):
        events = send_events(
            [("a", "m", "<p>"), ("a", "m", "x", [7]), ("a", "m", "y", None)],
            skip_user_ids=iter([1, "2"]),
            json_encode=False,
        )
        assert [event.data for event in events] == ["<p>", "x", "y"]
        assert [set(event.skip_user_ids) for event in events] == [{"1", "2"}, {"7"}, set()]
        assert get_storage().get_events("a", 0) == events

    def test_nothing_is_nothing(self):
        with self.assertNumQueries(0), capture_events() as published:
            assert send_events([]) == []
        assert not published

    def test_all_are_checked_before_any_is_stored(self):
        good = ("a", "m", 1)
        for bad, error in (
            (("", "m", 1), ValueError),
            (("a", "keep-alive", 1), ValueError),
            (("a", "m", object()), TypeError),
            (("a", "m", 1, "7"), TypeError),
            (("a", "m"), TypeError),
            ("abc", TypeError),
            (("a", "m", 1, [], 1), TypeError),
        ):
            with capture_events() as published, pytest.raises(error):
                send_events([good, ("loose-a", "m", 1), bad])
            assert not published
        assert not Event.objects.exists()
        assert not EventCounter.objects.exists()

    def test_storage_that_changes_single_events_changes_many(self):
        for storage, data in (("Shouting", '"X"'), ("ShoutingMuch", '"X"!')):
            with (
                override_settings(EVENTSTREAM_STORAGE_CLASS=f"tests.storages.{storage}"),
                capture_events() as published,
            ):
                send_events([(storage, "m", "x"), (storage, "m", "x")])
            assert [event.data for event in published] == [data, data]
            assert ids(published) == [1, 2]

    @override_settings(EVENTSTREAM_STORAGE_CLASS="tests.storages.Shouting")
    def test_storage_of_single_events_stores_all_or_none(self):
        with capture_events() as published, pytest.raises(ValueError, match="refused"):
            send_events([("a", "m", "x"), ("loose-a", "m", 1), ("b", "m", "refused")])
        assert not published
        assert not Event.objects.exists()

    def test_what_is_no_list_of_events_is_refused(self):
        async def generate():
            yield ("a", "m", 1)

        for events in (generate(), None, 1):
            with pytest.raises(TypeError, match=r"send_events\(\) takes a list of events"):
                send_events(events)

    def test_all_or_none_are_stored(self):
        def fail_at_second_batch(execute, sql, params, many, context):
            nonlocal inserts
            if sql.startswith("INSERT INTO"):
                inserts += 1
                if inserts == 2:
                    raise DatabaseError("the disk is full")
            return execute(sql, params, many, context)

        send_events([("a", "m", 0), ("b", "m", 0)])
        for inside in (False, True):
            inserts = 0
            with capture_events() as published, contextlib.ExitStack() as stack:
                if inside:
                    stack.enter_context(transaction.atomic())
                    send_event("a", "m", "kept")
                    inserts = 0
                with connection.execute_wrapper(fail_at_second_batch):
                    with pytest.raises(DatabaseError, match="disk"):
                        send_events([("ab"[n % 2], "m", n) for n in range(700)])
            assert len(published) == inside
            assert rows("b") == [1]
        assert rows("a") == [1, 2]
        assert send_event("b", "m", 1).id == 2

    def test_together_they_may_be_larger_than_a_statement(self):
        data = "x" * 100_000  # 18 MB in all, where MariaDB takes 16
        with override_settings(EVENTSTREAM_BROKER="database"), self.assertNoLogs():
            events = send_events([("ab"[n % 2], "m", data) for n in range(180)])
            assert ids(events) == [n // 2 + 1 for n in range(180)]
            send_events([("loose-a", "m", data)] * 180)
        assert BrokerMessage.objects.filter(text__contains='"loose-a"').count() == 180

    def test_events_of_a_transaction_are_sent_after_its_commit(self):
        many = [("ab"[n % 2], "m", n) for n in range(6)] + [("loose-a", "m", 6)]
        with capture_events() as published:
            with transaction.atomic():
                assert {event.id for event in send_events(many)} == {None}
                assert rows("a") == [None] * 3
                assert not published
            assert len(published) == 7
            with pytest.raises(RuntimeError), transaction.atomic():
                send_events(many)
                raise RuntimeError
            assert len(published) == 7
        assert rows("a") == rows("b") == [1, 2, 3]

    def test_unreliable_ones_need_not_wait_for_the_commit(self):
        with capture_events() as published, transaction.atomic():
            send_events([("a", "m", 1), ("loose-a", "m", 2)], on_commit=False)
            assert [event.channel for event in published] == ["loose-a"]
        assert [event.channel for event in published] == ["loose-a", "a"]

    def test_what_was_committed_earlier_goes_first(self):
        with transaction.atomic():
            for number in range(310):  # more than are numbered at a time
                send_event("a", "m", number)
            connection.run_on_commit.clear()  # as if the process were killed here
        with capture_events() as published:
            events = send_events([("b", "m", 1), ("a", "m", "x"), ("a", "m", "y")])
        assert ids(events) == [1, 311, 312]
        assert ids(published) == [*range(1, 311), 1, 311, 312]
        assert rows("a") == [*range(1, 313)]

    def test_other_storages(self):
        for name in ("MemoryStorage", "ThreeArguments"):
            with override_settings(EVENTSTREAM_STORAGE_CLASS=f"tests.storages.{name}"):
                with capture_events() as published:
                    events = send_events([("a", "m", 1, [1]), ("b", "m", 2)])
                    assert published == events
                    assert ids(events) == [1, 1]
                    assert events[0].skip_user_ids == {"1"}
                    with transaction.atomic():
                        assert ids(send_events([("a", "m", 1), ("loose-a", "m", 2)])) == [None] * 2
                        assert len(published) == 2
                    assert {event.channel for event in published[2:]} == {"a", "loose-a"}

    def test_concurrent_senders_leave_no_gap_and_do_not_come_between(self):
        def send(number):
            try:
                for round_ in range(5):
                    order = ["a", "b"] if number % 2 else ["b", "a"]
                    send_events([(c, "m", [number, round_, n]) for n in range(10) for c in order])
                    send_event("a", "m", None)
            finally:
                connection.close()

        threads = [threading.Thread(target=send, args=[number]) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for channel in "ab":
            events = get_storage().get_events(channel, 0, 1000)
            assert ids(events) == [*range(1, len(events) + 1)]
            sent = [data for event in events if (data := json.loads(event.data))]
            assert len(sent) == 300
            for start in range(0, 300, 10):
                assert sent[start : start + 10] == [[*sent[start][:2], n] for n in range(10)]

    async def test_asynchronous_twin(self):
        events = await asend_events([("a", "m", 1), ("a", "m", 2)], skip_user_ids=[1])
        assert ids(events) == [1, 2]
        assert events[0].skip_user_ids == {"1"}


class Statements(TransactionTestCase):
    """How the database storage appends: tests of counts, not of times."""

    if BACKEND == "sqlite" or not ISOLATION:

        def test_few_statements_append_an_event(self):
            send_event("a", "m", 1)
            expected = {"postgresql": 1, "sqlite": 4, "mysql": 5}[
                connection.vendor
            ]  # with BEGIN, COMMIT
            with override_settings(EVENTSTREAM_BROKER="memory"), self.assertNumQueries(expected):
                assert send_event("a", "m", 2).id == 2

    if IS_ONE_STATEMENT:

        def test_few_statements_tell_of_it(self):
            send_event("a", "m", 1)
            with override_settings(EVENTSTREAM_BROKER="database"):
                with self.assertNumQueries(2):  # with NOTIFY
                    send_event("a", "m", 2)
                # BEGIN, count, look, insert, COMMIT, NOTIFY
                with self.assertNumQueries(6):
                    send_events([("a", "m", n) for n in range(300)])

    def test_nothing_is_trimmed_by_a_sender(self):
        trimming = []
        with (
            mock.patch.object(hub, "_trimmed_at", -hub.TRIM_LOG_INTERVAL),
            mock.patch.object(hub.threads, "run_in_background", trimming.append),
            override_settings(EVENTSTREAM_MAX_EVENTS_PER_CHANNEL=1),
            CaptureQueriesContext(connection) as queries,
        ):
            for number in range(3):
                send_event("a", "m", number)
            send_events([("a", "m", number) for number in range(3)])
        assert len(trimming) == 1  # once in a while
        assert not [query for query in queries if "DELETE" in query["sql"]]
        assert rows("a") == [1, 2, 3, 4, 5, 6]

    if IS_ONE_STATEMENT:

        def test_one_statement_numbers_first_what_was_committed_before_it(self):
            send_event("a", "m", 0)
            with transaction.atomic():
                send_event("a", "m", "pending")
                connection.run_on_commit.clear()  # as if the process were killed here

            waiting, sent = threading.Event(), []

            def send():
                try:
                    connection.ensure_connection()
                    with connection.cursor() as cursor:
                        cursor.execute("SELECT pg_backend_pid()")
                        sent.append(cursor.fetchone()[0])
                    waiting.set()
                    sent.append(send_event("a", "m", "after"))
                finally:
                    connection.close()

            sender = threading.Thread(target=send)
            with transaction.atomic():
                EventCounter.objects.select_for_update().get(name="a")
                sender.start()
                assert waiting.wait(20)
                wait_until(lambda: is_waiting_for_a_lock(sent[0]))
                send_event("a", "m", "meanwhile")  # which may come before or after
            sender.join(20)
            events = get_storage().get_events("a", 0)
            assert ids(events) == [1, 2, 3, 4]
            data = [json.loads(event.data) for event in events]
            assert data[:2] == [0, "pending"]
            assert set(data[2:]) == {"meanwhile", "after"}
            assert data[sent[1].id - 1] == "after"

    def test_texts_of_all_kinds_are_stored_as_they_are(self):
        data = ["\0", "\\u0000", "ä\u2028\U0001f600", "'\"\\%s%%", "\ud800", None, "x" * 10_000]
        many = [("kanał '\"\\%s", f"ty'p\"é\\{n}", one, [f"ü'{n}\0"]) for n, one in enumerate(data)]
        with override_settings(EVENTSTREAM_BROKER="database"):
            sent = send_events(many)
        stored = get_storage().get_events(many[0][0], 0)
        assert stored == sent
        assert [json.loads(event.data) for event in stored] == data

    def test_listeners_to_the_rows_hear_of_them(self):
        heard = []

        def hear(instance, **kwargs):
            heard.append((instance.channel, instance.eid))

        post_save.connect(hear, sender=Event)
        try:
            send_event("a", "m", 1)
            send_events([("a", "m", 2), ("b", "m", 3)])
            with transaction.atomic():
                send_event("a", "m", 4)
        finally:
            post_save.disconnect(hear, sender=Event)
        assert heard == [("a", 1), ("a", 2), ("b", 1), ("a", None)]
        assert get_storage().get_current_ids(["a", "b"]) == {"a": 3, "b": 1}

    def test_rows_are_those_that_the_orm_writes(self):
        before = timezone.now()
        send_event("a", "m", "ä", skip_user_ids=[2, 1])
        row, counter = Event.objects.get(), EventCounter.objects.get()
        assert (row.channel, row.type, row.eid) == ("a", "m", 1)
        assert (row.data, row.skip_user_ids) == (json.dumps(json.dumps("ä")), '["1", "2"]')
        assert before <= row.created <= timezone.now()
        assert counter.updated >= before.replace(microsecond=0)
        later = timezone.now()
        send_event("a", "m", 2)
        assert EventCounter.objects.get().updated >= later


class InsideTestCase(TestCase):
    """The transaction that TestCase wraps around a test does not count."""

    def test_event_is_numbered_and_published_at_once(self):
        with capture_events() as published:
            assert send_event("a", "m", 1).id == 1
        assert ids(published) == [1]

    def test_transaction_of_the_code_under_test_counts(self):
        with capture_events() as published, self.captureOnCommitCallbacks(execute=True):
            with transaction.atomic():
                assert send_event("a", "m", 1).id is None
        assert ids(published) == [1]

    def test_what_no_callback_numbered_a_read_does(self):
        with transaction.atomic():
            send_event("a", "m", 1)
        assert [event.id for event in get_storage().get_events("a", 0)] == [1]

    async def test_asynchronous_twin(self):
        with capture_events() as published:
            event = await asend_event("a", "m", {"n": 1}, skip_user_ids=[1])
        assert (event.id, event.data, event.skip_user_ids) == (1, '{"n": 1}', {"1"})
        assert ids(published) == [1]

    async def test_sending_on_an_event_loop_names_the_remedy(self):
        with pytest.raises(SynchronousOnlyOperation, match="asend_event"):
            send_event("a", "m", 1)
        manager = "tests.project.channelmanager.AsyncChannelManager"
        with override_settings(EVENTSTREAM_CHANNELMANAGER_CLASS=manager):
            with pytest.raises(SynchronousOnlyOperation, match="asend_event"):
                send_event("a", "m", 1)
            with pytest.raises(SynchronousOnlyOperation, match="sync_to_async"):
                get_current_event_id(["a"])
            assert (await asend_event("a", "m", 1)).id == 1
