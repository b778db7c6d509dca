"""Last-Event-ID, with what strangers may send."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_eventstream.exceptions import BadRequest
from django_eventstream.lasteventid import ERROR_ID, format_last_event_id, parse_last_event_id

NAME = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


def test_positions_are_pairs_joined_by_commas():
    assert parse_last_event_id("a%20b:7,room:12") == {"a b": 7, "room": 12}
    assert format_last_event_id({"a b": 7, "room": 12}) == "a%20b:7,room:12"


def test_names_are_percent_encoded():
    name = "é,:%\n+/ "
    text = "%C3%A9%2C%3A%25%0A%2B/%20:1"
    assert format_last_event_id({name: 1}) == text
    assert parse_last_event_id(text) == {name: 1}


def test_no_positions_are_no_text():
    assert format_last_event_id({}) == ""


def test_names_differ_by_case_accents_and_trailing_spaces():
    assert parse_last_event_id("a:1,A:2,%C3%A4:3,a%20:4") == {"a": 1, "A": 2, "ä": 3, "a ": 4}


@pytest.mark.parametrize("text", ["100%:1", "%zz:2", "%4:3", "%4g:1"])
def test_percent_sign_that_escapes_nothing_is_malformed(text):
    with pytest.raises(BadRequest):
        parse_last_event_id(text)


def test_name_that_is_not_encoded_is_taken_as_it_is():
    assert parse_last_event_id("é a+b:1") == {"é a+b": 1}


def test_leading_zeros_do_no_harm():
    assert parse_last_event_id("a:007,b:0") == {"a": 7, "b": 0}


def test_long_numbers_are_numbers():
    assert parse_last_event_id("a:" + "9" * 100) == {"a": int("9" * 100)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ",",
        ":",
        "a",
        "7",
        ERROR_ID,
        "a:",
        ":1",
        "a:1,",
        ",a:1",
        "a:1,,b:2",
        "a:1,b",
        "a:1;b:2",
        "a:b:1",
        "a:1:2",
        "a:-1",
        "a:+1",
        "a: 1",
        "a:1 ",
        "a:1\n",
        "a:1_0",
        "a:1.0",
        "a:0x1",
        "a:1e3",
        "a:\u0661",
        "a:\uff11",
        "a:²",
        "a:None",
        "a:%31",
        "a:" + "9" * 5000,
        "a:1,a:1",
        "a:1,%61:2",
        "%ff:1",
        "%C3:1",
        "%ED%A0%80:1",
    ],
)
def test_malformed_text_is_a_bad_request(text):
    with pytest.raises(BadRequest, match="Malformed Last-Event-ID") as caught:
        parse_last_event_id(text)
    assert caught.value.condition == "bad-request"


def test_long_malformed_text_is_not_repeated_whole():
    with pytest.raises(BadRequest) as caught:
        parse_last_event_id("a" * 100_000)
    assert len(str(caught.value)) < 500


@given(st.dictionaries(NAME, st.integers(0, 2**70)))
def test_what_is_formatted_can_be_parsed(positions):
    text = format_last_event_id(positions)
    assert not set(text) & set("\r\n\0")
    if positions:
        parsed = parse_last_event_id(text)
        assert parsed == positions
        assert list(parsed) == list(positions)


@given(st.text() | st.text("a:,%0129Fé\ud800"))
def test_any_text_is_parsed_or_refused(text):
    try:
        positions = parse_last_event_id(text)
    except BadRequest:
        return
    assert positions
    assert all(isinstance(position, int) and position >= 0 for position in positions.values())
