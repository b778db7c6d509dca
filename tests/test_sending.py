"""Sending: validation, numbering, transactions; without streams."""

import datetime
import enum
import json
import threading
import uuid

import pytest
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connection, transaction
from django.test import TestCase, TransactionTestCase, override_settings

from django_eventstream import asend_event, get_current_event_id, send_event
from django_eventstream.models import Event, EventCounter
from django_eventstream.storage import get_storage
from django_eventstream.testing import capture_events

pytestmark = pytest.mark.database


def rows(channel):
    return list(Event.objects.filter(channel=channel).order_by("id").values_list("eid", flat=True))


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
