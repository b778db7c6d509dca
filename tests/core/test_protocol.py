"""Each cell of the table at the top of protocol.py, to the byte."""

import pytest

from django_eventstream import protocol as protocol_module
from django_eventstream.event import Event
from django_eventstream.exceptions import BadRequest, EventPermissionError
from django_eventstream.feed import Entry, Feed
from django_eventstream.protocol import State, StreamProtocol

OPEN = b"event: stream-open\ndata:\n\n"


def event(event_id: int | None = None, data: str | None = None, channel: str = "a", **fields):
    return Event(channel, "message", str(event_id) if data is None else data, event_id, **fields)


def entries(first: int, last: int) -> list[Entry]:
    return [Entry(event(event_id)) for event_id in range(first, last + 1)]


def written(event_id: int, line: str | None = None) -> bytes:
    return f"event: message\nid: {line or f'a:{event_id}'}\ndata: {event_id}\n\n".encode()


def bare(data: str) -> bytes:
    return f"event: message\ndata: {data}\n\n".encode()


def warm_feed(tail: int, channel: str = "a", **bounds) -> Feed:
    feed = Feed(channel, **bounds)
    feed.receive_current(tail)
    return feed


def start(feed: Feed, current_id: int | None = None, **options) -> StreamProtocol:
    """Return a stream of one reliable channel, as far as it is opened."""
    stream = StreamProtocol({"a": True}, padding=0, **options)
    stream.receive_start({"a": feed}, {} if current_id is None else {"a": current_id})
    return stream


def live(position: int = 5, **options) -> tuple[Feed, StreamProtocol]:
    """Return a stream of one reliable channel that follows its feed."""
    feed = warm_feed(position)
    stream = start(feed, position, **options)
    assert stream.data_to_send() == opened(position)
    assert stream.state is State.LIVE
    return feed, stream


def reading(position: int = 2, tail: int = 5, **options) -> tuple[Feed, StreamProtocol]:
    """Return a stream of one reliable channel that waits for the log."""
    feed = warm_feed(tail)
    stream = start(feed, tail, last_event_id={"a": position}, **options)
    assert stream.data_to_send() == opened(position)
    assert stream.state is State.READING
    return feed, stream


def unreliable(**options) -> tuple[Feed, StreamProtocol]:
    feed = Feed("a")
    stream = StreamProtocol({"a": False}, padding=0, **options)
    stream.receive_start({"a": feed}, {})
    assert stream.data_to_send() == OPEN
    return feed, stream


def opened(position: int) -> bytes:
    return f"event: stream-open\nid: a:{position}\ndata:\n\n".encode()


def reset(position: int) -> bytes:
    return f'event: stream-reset\nid: a:{position}\ndata: {{"channels": ["a"]}}\n\n'.encode()


UNRELIABLE_RESET = b'event: stream-reset\ndata: {"channels": ["a"]}\n\n'
ERROR = (
    b"event: stream-error\nid: error\n"
    b'data: {"condition": "bad-request", "text": "No."}\n\n'
)  # fmt: skip


# OPENING


def test_nothing_is_written_before_the_start():
    stream = StreamProtocol({"a": True})
    stream.receive_idle()
    stream.receive_page("a", [])
    stream.receive_missing("a", 1)
    assert stream.wanted() == []
    assert stream.data_to_send() == b""
    assert stream.state is State.OPENING


def test_padding_comes_first():
    stream = StreamProtocol({"a": False})
    stream.receive_start({"a": Feed("a")}, {})
    assert stream.data_to_send() == b":" + b" " * 2048 + b"\n\n" + OPEN


def test_open_without_reliable_channels_has_no_id():
    unreliable(last_event_id={"a": 7})


def test_open_tells_the_present_where_the_client_gave_no_position():
    stream = start(warm_feed(7), 7)
    assert stream.data_to_send() == opened(7)
    assert stream.state is State.LIVE


def test_open_tells_positions_of_reliable_channels_in_the_order_of_the_channels():
    stream = StreamProtocol(
        {"b": True, "u": False, "é ": True},
        last_event_id={"é ": 3, "b": 4, "u": 9, "other": 1},
        padding=0,
    )
    feeds = {"é ": warm_feed(3, "é "), "u": Feed("u"), "b": warm_feed(4, "b")}
    stream.receive_start(feeds, {})
    assert stream.data_to_send() == b"event: stream-open\nid: b:4,%C3%A9%20:3\ndata:\n\n"


