"""The encoder, to the byte."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_eventstream import sse
from tests.core.sseparser import ParsedEvent, SSEParser, parse

TEXT = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\r\n\0 :"))


def test_keep_alive_is_an_event_with_empty_data():
    assert sse.KEEP_ALIVE == b"event: keep-alive\ndata:\n\n"


def test_data_is_one_line_and_a_blank_line():
    assert sse.encode_data('{"a": "é"}') == b'data: {"a": "\xc3\xa9"}\n\n'


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_each_line_end_in_the_data_begins_a_data_line(end):
    assert sse.encode_data(f"a{end}b{end}") == b"data: a\ndata: b\ndata: \n\n"


def test_lf_before_cr_is_two_line_ends():
    assert sse.encode_data("a\n\rb") == b"data: a\ndata: \ndata: b\n\n"


def test_data_keeps_what_only_python_takes_for_line_ends():
    assert (
        sse.encode_data("a\x0b\x0c\x1c\x85\u2028b") == "data: a\x0b\x0c\x1c\x85\u2028b\n\n".encode()
    )


def test_empty_data_is_still_a_data_line():
    assert sse.encode_data("") == b"data: \n\n"


def test_leading_space_of_data_is_kept():
    assert sse.encode_data(" a") == b"data:  a\n\n"


def test_type_and_id_lose_line_ends_and_nul():
    assert sse.encode_type("a\r\n\0b") == b"event: ab\n"
    assert sse.encode_id("a\r\n\0b:1") == b"id: ab:1\n"
    assert sse.clean_field("\ra\nb\0") == "ab"


def test_padding_is_a_comment_of_spaces():
    assert sse.encode_padding(3) == b":   \n\n"
    assert sse.encode_padding(0) == b""


def test_open_has_an_id_line_only_with_positions():
    assert sse.encode_open("a:1") == b"event: stream-open\nid: a:1\ndata:\n\n"
    assert sse.encode_open("") == b"event: stream-open\ndata:\n\n"
    assert sse.encode_open(None) == b"event: stream-open\ndata:\n\n"


def test_reset_lists_the_channels():
    assert sse.encode_reset(["a", "é"], "a:1") == (
        b'event: stream-reset\nid: a:1\ndata: {"channels": ["a", "\\u00e9"]}\n\n'
    )
    assert sse.encode_reset(["u"], "") == b'event: stream-reset\ndata: {"channels": ["u"]}\n\n'


def test_error_has_its_own_id():
    assert sse.encode_error({"condition": "forbidden", "text": "a\nb", "channels": ["a"]}) == (
        b"event: stream-error\nid: error\n"
        b'data: {"condition": "forbidden", "text": "a\\nb", "channels": ["a"]}\n\n'
    )


def test_retry_is_a_block_of_its_own():
    assert sse.encode_retry(1500) == b"retry: 1500\n\n"


@given(event_type=TEXT, event_id=TEXT, data=TEXT)
def test_client_gets_what_was_encoded(event_type, event_id, data):
    encoded = sse.encode_type(event_type) + sse.encode_id(event_id) + sse.encode_data(data)
    lines = data.replace("\r\n", "\n").replace("\r", "\n")
    assert parse(encoded) == [
        ParsedEvent(sse.clean_field(event_type) or "message", lines, sse.clean_field(event_id))
    ]


@given(size=st.integers(0, 5000))
def test_padding_of_any_size_is_ignored(size):
    parser = SSEParser(strict=True)
    assert parser.feed(sse.encode_padding(size)) == []
    parser.close()
    assert parser.comments == ([" " * size] if size else [])
