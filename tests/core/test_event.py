"""What may be sent."""

import enum
import uuid
from dataclasses import FrozenInstanceError
from types import SimpleNamespace

import pytest

from django_eventstream.event import (
    MAX_NAME_LENGTH,
    RESERVED_TYPES,
    Event,
    check_channel,
    check_data,
    check_event_type,
    check_skip_user_ids,
)


class Name(str, enum.Enum):
    ROOM = "room"


class Text(str):
    def __str__(self):
        return "something else"


def test_event_cannot_be_changed():
    event = Event("room", "message", "1")
    assert (event.id, event.skip_user_ids) == (None, frozenset())
    with pytest.raises(FrozenInstanceError):
        event.id = 1


@pytest.mark.parametrize("name", ["a", "é, :%\n ", "a" * MAX_NAME_LENGTH, "\U0001f600"])
def test_channel_name_may_be_any_short_text(name):
    assert check_channel(name) == name


@pytest.mark.parametrize("check", [check_channel, check_event_type, check_data])
def test_text_of_a_subclass_becomes_plain_text(check):
    for text in (Name.ROOM, Text("room")):
        checked = check(text)
        assert type(checked) is str
        assert checked == "room"


@pytest.mark.parametrize("check", [check_channel, check_event_type, check_data])
@pytest.mark.parametrize("value", [None, 1, b"room", ["room"]])
def test_what_is_no_text_is_a_type_error(check, value):
    with pytest.raises(TypeError, match=type(value).__name__):
        check(value)


@pytest.mark.parametrize("check", [check_channel, check_event_type, check_data])
def test_lone_surrogates_are_refused(check):
    with pytest.raises(ValueError, match="cannot be encoded as UTF-8") as caught:
        check("a\ud800")
    assert isinstance(caught.value.__cause__, UnicodeEncodeError)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("", "at least one"), ("a" * (MAX_NAME_LENGTH + 1), "at most 255"), ("a\0", "no NUL")],
)
def test_channel_name_that_no_storage_could_hold_is_refused(name, reason):
    with pytest.raises(ValueError, match=reason):
        check_channel(name)


@pytest.mark.parametrize("event_type", ["", "message", " stream-open", "Stream-Open", "a: b"])
def test_event_type_may_be_what_the_stream_does_not_use(event_type):
    assert check_event_type(event_type) == event_type


@pytest.mark.parametrize("event_type", sorted(RESERVED_TYPES))
def test_reserved_event_types_are_refused_however_they_are_disguised(event_type):
    for disguise in (event_type, event_type + "\n", "\0" + event_type, Text(event_type)):
        with pytest.raises(ValueError, match="reserved"):
            check_event_type(disguise)


def test_event_type_loses_line_ends_and_nul():
    assert check_event_type("a\r\n\0b") == "ab"
    assert check_event_type("\n" + "a" * MAX_NAME_LENGTH) == "a" * MAX_NAME_LENGTH


def test_long_event_type_is_refused():
    with pytest.raises(ValueError, match="at most 255 characters, this one 256"):
        check_event_type("a" * (MAX_NAME_LENGTH + 1))


def test_data_may_be_any_text():
    for data in ("", "\r\n\0", "é", "a" * 100_000):
        assert check_data(data) == data


def test_skip_user_ids_become_text():
    user_id = uuid.UUID(int=1)
    assert check_skip_user_ids(None) == frozenset()
    assert check_skip_user_ids([]) == frozenset()
    assert check_skip_user_ids(iter([1, "1", "a", user_id])) == {"1", "a", str(user_id)}


@pytest.mark.parametrize("user_ids", ["12", b"12", 12])
def test_skip_user_ids_are_a_list(user_ids):
    with pytest.raises(TypeError, match="skip_user_ids is a list of user ids, not one"):
        check_skip_user_ids(user_ids)


def test_users_are_no_user_ids():
    with pytest.raises(TypeError, match=r"give user\.pk"):
        check_skip_user_ids([1, SimpleNamespace(pk=2)])