def test_resume_within_the_feed_is_live_at_once():
    feed = warm_feed(2)
    feed.receive_page([event(3), event(4)])
    stream = start(feed, last_event_id={"a": 3})
    assert stream.state is State.LIVE
    assert stream.wanted() == []
    assert stream.data_to_send() == opened(3)
    assert stream.data_to_send() == written(4)
    assert stream.data_to_send() == b""


@pytest.mark.parametrize("count", [1, 2, 3])
def test_resume_within_what_was_put_back_in_front(count):
    feed = warm_feed(5)
    assert feed.prepend(entries(3, 5))
    position = 5 - count
    stream = start(feed, last_event_id={"a": position})
    assert stream.data_to_send() == opened(position)
    assert stream.data_to_send() == b"".join(map(written, range(position + 1, 6)))


def test_resume_from_before_the_feed_reads_the_log():
    _, stream = reading(2, 5)
    assert stream.wanted() == [("a", 2)]


def test_position_from_the_future_is_opened_and_then_reset():
    stream = start(warm_feed(5), 5, last_event_id={"a": 6})
    assert stream.data_to_send() == opened(6) + reset(5)
    assert stream.state is State.LIVE


def test_reset_at_the_start_leaves_other_positions():
    stream = StreamProtocol({"a": True, "b": True}, last_event_id={"a": 10**30, "b": 1}, padding=0)
    stream.receive_start({"a": warm_feed(5), "b": warm_feed(4, "b")}, {"a": 5, "b": 4})
    assert (
        stream.data_to_send()
        == (
            f"event: stream-open\nid: a:{10**30},b:1\ndata:\n\n"
            'event: stream-reset\nid: a:5,b:1\ndata: {"channels": ["a"]}\n\n'
        ).encode()
    )
    assert stream.wanted() == [("b", 1)]


def test_start_comes_once():
    feed, stream = live(5)
    stream.receive_start({"a": feed}, {"a": 5})
    assert stream.data_to_send() == b""


def test_error_before_the_start_is_all_that_is_written():
    stream = StreamProtocol({"a": True})
    stream.receive_error(BadRequest("No."))
    stream.receive_start({"a": warm_feed(5)}, {"a": 5})
    assert stream.data_to_send() == ERROR
    assert stream.state is State.CLOSED


def test_end_before_the_start_is_all_that_is_written():
    stream = StreamProtocol({"a": True})
    stream.receive_end(3000)
    stream.receive_start({"a": warm_feed(5)}, {"a": 5})
    assert stream.data_to_send() == b"retry: 3000\n\n"
    assert stream.state is State.CLOSED


# A page of the log


def test_page_is_written_and_reading_goes_on_while_the_feed_is_not_reached():
    _, stream = reading(2, 5)
    stream.receive_page("a", entries(3, 4))
    assert stream.data_to_send() == written(3) + written(4)
    assert stream.state is State.READING
    assert stream.wanted() == [("a", 4)]


def test_page_that_reaches_the_feed_makes_the_stream_live():
    feed, stream = reading(2, 5)
    feed.receive_event(event(6))
    stream.receive_page("a", entries(3, 6))
    feed.receive_event(event(7))
    assert stream.state is State.LIVE
    assert stream.data_to_send() == b"".join(map(written, range(3, 7)))
    assert stream.data_to_send() == written(7)


def test_empty_page_makes_the_stream_look_at_the_feed_again():
    feed, stream = reading(2, 5)
    stream.receive_page("a", [])
    assert stream.state is State.READING
    feed.prepend(entries(3, 5))
    stream.receive_page("a", [])
    assert stream.state is State.LIVE
    assert stream.data_to_send() == b"".join(map(written, range(3, 6)))


def test_page_with_known_and_distant_events_gives_only_what_follows():
    _, stream = reading(2, 5)
    stream.receive_page("a", [*entries(1, 3), *entries(5, 5)])
    assert stream.data_to_send() == written(3)
    assert stream.wanted() == [("a", 3)]


def test_page_of_one_channel_leaves_the_others_reading():
    stream = StreamProtocol({"a": True, "b": True}, last_event_id={"a": 4, "b": 1}, padding=0)
    feeds = {"a": warm_feed(5), "b": warm_feed(2, "b")}
    stream.receive_start(feeds, {"a": 5, "b": 2})
    stream.data_to_send()
    assert stream.wanted() == [("a", 4), ("b", 1)]
    stream.receive_page("a", entries(5, 5))
    feeds["a"].receive_event(event(6))
    assert stream.state is State.READING
    assert stream.wanted() == [("b", 1)]
    assert stream.data_to_send() == written(5, "a:5,b:1")
    stream.receive_page("b", [Entry(event(2, channel="b"))])
    assert stream.state is State.LIVE
    assert stream.data_to_send() == written(2, "a:5,b:2")
    assert stream.data_to_send() == written(6, "a:6,b:2")


