"""Every storage keeps the contract; and what is DjangoModelStorage's own."""

import threading
import unittest
from datetime import timedelta

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import IntegrityError, connection, transaction
from django.db.models import F
from django.test import TestCase, TransactionTestCase, override_settings
from django.utils import timezone

import django_eventstream.storage
from django_eventstream import send_event
from django_eventstream.exceptions import EventDoesNotExist
from django_eventstream.models import Event, EventCounter
from django_eventstream.storage import DjangoModelStorage
from django_eventstream.storage.base import read_page
from django_eventstream.testing import StorageContractTests
from tests.storages import MemoryStorage

pytestmark = pytest.mark.database


class DatabaseContract(StorageContractTests, TransactionTestCase):
    def make_storage(self):
        return DjangoModelStorage()

    def forget_before(self, storage, channel, event_id):
        Event.objects.filter(channel=channel, eid__lt=event_id).delete()


class DatabaseContractInsideTestCase(StorageContractTests, TestCase):
    def make_storage(self):
        return DjangoModelStorage()

    def forget_before(self, storage, channel, event_id):
        Event.objects.filter(channel=channel, eid__lt=event_id).delete()


class MemoryContract(StorageContractTests):
    def make_storage(self):
        return MemoryStorage()

    def test_what_only_some_storages_do_is_nothing(self):
        assert self.storage.number_pending("a") == []
        assert self.storage.trim() == 0


class Forgetful(MemoryStorage):
    """Answers a position that it does not know with nothing, as if it were the present."""

    def get_events(self, channel, last_id, limit=100):
        try:
            return super().get_events(channel, last_id, limit)
        except EventDoesNotExist:
            return []


class Miscounting(MemoryStorage):
    def get_current_id(self, channel):
        return super().get_current_id(channel) + 1


@pytest.mark.parametrize("storage", [Forgetful, Miscounting])
def test_contract_tests_find_storages_that_break_it(storage):
    class Contract(StorageContractTests):
        def make_storage(self):
            return storage()

    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(Contract).run(result)
    assert result.failures
    assert not result.errors


@pytest.mark.django_db(transaction=True)
def test_locked_counter_keeps_no_other_channel_from_being_read():
    """A process may be stopped where it holds the lock, or its host be gone."""
    if not connection.features.has_select_for_update_skip_locked:
        return  # SQLite has one lock for all
    storage = DjangoModelStorage()
    for channel in ("stuck", "other"):
        storage.append_event(channel, "m", "1")
    locked, release = threading.Event(), threading.Event()

    def hold():
        try:
            with transaction.atomic():
                EventCounter.objects.filter(name="stuck").update(value=F("value"))
                locked.set()
                assert release.wait(30)
        finally:
            connection.close()

    holding = threading.Thread(target=hold)
    holding.start()
    try:
        assert locked.wait(10)
        with transaction.atomic():
            storage.append_event("stuck", "m", "2")
        storage.append_event("other", "m", "2")
        # Without the lock: it is released when this was too late.
        timer = threading.Timer(15, release.set)
        timer.start()
        assert storage.poll(["stuck", "other"]) == ({"stuck": 1, "other": 2}, [])
        assert storage.get_current_ids(["stuck", "other"]) == {"stuck": 1, "other": 2}
        assert not release.is_set()
        timer.cancel()
    finally:
        release.set()
        holding.join()
    current_ids, events = storage.poll(["stuck"])
    assert (current_ids, [event.id for event in events]) == ({"stuck": 2}, [2])


