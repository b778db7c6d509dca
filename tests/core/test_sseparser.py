"""The tests' own parser, held to the standard."""

import pytest

from tests.core.sseparser import ParsedEvent, SSEParser, parse


def feed(data: bytes, **options) -> list[ParsedEvent]:
    return SSEParser(**options).feed(data)


def test_event_without_type_is_a_message():
    assert feed(b"data: hello\n\n") == [ParsedEvent("message", "hello")]


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_each_line_end_ends_a_line(end):
    lines = [b"event: greeting", b"id: 7", b"data: hello", b"data:world", b"", b""]
    assert feed(end.join(lines)) == [ParsedEvent("greeting", "hello\nworld", "7")]


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_events_do_not_depend_on_how_the_bytes_are_split(end):
    data = end.join(
        [b"\xef\xbb\xbf: c", b"data: \xc3\xa9\xe2\x82\xac", b"", b"id: 1", b"data", b"", b""]
    )
    whole = feed(data)
    assert whole == [ParsedEvent("message", "é€"), ParsedEvent("message", "", "1")]
    for place in range(len(data) + 1):
        parser = SSEParser()
        assert parser.feed(data[:place]) + parser.feed(data[place:]) == whole, place
    parser = SSEParser()
    assert [event for byte in data for event in parser.feed(bytes([byte]))] == whole


def test_one_byte_order_mark_is_dropped_and_only_in_front():
    assert feed(b"\xef\xbb\xbfdata: a\n\n") == [ParsedEvent("message", "a")]
    assert feed(b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n") == []  # an unknown field
    assert feed(b"data: \xef\xbb\xbfa\n\n") == [ParsedEvent("message", "\ufeffa")]


def test_comments_are_ignored():
    parser = SSEParser()
    assert parser.feed(b": one\n:two\n\n:three\ndata: a\n:four\n\n") == [
        ParsedEvent("message", "a")
    ]
    assert parser.comments == [" one", "two", "three", "four"]


def test_one_space_after_the_colon_is_dropped():
    assert feed(b"data:  a \n\n") == [ParsedEvent("message", " a ")]


def test_other_characters_that_look_like_line_ends_are_data():
    text = "a\x0b\x0c\x1c\x85\u2028\u2029b"
    assert feed(f"data: {text}\n\n".encode()) == [ParsedEvent("message", text)]


def test_block_without_data_dispatches_nothing_and_forgets_its_type():
    assert feed(b"event: lost\n\ndata: a\n\n") == [ParsedEvent("message", "a")]


def test_empty_data_is_dispatched():
    assert feed(b"data\n\ndata:\n\ndata: \n\ndata\ndata\n\n") == [
        ParsedEvent("message", ""),
        ParsedEvent("message", ""),
        ParsedEvent("message", ""),
        ParsedEvent("message", "\n"),
    ]


def test_id_stays_until_another_comes():
    assert feed(b"id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\n") == [
        ParsedEvent("message", "a", "1"),
        ParsedEvent("message", "b", "1"),
        ParsedEvent("message", "c", ""),
    ]


def test_block_with_only_an_id_moves_the_last_event_id_when_it_ends():
    parser = SSEParser(last_event_id="1")
    assert parser.feed(b"id: 2\n") == []
    assert parser.last_event_id == "1"
    assert parser.feed(b"\n") == []
    assert parser.last_event_id == "2"


def test_id_with_nul_is_ignored():
    assert feed(b"id: 1\nid: 2\0\ndata: a\n\n") == [ParsedEvent("message", "a", "1")]


def test_retry_takes_ascii_digits_only():
    parser = SSEParser()
    parser.feed("retry: 10\nretry: +1\nretry: \u0661\nretry:\nretry: 1.5\nretry:020\n\n".encode())
    assert parser.retries == [10, 20]


def test_bytes_that_are_not_utf8_are_replaced():
    assert feed(b"data: a\xffb\n\n") == [ParsedEvent("message", "a\ufffdb")]


def test_unknown_fields_are_ignored():
    assert feed(b"Data: a\n data: b\nretry\ndata: c\n\n") == [ParsedEvent("message", "c")]


def test_unfinished_block_is_discarded():
    parser = SSEParser()
    assert parser.feed(b"id: 3\ndata: a\n") == []
    parser.close()
    assert parser.last_event_id == ""


@pytest.mark.parametrize(
    "data",
    [
        b"foo: a\n\n",
        b"id: a\0b\ndata: a\n\n",
        b"event: a\0b\ndata: a\n\n",
        b"id: a\rdata: a\n\n",
        b"\xef\xbb\xbfdata: a\n\n",
        b"data: \xff\n\n",
        b"data: \xe2\x82",
        b"data: a",
        b"data: a\n",
        b": a\n",
        b"event: a\n\n",
        b"id: 1\nid: 2\ndata: a\n\n",
        b"retry: soon\n\n",
        b"event: stream-error\ndata: {}\n\n\n",
        b"event: stream-error\ndata: {}\n\n: more\n\n",
        b"event: stream-error\ndata: {}\n\nevent: stream-error\ndata: {}\n\n",
    ],
)
def test_strict_parser_rejects_what_we_must_not_send(data):
    with pytest.raises(AssertionError):
        parse(data)
    SSEParser().feed(data)


def test_strict_parser_rejects_what_comes_after_an_error():
    parser = SSEParser(strict=True)
    parser.feed(b"event: stream-error\ndata: {}\n\n")
    parser.feed(b"")
    with pytest.raises(AssertionError):
        parser.feed(b"\n")


def test_strict_parser_takes_what_we_send():
    data = b":  \n\nevent: e\nid: a:1\ndata: x\ndata: y\n\nid: a:2\n\nretry: 5\n\n"
    assert parse(data) == [ParsedEvent("e", "x\ny", "a:1")]