def test_page_is_ignored_while_live():
    _, stream = live(5)
    stream.receive_page("a", entries(6, 7))
    assert stream.data_to_send() == b""


# What the log does not hold


def test_resume_after_trim_sends_reset():
    _, stream = reading(2, 5)
    stream.receive_missing("a", 5)
    assert stream.data_to_send() == reset(5)
    assert stream.state is State.LIVE


def test_reset_to_a_present_that_the_feed_does_not_hold_reads_on():
    feed, stream = reading(2, 5)
    feed.restart(9)
    stream.receive_missing("a", 7)
    assert stream.data_to_send() == reset(7)
    assert stream.wanted() == [("a", 7)]
    assert stream.state is State.READING


def test_reset_names_one_channel_and_leaves_the_others():
    stream = StreamProtocol(
        {"b": True, "a": True, "u": False}, last_event_id={"a": 4, "b": 1}, padding=0
    )
    feeds = {"a": warm_feed(5), "b": warm_feed(2, "b"), "u": Feed("u")}
    stream.receive_start(feeds, {"a": 5, "b": 2})
    stream.data_to_send()
    stream.receive_missing("b", 2)
    assert stream.data_to_send() == (
        b'event: stream-reset\nid: b:2,a:4\ndata: {"channels": ["b"]}\n\n'
    )
    assert stream.wanted() == [("a", 4)]


def test_missing_is_ignored_while_live():
    _, stream = live(5)
    stream.receive_missing("a", 7)
    assert stream.data_to_send() == b""


# Events in the feed


def test_next_event_is_written_at_once():
    feed, stream = live(5)
    feed.receive_event(event(6))
    feed.receive_event(event(7))
    assert stream.data_to_send() == written(6) + written(7)
    assert stream.data_to_send() == b""


def test_next_event_waits_while_reading():
    feed, stream = reading(2, 5)
    feed.receive_event(event(6))
    assert stream.data_to_send() == b""
    stream.receive_page("a", entries(3, 5))
    assert stream.data_to_send() == b"".join(map(written, range(3, 6)))
    assert stream.data_to_send() == written(6)


def test_event_without_id_waits_while_reading():
    feed, stream = reading(2, 5)
    feed.receive_event(event(None, "x"))
    feed.receive_event(event(6))
    feed.receive_event(event(None, "y"))
    stream.receive_page("a", entries(3, 6))
    assert stream.data_to_send() == b"".join(map(written, range(3, 7)))
    assert stream.data_to_send() == bare("x") + bare("y")
    assert stream.data_to_send() == b""


def test_event_without_id_waits_behind_what_the_feed_has_lost():
    feed, stream = live(5)
    feed.receive_page([event(6), event(7)])
    feed.receive_event(event(None, "x"))
    feed.receive_page([event(8)])
    feed.trim(2)
    assert stream.data_to_send() == b""
    assert stream.state is State.READING
    stream.receive_page("a", entries(6, 8))
    assert stream.data_to_send() == b"".join(map(written, range(6, 9)))
    assert stream.data_to_send() == bare("x")


def test_event_without_id_is_written_at_once_and_moves_no_position():
    feed, stream = live(5)
    feed.receive_event(event(None, "x"))
    assert stream.data_to_send() == bare("x")
    assert stream.cursors[0].position == 5


def test_unreliable_channel_starts_at_the_present():
    feed = Feed("a")
    feed.receive_event(event(None, "old"))
    stream = StreamProtocol({"a": False}, padding=0)
    stream.receive_start({"a": feed}, {})
    feed.receive_event(event(None, "new"))
    assert stream.data_to_send() == OPEN
    assert stream.data_to_send() == bare("new")


def test_event_on_an_unreliable_channel_has_no_id_even_if_it_was_stored():
    feed, stream = unreliable()
    feed.receive_event(event(7, "x"))
    assert stream.data_to_send() == bare("x")