@pytest.mark.django_db(transaction=True)
def test_channel_that_cannot_be_numbered_keeps_no_other_from_being_read(monkeypatch, caplog):
    storage = DjangoModelStorage()
    for channel in ("broken", "whole"):
        with transaction.atomic():
            storage.append_event(channel, "m", "1")
    number = DjangoModelStorage._number

    def fail(self, channel, using, **kwargs):
        if channel == "broken":
            raise IntegrityError("there is one already")
        return number(self, channel, using, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(DjangoModelStorage, "_number", fail)
        for _ in range(2):
            assert storage.poll(["broken", "whole"])[0] == {"broken": 0, "whole": 1}
    assert caplog.text.count("Cannot number events of channel 'broken' yet") == 1
    assert storage.poll(["broken", "whole"])[0] == {"broken": 1, "whole": 1}


def test_storage_package_has_no_other_names():
    with pytest.raises(AttributeError, match="NoSuchStorage"):
        _ = django_eventstream.storage.NoSuchStorage


class TestTrimming(TransactionTestCase):
    def age(self, **filters):
        old = timezone.now() - timedelta(hours=25)
        return Event.objects.filter(**filters).update(created=old)

    def test_events_are_kept_for_a_day(self):
        for number in range(3):
            send_event("a", "m", number)
        self.age(eid__lte=2)
        assert DjangoModelStorage().trim() == 2
        assert list(Event.objects.values_list("eid", flat=True)) == [3]

    def test_retention_is_a_setting(self):
        send_event("a", "m", 1)
        self.age()
        with override_settings(EVENTSTREAM_RETENTION=30 * 3600):
            assert DjangoModelStorage().trim() == 0

    def test_more_than_a_batch_is_removed(self):
        Event.objects.bulk_create(
            Event(channel="a", type="m", data='""', eid=number) for number in range(1, 1001)
        )
        self.age()
        assert DjangoModelStorage().trim() == 1000

    def test_pending_rows_stay(self):
        Event.objects.create(channel="a", type="m", data='"1"', eid=None)
        self.age()
        with override_settings(EVENTSTREAM_MAX_EVENTS_PER_CHANNEL=1):
            assert DjangoModelStorage().trim() == 0
        assert DjangoModelStorage().get_events("a", 0)[0].id == 1

    @override_settings(EVENTSTREAM_MAX_EVENTS_PER_CHANNEL=2)
    def test_limit_per_channel(self):
        for number in range(5):
            send_event("a", "m", number)
        send_event("b", "m", 1)
        call_command("eventstream_trim", stdout=(out := _Out()))
        assert out.text == "Removed 3 events.\n"
        assert DjangoModelStorage().trim() == 0
        assert [event.id for event in DjangoModelStorage().get_events("a", 3)] == [4, 5]
        assert DjangoModelStorage().get_current_ids(["a", "b"]) == {"a": 5, "b": 1}

    @override_settings(EVENTSTREAM_MAX_EVENTS_PER_CHANNEL=2)
    def test_limit_costs_one_query_while_no_channel_is_over_it(self):
        for channel in "abc":
            send_event(channel, "m", 1)
        with self.assertNumQueries(2):  # one for the age
            assert DjangoModelStorage().trim() == 0

    def test_command_without_a_storage_names_the_setting(self):
        with override_settings(EVENTSTREAM_STORAGE_CLASS=None):
            for command in ("eventstream_trim", "eventstream_raise_counters"):
                with pytest.raises(CommandError, match="EVENTSTREAM_STORAGE_CLASS"):
                    call_command(command)


class TestQueries(TransactionTestCase):
    def test_poll_is_one_query_for_all_channels(self):
        for name in "abc":
            send_event(name, "m", 1)
        with self.assertNumQueries(1):
            assert DjangoModelStorage().poll(["a", "b", "c", "d"]) == (
                {"a": 1, "b": 1, "c": 1, "d": 0},
                [],
            )
        with self.assertNumQueries(1):
            assert DjangoModelStorage().poll([]) == ({}, [])

    def test_poll_numbers_what_is_pending_on_any_channel(self):
        Event.objects.create(channel="a", type="m", data='"1"', eid=None)
        Event.objects.create(channel="b", type="m", data='"2"', eid=None)
        current_ids, numbered = DjangoModelStorage().poll(["b"])
        assert current_ids == {"b": 1}
        assert [(event.channel, event.id, event.data) for event in numbered] == [
            ("a", 1, "1"),
            ("b", 1, "2"),
        ]

    def test_more_channels_than_a_query_takes(self):
        names = [f"channel-{number}" for number in range(1500)]
        send_event(names[-1], "m", 1)
        current_ids = DjangoModelStorage().get_current_ids(names)
        assert sum(current_ids.values()) == current_ids[names[-1]] == 1


class TestRestoredBackup(TransactionTestCase):
    def test_raised_counters_reset_clients_that_know_lost_events(self):
        for number in range(3):
            send_event("a", "m", number)
        call_command("eventstream_raise_counters", by=1000, stdout=(out := _Out()))
        assert out.text == "Raised 1 counters by 1000.\n"
        storage = DjangoModelStorage()
        for position in (3, 4, 500):  # 4 and 500 were seen, and lost with the database
            with pytest.raises(EventDoesNotExist) as caught:
                storage.get_events("a", position)
            assert caught.value.current_id == 1003
        assert send_event("a", "m", 1).id == 1004
        assert [event.id for event in storage.get_events("a", 1003)] == [1004]

    def test_raising_by_nothing_is_refused(self):
        with pytest.raises(CommandError, match="--by"):
            call_command("eventstream_raise_counters", by=0)


class TestRowsOfVersion5(TransactionTestCase):
    def test_placeholder_is_neither_delivered_nor_counted(self):
        EventCounter.objects.create(name="a", value=1)
        Event.objects.create(channel="a", type="", data="", eid=0)
        Event.objects.create(channel="a", type="m", data='"\\"x\\""', eid=1)
        storage = DjangoModelStorage()
        assert [event.data for event in storage.get_events("a", 0)] == ['"x"']
        assert storage.get_current_id("a") == 1
        assert send_event("a", "m", 2).id == 2

    def test_data_that_is_no_text_is_what_version_5_wrote(self):
        for eid, data in enumerate(["7", "null", '{"a": 1}'], 1):
            Event.objects.create(channel="a", type="m", data=data, eid=eid)
        EventCounter.objects.create(name="a", value=3)
        events = DjangoModelStorage().get_events("a", 0)
        assert [event.data for event in events] == ["7", "None", "{'a': 1}"]

    def test_rows_can_be_told_apart(self):
        send_event("a", "m", 1)
        assert str(Event.objects.get()) == "a:1 m"
        assert str(EventCounter.objects.get()) == "a: 1"

    def test_counter_that_is_missing_goes_on_behind_the_events(self):
        Event.objects.create(channel="a", type="m", data='"1"', eid=7)
        assert send_event("a", "m", 2).id == 8


class TestReadPage(TransactionTestCase):
    """Storages of version 5.3.4 may answer with less than the contract."""

    class Silent(MemoryStorage):
        def get_events(self, channel, last_id, limit=100):
            try:
                events = super().get_events(channel, last_id, limit)
            except EventDoesNotExist:
                return []  # where the contract asks for an error
            return [event for event in events if event.id != 3]  # expired

    def test_holes_and_silence_become_errors(self):
        storage = self.Silent()
        for number in range(5):
            storage.append_event("a", "m", str(number))
        assert [event.id for event in read_page(storage, "a", 0, 10)] == [1, 2]
        for position in (2, 9):
            with pytest.raises(EventDoesNotExist) as caught:
                read_page(storage, "a", position, 10)
            assert caught.value.current_id == 5
        assert read_page(storage, "a", 5, 10) == []

    def test_event_stored_between_the_two_questions_is_found(self):
        class Racing(MemoryStorage):
            def get_current_id(self, channel):
                if not self._events[channel]:
                    self.append_event(channel, "m", "late")
                return super().get_current_id(channel)

        assert [event.id for event in read_page(Racing(), "a", 0, 10)] == [1]


class _Out:
    text = ""

    def write(self, text):
        self.text += text
