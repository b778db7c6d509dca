"""The ring of a channel."""

import pytest

from django_eventstream.event import Event
from django_eventstream.feed import Entry, Feed


def event(event_id: int | None = None, data: str = "x", **fields) -> Event:
    return Event("room", "message", data, event_id, **fields)


def events(first: int, last: int) -> list[Event]:
    return [event(event_id) for event_id in range(first, last + 1)]


def warm_feed(tail: int = 0, **bounds) -> Feed:
    feed = Feed("room", **bounds)
    feed.receive_current(tail)
    return feed


def ids(feed: Feed) -> list[int | None]:
    return [entry.id for entry in feed.entries]


# Entries


def test_entry_is_encoded_as_the_streams_of_one_channel_write_it():
    entry = Entry(Event("a b", "greeting", "x\ny", 7))
    assert entry.solo == b"event: greeting\nid: a%20b:7\ndata: x\ndata: y\n\n"
    assert entry.solo is entry.solo


def test_entry_is_encoded_with_the_id_line_of_a_stream_of_many_channels():
    entry = Entry(event(7))
    first, id_line, last = entry.parts(b"id: a:1,room:7\n")
    assert (first, id_line, last) == (b"event: message\n", b"id: a:1,room:7\n", b"data: x\n\n")
    again = entry.parts(b"id: room:7\n")
    assert again[0] is first
    assert again[2] is last


def test_entry_is_encoded_without_an_id_line():
    entry = Entry(event())
    assert entry.bare == b"event: message\ndata: x\n\n"
    assert entry.bare is entry.bare
    entry = Entry(event(7))
    entry.parts(b"id: room:7\n")
    assert entry.bare == b"event: message\ndata: x\n\n"


def test_entry_of_a_gap_has_no_event():
    entry = Entry(None)
    assert (entry.event, entry.id, entry.skip_user_ids) == (None, None, frozenset())


# What is known of the log


def test_new_feed_is_cold():
    feed = Feed("room")
    assert feed.is_cold
    assert not feed.is_behind
    assert not feed.holds(0)
    assert feed.seek(0, feed.end) is None


def test_cold_feed_starts_at_the_present():
    feed = warm_feed(7)
    assert not feed.is_cold
    assert (feed.base, feed.tail, feed.known) == (7, 7, 7)
    assert feed.holds(7)
    assert not feed.holds(6)


def test_cold_feed_starts_before_the_first_event_it_is_told_of():
    feed = Feed("room")
    assert feed.receive_event(event(7))
    assert (feed.base, feed.tail, feed.known) == (6, 7, 7)
    assert not feed.receive_event(event(6))


def test_present_before_the_tail_is_old_news():
    feed = warm_feed(0)
    feed.receive_page(events(1, 5))
    feed.receive_current(3, 2)
    assert (feed.tail, feed.known) == (5, 5)


def test_present_beyond_the_tail_shows_that_the_feed_is_behind():
    feed = warm_feed(5)
    feed.receive_current(7, 5)
    assert feed.is_behind
    assert feed.receive_page(events(6, 7))
    assert not feed.is_behind


def test_lost_counter_restarts_the_feed():
    feed = warm_feed(5)
    feed.receive_page(events(6, 8))
    feed.receive_current(4, 8)
    assert (feed.base, feed.tail, feed.known, feed.entries) == (4, 4, 4, [])


def test_feed_that_is_too_far_behind_restarts_at_the_present():
    feed = warm_feed(0, capacity=5)
    feed.receive_current(5)
    assert (feed.tail, feed.known) == (0, 5)
    feed.receive_current(6)
    assert (feed.base, feed.tail, feed.known) == (6, 6, 6)


def test_restart_puts_every_cursor_off_the_ring():
    feed = warm_feed(0, capacity=4)
    feed.receive_page(events(1, 4))
    feed.receive_event(event(6))
    end = feed.end
    feed.restart(10)
    assert feed.start == feed.end > end
    assert (feed.base, feed.size, feed.ahead) == (10, 0, {})
    # Even if it is filled in front as far as it can be.
    assert feed.prepend([Entry(event(event_id)) for event_id in range(7, 11)])
    assert feed.start > end


# Events


def test_events_in_order_are_taken():
    feed = warm_feed(3)
    assert feed.receive_event(event(4))
    assert feed.receive_event(event(5))
    assert ids(feed) == [4, 5]
    assert (feed.start, feed.end, feed.base, feed.tail, feed.size) == (0, 2, 3, 5, 2)