def test_events_of_all_channels_carry_all_positions():
    stream = StreamProtocol({"a": True, "u": False, "b": True}, padding=0)
    feeds = {"a": warm_feed(5), "u": Feed("u"), "b": warm_feed(1, "b")}
    stream.receive_start(feeds, {"a": 5, "b": 1})
    stream.data_to_send()
    feeds["b"].receive_event(event(2, channel="b"))
    feeds["u"].receive_event(event(None, "x", "u"))
    feeds["a"].receive_event(event(6))
    assert stream.data_to_send() == written(6, "a:6,b:1") + bare("x") + written(2, "a:6,b:2")


def test_event_that_the_client_has_is_dropped():
    feed, stream = live(5)
    feed.receive_event(event(7))
    feed.restart(4)
    feed.receive_page([event(5)])
    feed.receive_current(5)
    assert stream.data_to_send() == b""
    assert stream.state is State.LIVE
    feed.receive_event(event(6))
    assert stream.data_to_send() == written(6)


def test_event_that_the_page_had_is_dropped():
    feed, stream = reading(2, 5)
    feed.receive_page([event(6), event(7)])
    feed.receive_gap()  # so that the place is not computed from the id
    stream.receive_page("a", entries(3, 6))
    assert stream.data_to_send() == b"".join(map(written, range(3, 7)))
    assert stream.data_to_send() == written(7)
    assert stream.data_to_send() == b""


def test_event_without_id_from_before_the_stream_is_not_written():
    feed = warm_feed(2)
    feed.receive_page([event(3)])
    feed.receive_event(event(None, "old"))
    feed.receive_page([event(4)])
    stream = start(feed, last_event_id={"a": 2})
    assert stream.data_to_send() == opened(2)
    assert stream.data_to_send() == written(3) + written(4)


def test_hole_in_the_feed_makes_the_stream_read_the_log():
    # A feed has none; if it had, the client must not lose by it.
    feed, stream = live(5)
    feed.receive_page([event(6), event(7)])
    del feed.entries[0]
    feed.start += 1
    stream.cursors[0].place += 1
    assert stream.data_to_send() == b""
    assert stream.state is State.READING
    assert stream.wanted() == [("a", 5)]


# Overtaken by the feed


def test_stream_that_was_overtaken_reads_the_log():
    feed, stream = live(5)
    feed.receive_page([event(6), event(7), event(8)])
    feed.trim(1)
    assert stream.data_to_send() == b""
    assert stream.state is State.READING
    assert stream.wanted() == [("a", 5)]
    stream.receive_page("a", entries(6, 7))
    assert stream.data_to_send() == written(6) + written(7)
    assert stream.data_to_send() == written(8)


def test_stream_that_was_overtaken_and_is_at_the_present_needs_no_log():
    feed, stream = live(5)
    feed.restart(5)
    assert stream.data_to_send() == b""
    assert stream.state is State.LIVE
    feed.receive_event(event(6))
    assert stream.data_to_send() == written(6)


def test_stream_further_than_the_log_is_reset_when_the_counter_was_lost():
    feed, stream = live(5)
    feed.receive_current(3, 5)
    assert stream.data_to_send() == b""
    assert stream.wanted() == [("a", 5)]
    stream.receive_missing("a", 3)
    assert stream.data_to_send() == reset(3)
    feed.receive_event(event(4))
    assert stream.data_to_send() == written(4)


def test_stream_that_read_further_than_the_feed_waits_for_it():
    feed, stream = reading(2, 3)
    stream.receive_page("a", entries(3, 5))
    assert stream.state is State.LIVE
    assert feed.is_behind
    feed.receive_page([event(4), event(5), event(6)])
    assert stream.data_to_send() == b"".join(map(written, range(3, 6)))
    assert stream.data_to_send() == written(6)


def test_stream_that_read_further_than_the_log_turns_out_to_reach_reads_again():
    feed, stream = reading(2, 3)
    stream.receive_page("a", entries(3, 5))
    stream.data_to_send()
    feed.forget_missing()
    assert stream.data_to_send() == b""
    assert stream.wanted() == [("a", 5)]


def test_present_beyond_the_feed_is_where_a_reset_goes_on():
    feed, stream = reading(2, 5)
    stream.receive_missing("a", 7)
    assert stream.data_to_send() == reset(7)
    assert stream.state is State.LIVE
    assert feed.is_behind


def test_unreliable_stream_that_was_overtaken_is_reset_and_goes_on_from_the_present():
    feed, stream = unreliable()
    for data in "xyz":
        feed.receive_event(event(None, data))
    feed.trim(1)
    assert stream.data_to_send() == UNRELIABLE_RESET
    assert stream.data_to_send() == b""
    feed.receive_event(event(None, "new"))
    assert stream.data_to_send() == bare("new")


