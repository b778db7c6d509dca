"""Sequence numbers: repeats dropped, holes told, order kept."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from django_eventstream import sequence
from django_eventstream.event import Event
from django_eventstream.messages import Envelope, Gap, Published, Revoked, Stored
from django_eventstream.sequence import PATIENCE, Resequencer, Sequencer, is_from

#: Enough for what waits to be given up.
LONG = 2 * PATIENCE


def event(data, channel="a", event_id=None):
    return Published(Event(channel, "message", str(data), event_id))


@pytest.fixture
def sender():
    return Sequencer("sender")


@pytest.fixture
def receiver():
    receiver = Resequencer()
    receiver.join("a", 0.0)
    return receiver


def enclose(sender, *messages, now=1.0):
    return [sender.enclose(message, now) for message in messages]


def test_a_sender_counts_on_each_channel_what_the_log_does_not(sender):
    envelopes = enclose(
        sender,
        *(event(1), event(2, "b"), Revoked("7", "a"), event(3, event_id=5), Stored("a", 6)),
        *(Gap("a"), Gap()),
    )
    assert [envelope.sequence for envelope in envelopes] == [1, 1, 2, None, None, 3, None]


def test_the_pause_is_since_the_message_before_on_the_channel(sender):
    sender.enclose(event(0, "b"), 9.0)
    pauses = [sender.enclose(event(n), float(n)).pause for n in (10, 11, 15)]
    assert pauses == [0, 1, 4]


def test_a_sender_with_very_many_channels_counts_anew_under_another_name(sender, monkeypatch):
    monkeypatch.setattr(sequence, "MAX_CHANNELS", 2)
    envelopes = enclose(sender, event(1), event(1, "b"), event(1, "c"), event(2))
    assert [envelope.sequence for envelope in envelopes] == [1, 1, 1, 1]
    assert envelopes[0].sender == envelopes[1].sender != envelopes[2].sender
    assert envelopes[2].sender == envelopes[3].sender
    assert all(is_from(envelope, "sender") for envelope in envelopes)
    assert not is_from(envelopes[0], "other")


def test_repeats_are_dropped(sender, receiver):
    first, second = enclose(sender, event(1), event(2))
    assert receiver.receive(first, 1.0) == [event(1)]
    assert receiver.receive(first, 1.0) == []
    assert receiver.receive(second, 1.0) == [event(2)]
    assert receiver.receive(first, 1.0) == []
    assert not receiver.is_waiting


def test_what_was_overtaken_comes_in_its_turn(sender, receiver):
    envelopes = enclose(sender, *map(event, range(4)))
    receiver.receive(envelopes[0], 1.0)
    assert receiver.receive(envelopes[3], 1.0) == []
    assert receiver.receive(envelopes[2], 1.0) == []
    assert receiver.is_waiting
    assert receiver.receive(envelopes[2], 1.0) == []
    assert receiver.receive(envelopes[1], 1.05) == [event(1), event(2), event(3)]
    assert not receiver.is_waiting


def test_what_is_lost_is_a_gap_before_what_follows(sender, receiver):
    envelopes = enclose(sender, *map(event, range(6)))
    receiver.receive(envelopes[0], 1.0)
    receiver.receive(envelopes[2], 1.0)
    receiver.receive(envelopes[5], 1.0)
    assert receiver.give_up(1.0 + PATIENCE / 2) == []
    assert receiver.give_up(1.1 + PATIENCE) == [Gap("a"), event(2)]
    assert receiver.is_waiting
    assert receiver.give_up(1.2 + 2 * PATIENCE) == [Gap("a"), event(5)]
    assert not receiver.is_waiting
    assert receiver.receive(envelopes[1], 2.0) == []  # too late: the gap was told


def test_what_is_lost_last_shows_by_the_tally(sender, receiver):
    envelopes = enclose(sender, *map(event, range(3)))
    receiver.receive(envelopes[0], 1.0)
    tally = sender.tally(2.0)
    assert sender.tally(2.0) is None
    assert receiver.receive(tally, 2.0) == []
    assert receiver.receive(tally, 2.0) == []
    assert receiver.is_waiting
    assert receiver.receive(envelopes[1], 2.0) == [event(1)]  # late, not lost
    assert receiver.give_up(2.1 + PATIENCE) == [Gap("a")]
    assert not receiver.is_waiting
    assert receiver.receive(sender.enclose(event(3), 3.0), 3.0) == [event(3)]


def test_a_tally_without_a_loss_is_nothing(sender, receiver):
    (envelope,) = enclose(sender, event(1))
    receiver.receive(envelope, 1.0)
    enclose(sender, event(1, "unheard of"))
    receiver.receive(sender.tally(2.0), 2.0)
    assert not receiver.is_waiting


def test_a_sender_that_was_heard_from_its_start_has_lost_its_first_messages(sender, receiver):
    envelopes = [sender.enclose(event(n), n) for n in (10, 11, 12)]
    assert receiver.receive(envelopes[2], 12.0) == []
    assert receiver.give_up(12.1 + PATIENCE) == [Gap("a"), event(12)]


def test_a_sender_that_lost_all_shows_by_the_tally(sender, receiver):
    sender.enclose(Revoked("7", "a"), 10.0)
    receiver.receive(sender.tally(11.0), 11.0)
    assert receiver.give_up(11.1 + PATIENCE) == [Gap("a")]


@pytest.mark.parametrize("begin", ["join", "restart"])
def test_a_sender_that_began_earlier_has_lost_nothing(sender, receiver, begin):
    envelopes = [sender.enclose(event(n), n) for n in (10, 11, 12)]
    if begin == "join":
        receiver.join("a", 11.5)
    else:
        receiver.restart(11.5)
    assert receiver.receive(envelopes[2], 12.0) == [event(12)]
    assert not receiver.is_waiting


def test_after_a_restart_what_is_missing_was_told(sender, receiver):
    envelopes = [sender.enclose(event(n), float(n)) for n in range(6)]
    receiver.receive(envelopes[0], 0.1)
    receiver.restart(2.5)
    assert receiver.receive(envelopes[3], 3.1) == [event(3)]
    assert receiver.receive(envelopes[3], 3.1) == []
    assert receiver.receive(envelopes[5], 5.1) == []  # but not what is lost afterwards
    assert receiver.give_up(5.2 + PATIENCE) == [Gap("a"), event(5)]


def test_what_waits_for_something_missing_is_bounded(sender, receiver, monkeypatch):
    monkeypatch.setattr(sequence, "MAX_AHEAD", 3)
    envelopes = enclose(sender, *map(event, range(7)))
    receiver.receive(envelopes[0], 1.0)
    for number in (2, 3, 4):
        assert receiver.receive(envelopes[number], 1.0) == []
    assert receiver.receive(envelopes[5], 1.0) == [Gap("a"), *map(event, (2, 3, 4, 5))]
    assert not receiver.is_waiting


def test_senders_are_forgotten_that_were_not_heard_for_long(receiver, monkeypatch):
    monkeypatch.setattr(sequence, "MAX_SENDERS", 2)
    for number in range(5):
        sender = Sequencer(f"sender-{number}")
        envelopes = enclose(sender, event(0), event(1), event(2))
        receiver.receive(envelopes[0], 1.0)
        receiver.receive(envelopes[2], 1.0)
    assert receiver.give_up(2.0) == [Gap("a"), event(2)] * 2


def test_channels_that_nobody_reads_are_passed_over(sender, receiver):
    first, second, third = enclose(sender, event(1), event(2), event(3))
    receiver.receive(first, 1.0)
    receiver.receive(third, 1.0)
    receiver.leave("a")
    assert not receiver.is_waiting
    assert receiver.receive(second, 1.0) == []
    receiver.leave("a")


def test_what_has_no_number_passes(receiver):
    for message in (event(1, event_id=7), Stored("a", 8), Gap()):
        assert receiver.receive(Envelope(message, "any"), 1.0) == [message]


@pytest.fixture
def envelopes(sender):
    """One message a second, the first at 0."""
    return [sender.enclose(event(n), float(n)) for n in range(10)]


@pytest.fixture
def late_receiver():
    """It hears what is sent from 4.5 on."""
    receiver = Resequencer()
    receiver.join("a", 4.5)
    return receiver


def test_what_was_sent_before_anybody_listened_is_not_missing(envelopes, late_receiver):
    assert late_receiver.receive(envelopes[5], 5.2) == [event(5)]
    assert late_receiver.receive(envelopes[4], 5.2) == []
    assert not late_receiver.is_waiting


def test_what_is_lost_before_the_first_message_that_is_heard_is_a_gap(envelopes, late_receiver):
    assert late_receiver.receive(envelopes[6], 6.2) == []
    assert late_receiver.give_up(6.2 + LONG) == [Gap("a"), event(6)]


def test_what_is_overtaken_by_the_first_message_that_is_heard_comes_before_it(
    envelopes, late_receiver
):
    assert late_receiver.receive(envelopes[7], 7.2) == []
    assert late_receiver.receive(envelopes[5], 7.2) == []
    assert late_receiver.receive(envelopes[6], 7.2) == []
    assert late_receiver.give_up(7.2 + LONG) == [Gap("a"), event(5), event(6), event(7)]
    assert not late_receiver.is_waiting


@pytest.mark.parametrize("begin", ["heard before", "not heard before"])
def test_after_a_restart_what_is_lost_is_a_gap_from_the_first_message_on(
    envelopes, late_receiver, begin
):
    if begin == "heard before":
        late_receiver.receive(envelopes[5], 5.2)
    late_receiver.restart(6.5)
    assert late_receiver.receive(envelopes[8], 8.2) == []
    assert late_receiver.give_up(8.2 + LONG) == [Gap("a"), event(8)]
    assert late_receiver.receive(envelopes[9], 9.2) == [event(9)]


def test_what_waits_at_a_restart_comes_before_what_follows(envelopes, late_receiver):
    late_receiver.receive(envelopes[5], 5.2)
    assert late_receiver.receive(envelopes[7], 7.2) == []
    late_receiver.restart(8.5)
    assert late_receiver.receive(envelopes[9], 9.2) == [event(7), event(9)]
    assert not late_receiver.is_waiting


def test_a_count_that_is_told_later_shows_what_was_lost(late_receiver):
    sender = Sequencer("other")
    first, second, third = (sender.enclose(event(n), n) for n in (4.0, 5.0, 5.1))
    assert late_receiver.receive(second, 5.2) == [event(5.0)]
    assert late_receiver.receive(sender.tally(6.1), 6.2) == []
    assert late_receiver.give_up(6.2 + LONG) == [Gap("a")]
    assert late_receiver.receive(third, 6.5) == []
    assert late_receiver.receive(first, 6.5) == []


def test_a_count_from_before_anybody_listened_ends_the_waiting(late_receiver):
    sender = Sequencer("other")
    _, second = (sender.enclose(event(n), n) for n in (3.0, 4.0))
    assert late_receiver.receive(second, 6.0) == []  # it took long
    assert late_receiver.receive(sender.tally(4.2), 4.6) == [event(4.0)]
    assert not late_receiver.is_waiting


def test_of_very_many_senders_those_that_are_silent_are_forgotten(receiver, monkeypatch):
    monkeypatch.setattr(sequence, "MAX_SENDERS", 2)
    steady = Sequencer("steady")
    for number in range(4):
        for sender in (steady, Sequencer(f"short-lived-{number}")):
            message = event((sender.sender, number))
            assert receiver.receive(sender.enclose(message, number), number) == [message]
    assert not receiver.is_waiting


@settings(max_examples=300)
@given(st.data())
def test_whatever_a_broker_does_nothing_is_repeated_reordered_or_lost_in_silence(data):
    """Each sender's messages come in order, once, and with a gap before each hole."""
    senders = [Sequencer(f"sender-{number}") for number in range(data.draw(st.integers(1, 2)))]
    receiver = Resequencer()
    receiver.join("a", 0.0)
    sent, on_the_way, received = {0: 0, 1: 0}, [], []
    now = 1.0
    for _ in range(data.draw(st.integers(1, 30))):
        now += 0.04
        number = data.draw(st.integers(0, len(senders) - 1))
        envelope = senders[number].enclose(event((number, sent[number])), now)
        sent[number] += 1
        if not data.draw(st.booleans(), label="lost"):
            on_the_way += [envelope] * data.draw(st.integers(1, 2))
        while on_the_way and data.draw(st.booleans(), label="arrives"):
            index = data.draw(st.integers(0, len(on_the_way) - 1))
            received += receiver.receive(on_the_way.pop(index), now)
        received += receiver.give_up(now)
    for envelope in [*on_the_way, *(sender.tally(now) for sender in senders)]:
        if envelope is not None:
            received += receiver.receive(envelope, now)
    while receiver.is_waiting:
        now += PATIENCE
        received += receiver.give_up(now)
    for number in range(len(senders)):
        position, is_told = -1, False
        for message in received:
            if isinstance(message, Gap):
                is_told = True
                continue
            of, index = eval(message.event.data)
            if of == number:
                assert index > position
                assert index == position + 1 or is_told
                position, is_told = index, False
        assert position == sent[number] - 1 or is_told