def test_repeated_events_are_dropped():
    feed = warm_feed(3)
    feed.receive_page(events(4, 5))
    assert not feed.receive_event(event(4))
    assert not feed.receive_event(event(5))
    assert ids(feed) == [4, 5]
    assert feed.ahead == {}


def test_event_that_comes_early_waits_for_its_turn():
    feed = warm_feed(3)
    assert not feed.receive_event(event(6))
    assert not feed.receive_event(event(5))
    assert not feed.receive_event(event(6))
    assert feed.is_behind
    assert ids(feed) == []
    assert feed.receive_event(event(4))
    assert ids(feed) == [4, 5, 6]
    assert feed.ahead == {}
    assert not feed.is_behind


def test_page_of_the_log_fills_a_hole():
    feed = warm_feed(3)
    feed.receive_event(event(6))
    assert feed.receive_page(events(4, 5))
    assert ids(feed) == [4, 5, 6]


def test_page_of_what_the_feed_has_changes_nothing():
    feed = warm_feed(3)
    feed.receive_page(events(4, 5))
    assert not feed.receive_page(events(4, 5))
    assert not feed.receive_page([])


def test_what_waits_is_bounded_in_number():
    feed = warm_feed(0, capacity=3)
    for event_id in range(2, 10):
        feed.receive_event(event(event_id))
    assert sorted(feed.ahead) == [2, 3, 4]
    assert feed.known == 9
    feed.receive_event(event(1))
    assert feed.tail == 4
    assert feed.is_behind


def test_what_waits_is_bounded_in_bytes():
    feed = warm_feed(0, max_bytes=10)
    for event_id in range(2, 6):
        feed.receive_event(event(event_id, "x" * 4))
        feed.receive_event(event(event_id, "x" * 4))
    assert sorted(feed.ahead) == [2, 3]
    feed.receive_event(event(1))
    assert feed.tail == 3
    # What has been taken, or forgotten, makes room again.
    for event_id in (5, 6):
        feed.receive_event(event(event_id, "x" * 5))
    assert sorted(feed.ahead) == [5, 6]
    feed.restart(9)
    for event_id in (11, 12):
        feed.receive_event(event(event_id, "x" * 5))
    assert sorted(feed.ahead) == [11, 12]


def test_missing_events_can_be_forgotten():
    feed = warm_feed(3)
    feed.receive_event(event(6))
    feed.forget_missing()
    assert not feed.is_behind
    assert feed.ahead == {}
    assert feed.receive_event(event(4))
    assert ids(feed) == [4]


def test_cursors_are_off_the_ring_when_the_log_has_less_than_was_known():
    # One may be further than the log: its counter was lost.
    feed = warm_feed(3)
    feed.receive_known(6)
    place = feed.seek(6, feed.end)
    feed.forget_missing()
    assert place < feed.start
    assert feed.seek(6, feed.end) is None
    assert feed.seek(3, feed.end) == feed.end


def test_events_without_id_are_taken_as_they_come():
    feed = Feed("room")
    assert feed.receive_event(event(None, "a"))
    assert feed.receive_event(event(None, "b"))
    feed.receive_gap()
    assert [entry.event and entry.event.data for entry in feed.entries] == ["a", "b", None]
    assert (feed.end, feed.size) == (3, 2)
    assert feed.is_cold


# Bounds


def test_full_ring_is_cut_to_half():
    feed = warm_feed(0, capacity=4)
    feed.receive_page(events(1, 5))
    assert ids(feed) == [4, 5]
    assert (feed.start, feed.end, feed.base, feed.tail, feed.size) == (3, 5, 3, 5, 2)


def test_smallest_ring_holds_the_latest_event():
    feed = warm_feed(0, capacity=1)
    feed.receive_page(events(1, 3))
    assert ids(feed) == [3]
    assert feed.base == 2


def test_full_ring_of_events_without_id_is_cut_too():
    feed = Feed("room", capacity=4)
    for data in "abcd":
        feed.receive_event(event(None, data))
    feed.receive_gap()
    assert (feed.start, feed.end, feed.size) == (3, 5, 1)
    assert feed.is_cold


def test_ring_of_large_events_is_cut_to_half_its_bytes():
    feed = warm_feed(0, max_bytes=100)
    feed.receive_page([event(event_id) for event_id in range(1, 61)])
    feed.receive_event(event(61, "x" * 30))
    assert feed.size == 90
    feed.receive_event(event(62, "x" * 30))
    assert ids(feed) == [62]
    assert feed.size == 30