def test_channels_behind_one_that_must_be_read_wait():
    stream = StreamProtocol({"u": False, "a": True, "b": True}, padding=0)
    feeds = {"u": Feed("u"), "a": warm_feed(5), "b": warm_feed(1, "b")}
    stream.receive_start(feeds, {"a": 5, "b": 1})
    stream.data_to_send()
    feeds["u"].receive_gap()
    feeds["a"].receive_event(event(6))
    feeds["a"].trim(0)
    feeds["b"].receive_event(event(2, channel="b"))
    assert stream.data_to_send() == (
        b'event: stream-reset\nid: a:5,b:1\ndata: {"channels": ["u"]}\n\n'
    )
    assert stream.data_to_send() == b""
    assert stream.wanted() == [("a", 5)]
    stream.receive_page("a", entries(6, 6))
    assert stream.data_to_send() == written(6, "a:6,b:1")
    assert stream.data_to_send() == written(2, "a:6,b:2")


# A gap


def test_gap_resets_an_unreliable_channel_between_its_events():
    feed, stream = unreliable()
    feed.receive_event(event(None, "x"))
    feed.receive_gap()
    feed.receive_event(event(None, "y"))
    assert stream.data_to_send() == bare("x") + UNRELIABLE_RESET
    assert stream.data_to_send() == bare("y")


def test_gaps_in_a_row_are_one_reset():
    feed, stream = unreliable()
    feed.receive_gap()
    feed.receive_gap()
    feed.receive_event(event(None, "x"))
    feed.receive_gap()
    assert stream.data_to_send() == UNRELIABLE_RESET
    assert stream.data_to_send() == bare("x") + UNRELIABLE_RESET
    assert stream.data_to_send() == b""
    feed.receive_gap()
    assert stream.data_to_send() == UNRELIABLE_RESET


def test_gap_on_many_unreliable_channels_is_one_reset():
    stream = StreamProtocol({"u": False, "a": True, "v": False}, padding=0)
    feeds = {"u": Feed("u"), "a": warm_feed(5), "v": Feed("v")}
    stream.receive_start(feeds, {"a": 5})
    stream.data_to_send()
    for feed in feeds.values():
        feed.receive_gap()
    assert stream.data_to_send() == (
        b'event: stream-reset\nid: a:5\ndata: {"channels": ["u", "v"]}\n\n'
    )
    assert stream.data_to_send() == b""


def test_gap_is_nothing_to_a_reliable_channel():
    feed, stream = live(5)
    feed.receive_gap()
    feed.receive_event(event(6))
    assert stream.data_to_send() == written(6)
    assert stream.state is State.LIVE


def test_gap_waits_while_reading():
    stream = StreamProtocol({"a": True, "u": False}, last_event_id={"a": 4}, padding=0)
    feeds = {"a": warm_feed(5), "u": Feed("u")}
    stream.receive_start(feeds, {"a": 5})
    stream.data_to_send()
    feeds["u"].receive_gap()
    assert stream.data_to_send() == b""
    stream.receive_page("a", entries(5, 5))
    assert stream.data_to_send() == written(5)
    assert stream.data_to_send() == (b'event: stream-reset\nid: a:5\ndata: {"channels": ["u"]}\n\n')


# Skipped events


def skipped(event_id: int | None, *user_ids: str) -> Event:
    return event(event_id, skip_user_ids=frozenset(user_ids))


def test_skipped_event_moves_the_position_by_an_id_alone():
    feed, stream = live(5, user_id="1")
    feed.receive_event(skipped(6, "1", "2"))
    assert stream.data_to_send() == b"id: a:6\n\n"
    assert stream.data_to_send() == b""
    assert stream.cursors[0].position == 6


def test_skipped_event_is_passed_over_by_the_next_one():
    feed, stream = live(5, user_id="1")
    feed.receive_page([skipped(6, "1"), event(7)])
    assert stream.data_to_send() == written(7)
    assert stream.data_to_send() == b""


def test_skipped_event_of_a_page_moves_the_position():
    _, stream = reading(2, 5, user_id="1")
    stream.receive_page("a", [Entry(event(3)), Entry(skipped(4, "1"))])
    assert stream.data_to_send() == written(3) + b"id: a:4\n\n"
    assert stream.wanted() == [("a", 4)]


def test_skipped_event_is_passed_over_by_the_next_one_of_another_channel():
    stream = StreamProtocol({"a": True, "b": True}, user_id="1", padding=0)
    feeds = {"a": warm_feed(5), "b": warm_feed(1, "b")}
    stream.receive_start(feeds, {"a": 5, "b": 1})
    stream.data_to_send()
    feeds["a"].receive_event(skipped(6, "1"))
    feeds["b"].receive_event(event(2, channel="b"))
    assert stream.data_to_send() == written(2, "a:6,b:2")


@pytest.mark.parametrize("user_id", [None, "2"])
def test_event_that_others_must_not_get_is_written(user_id):
    feed, stream = live(5, user_id=user_id)
    feed.receive_event(skipped(6, "1", "None"))
    assert stream.data_to_send() == written(6)


def test_skipped_event_without_id_writes_nothing():
    feed, stream = unreliable(user_id="1")
    feed.receive_event(skipped(None, "1"))
    assert stream.data_to_send() == b""
    feed.receive_event(event(None, "x"))
    assert stream.data_to_send() == bare("x")


# Idle


def test_idle_stream_is_kept_alive():
    for _, stream in (live(), reading(), unreliable()):
        stream.receive_idle()
        assert stream.data_to_send() == b"event: keep-alive\ndata:\n\n"
        assert stream.data_to_send() == b""


def test_client_that_does_not_read_is_not_kept_alive_twice():
    _, stream = live(5)
    stream.receive_idle()
    stream.receive_idle()
    assert stream.data_to_send() == b"event: keep-alive\ndata:\n\n"
    _, stream = reading(2, 5)
    stream.receive_page("a", entries(3, 3))
    stream.receive_idle()
    assert stream.data_to_send() == written(3)


# The end


@pytest.mark.parametrize("make", [live, reading])
def test_error_is_written_once_and_last(make):
    feed, stream = make()
    feed.receive_event(event(6))
    stream.receive_idle()
    stream.receive_error(BadRequest("No."))
    assert stream.state is State.CLOSED
    stream.receive_error(EventPermissionError.for_channels(["a"]))
    stream.receive_end(1)
    stream.receive_idle()
    stream.receive_page("a", entries(3, 6))
    stream.receive_missing("a", 9)
    stream.receive_start({"a": feed}, {"a": 6})
    feed.receive_event(event(7))
    assert stream.data_to_send() == b"event: keep-alive\ndata:\n\n" + ERROR
    assert stream.data_to_send() == b""


def test_revoked_permission_ends_the_stream_before_what_it_has_not_written():
    feed, stream = live(5)
    feed.receive_event(event(6))
    stream.receive_error(EventPermissionError.for_channels(["a", "b"]))
    assert stream.data_to_send() == (
        b'event: stream-error\nid: error\ndata: {"condition": "forbidden", '
        b'"text": "Permission denied to channels: a, b", "channels": ["a", "b"]}\n\n'
    )


@pytest.mark.parametrize("make", [live, reading])
def test_end_is_a_retry_without_an_id(make):
    feed, stream = make()
    stream.receive_end(1500)
    assert stream.state is State.CLOSED
    stream.receive_error(BadRequest("No."))
    stream.receive_end(1)
    stream.receive_idle()
    feed.receive_event(event(6))
    assert stream.data_to_send() == b"retry: 1500\n\n"
    assert stream.data_to_send() == b""


# In parts


def test_long_backlog_is_written_in_parts(monkeypatch):
    monkeypatch.setattr(protocol_module, "MAX_ENTRIES", 3)
    feed, stream = live(0)
    feed.receive_page([event(event_id) for event_id in range(1, 8)])
    parts = [stream.data_to_send() for _ in range(4)]
    assert [part.count(b"\n\n") for part in parts] == [3, 3, 1, 0]
    assert b"".join(parts) == b"".join(map(written, range(1, 8)))


def test_large_events_are_written_in_parts(monkeypatch):
    monkeypatch.setattr(protocol_module, "MAX_BYTES", 3)
    feed, stream = live(0)
    feed.receive_page([event(event_id, "xx") for event_id in range(1, 6)])
    parts = [stream.data_to_send() for _ in range(4)]
    assert [part.count(b"\n\n") for part in parts] == [2, 2, 1, 0]


def test_backlog_of_which_nothing_is_written_does_not_end_the_writing(monkeypatch):
    monkeypatch.setattr(protocol_module, "MAX_ENTRIES", 2)
    feed, stream = unreliable(user_id="1")
    for _ in range(7):
        feed.receive_event(skipped(None, "1"))
    feed.receive_event(event(None, "x"))
    assert stream.data_to_send() == bare("x")