def test_event_that_is_larger_than_the_ring_is_held_alone():
    feed = Feed("room", max_bytes=100)
    feed.receive_event(event(None, "x" * 101))
    assert [entry.event.data for entry in feed.entries] == ["x" * 101]
    feed.receive_event(event(None, "y"))
    assert [entry.event.data for entry in feed.entries] == ["y"]


def test_trim_keeps_the_latest():
    feed = warm_feed(0)
    feed.receive_page(events(1, 5))
    feed.trim(2)
    assert ids(feed) == [4, 5]
    assert feed.base == 3
    feed.trim(7)
    assert ids(feed) == [4, 5]
    feed.trim(0)
    assert (feed.start, feed.end, feed.base, feed.tail, feed.size) == (5, 5, 5, 5, 0)


# In front


def test_page_that_ends_at_the_base_is_put_in_front():
    feed = warm_feed(5)
    feed.receive_page(events(6, 7))
    place = feed.seek(6, feed.end)
    assert feed.prepend([Entry(one) for one in events(3, 5)])
    assert ids(feed) == [3, 4, 5, 6, 7]
    assert (feed.start, feed.base, feed.size) == (-3, 2, 5)
    assert feed.seek(6, feed.end) == place
    assert feed.seek(2, feed.end) == feed.start


def test_page_that_does_not_end_at_the_base_is_not_put_in_front():
    feed = warm_feed(5)
    assert not feed.prepend([Entry(one) for one in events(3, 4)])
    assert not feed.prepend([Entry(one) for one in events(3, 6)])
    assert not feed.prepend([])
    assert feed.base == 5


def test_cold_feed_has_no_front():
    assert not Feed("room").prepend([Entry(event(1))])


def test_page_is_not_put_in_front_where_there_is_no_room():
    feed = warm_feed(5, capacity=3, max_bytes=10)
    feed.receive_page(events(6, 7))
    assert not feed.prepend([Entry(one) for one in events(4, 5)])
    assert not feed.prepend([Entry(event(5, "x" * 9))])
    assert feed.prepend([Entry(event(5, "x" * 8))])
    assert (feed.base, feed.size) == (4, 10)


# Places


@pytest.mark.parametrize("loose", [False, True])
def test_place_after_an_event_is_found_by_its_id(loose):
    feed = warm_feed(5)
    feed.receive_page(events(6, 9))
    if loose:
        feed.receive_gap()
    feed.trim(2 + loose)
    assert feed.base == 7
    assert feed.seek(6, feed.end) is None
    assert [feed.seek(position, feed.end) for position in (7, 8)] == [2, 3]


def test_place_after_the_tail_is_the_end():
    feed = warm_feed(5)
    feed.receive_page(events(6, 7))
    assert feed.seek(7, feed.end) == feed.end == 2


def test_place_beyond_the_tail_is_the_end_while_the_feed_is_behind():
    feed = warm_feed(5)
    feed.receive_event(event(8))
    assert feed.seek(7, feed.end) == feed.seek(8, feed.end) == feed.end


def test_place_beyond_what_the_log_is_known_to_have_must_be_looked_up():
    feed = warm_feed(5)
    assert feed.seek(6, feed.end) is None
    feed.receive_known(6)
    assert feed.seek(6, feed.end) == feed.end
    assert feed.is_behind
    feed.receive_known(3)
    assert feed.known == 6


def test_place_is_found_among_entries_without_id():
    feed = warm_feed(0)
    feed.receive_gap()
    feed.receive_event(event(1))
    feed.receive_gap()
    feed.receive_event(event(2))
    feed.receive_gap()
    assert ids(feed) == [None, 1, None, 2, None]
    # Entries without an id count from the given place on.
    assert [feed.seek(position, 0) for position in (0, 1, 2)] == [0, 0, 0]
    assert [feed.seek(position, 2) for position in (0, 1, 2)] == [1, 2, 2]
    assert [feed.seek(position, 3) for position in (0, 1, 2)] == [1, 3, 4]
    assert [feed.seek(position, 5) for position in (0, 1, 2)] == [1, 3, 5]
    feed.trim(3)
    assert [feed.seek(position, 0) for position in (0, 1, 2)] == [None, 2, 2]
    assert [feed.seek(position, 5) for position in (0, 1, 2)] == [None, 3, 5]
