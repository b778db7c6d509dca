"""The checker finds what it is there for."""

import json
import random

import pytest

from tests.faults.checker import (
    LOOSE,
    Figures,
    Log,
    Loose,
    check_client,
    check_senders,
    missing,
    percentile,
)
from tests.faults.harness import Harness
from tests.faults.schedule import BACKENDS, FAULTS, draw


def text(name, channel="a", sent=1.0):
    return json.dumps({"name": name, "channel": channel, "sent": sent})


@pytest.fixture
def log():
    log = Log()
    for number in range(1, 7):
        log.receive_row("a", number, text(f"s0-1.0:{number}:1", sent=float(number)))
    for number in range(1, 4):
        log.receive_row("b", number, text(f"s0-1.1:{number}:1", "b", sent=float(number)))
    return log


def message(log, at, channel, number, **positions):
    """Return the record of an event, at these positions."""
    positions = {**positions, channel: number}
    ids = ",".join(f"{name}:{positions[name]}" for name in sorted(positions))
    return [at, "message", log.events[channel][number - 1], ids]


def opened(at, ids):
    return [at, "stream-open", "", ids]


@pytest.fixture
def record(log):
    """A client that has everything of one channel."""
    return [
        [0, "begin", "", ""],
        [0, "connect", "", ""],
        opened(0.5, "a:0"),
        *[message(log, number + 0.25, "a", number) for number in range(1, 7)],
    ]


def check(log, record, channels=("a",), reports=()):
    figures, loose = Figures(), Loose()
    for report in reports:
        loose.receive_report(report)
    check_client(7, channels, record, log, loose, figures)
    return figures


def test_complete_record_is_no_deviation(log, record):
    figures = check(log, record)
    assert figures.deviations == []
    assert figures.delivered == 6
    assert figures.delays == [0.25] * 6
    assert figures.outages == []


def test_lost_event_is_found(log, record):
    del record[5]
    figures = check(log, record)
    assert figures.lost == 1
    assert "client 7 ['a']: lost: a:4 follows a:2 without a reset" in figures.deviations[0]
    assert '"s0-1.0:4:1"' in figures.deviations[0]  # the excerpt


def test_lost_end_is_found(log, record):
    figures = check(log, record[:-2])
    assert figures.lost == 2
    assert "it ends at a:4, and the log at 6" in figures.deviations[0]


def test_client_that_never_opens_is_found(log):
    figures = check(log, [[0, "begin", "", ""]])
    assert "it ends at a:-1" in figures.deviations[0]


def test_repeated_event_is_found(log, record):
    record.insert(5, record[4])
    figures = check(log, record)
    assert (figures.lost, figures.repeated, figures.reordered) == (0, 1, 0)


def test_reordered_events_are_found(log, record):
    record[5], record[6] = record[6], record[5]
    assert check(log, record).reordered == 1


def test_other_payload_is_found(log, record):
    record[5][2] = text("s0-1.0:9:1")
    assert "a:3 is another event in the log" in check(log, record).deviations[0]


def test_foreign_event_is_found(log, record):
    record.append(message(log, 9, "b", 3, a=6))
    assert "an event of b" in check(log, record).deviations[0]


def test_unknown_event_type_is_found(log, record):
    record.append([9, "surprise", "", "a:6"])
    assert "an event of the type surprise" in check(log, record).deviations[0]


def test_broken_stream_is_found(log, record):
    record.insert(3, [0.6, "broken", "the status is 200", "a:0"])
    assert "the status is 200" in check(log, record).deviations[0]


def test_other_channels_must_not_move(log):
    record = [[0, "begin", "", "a:5,b:2"], opened(0, "a:5,b:2")]
    record += [message(log, 7, "a", 6, b=3)]
    assert "moves other channels" in check(log, record, ("a", "b")).deviations[0]


def test_reset_that_was_needed_is_none_of_them(log, record):
    log.trims.append((2.5, {"a": 4}))
    record[4:7] = [[3, "stream-reset", '{"channels": ["a"]}', "a:4"]]
    figures = check(log, record)
    assert figures.deviations == []
    assert figures.resets == 1
    assert figures.lost == 0


@pytest.mark.parametrize(
    ("named", "moved", "deviation"),
    [
        ("a", "a:4,b:0", "a reset of a at 1, and 2 is there"),
        ("a", "a:7,b:0", "goes from 1 to 7"),
        ("a", "a:0,b:0", "goes from 1 to 0"),
        ("b", "a:4,b:1", "the reset of ['b'] moves a from 1 to 4"),
        ("c", "a:1,b:0", "a reset of ['c']"),
    ],
)
def test_reset_that_is_wrong_is_found(log, named, moved, deviation):
    log.trims.append((9, {"a": 4}) if "is there" in deviation else (0, {"a": 4, "b": 2}))
    record = [[0, "begin", "", "a:1,b:0"], opened(0, "a:1,b:0")]
    record += [[2.5, "stream-reset", json.dumps({"channels": [named]}), moved]]
    assert any(deviation in found for found in check(log, record, ("a", "b")).deviations)


def test_stream_that_opens_elsewhere_is_found(log, record):
    record[6:6] = [[3, "lost", "cut off", "a:3"], [3, "connect", "", "a:3"], opened(3, "a:2")]
    assert (
        "opens at {'a': 2} and the client stands at {'a': 3}" in (check(log, record).deviations[0])
    )


def test_stream_that_opens_without_positions_is_found(log, record):
    record[2] = opened(0, "")
    assert "the stream opens with {}" in check(log, record).deviations[0]


def test_time_to_catch_up_ends_with_what_was_sent_before_the_stream_was_back(log, record):
    record[5:5] = [
        [2.5, "lost", "ConnectionResetError", "a:2"],
        [4.1, "connect", "", "a:2"],
        opened(4.5, "a:2"),
    ]
    record[8][0] = record[9][0] = 5.0
    figures = check(log, record)
    assert figures.deviations == []
    assert figures.outages == [2.5]  # until the fourth event
    assert len(figures.delays) == 4
    assert figures.ends == {"ConnectionResetError": 1}
    assert missing(["a"], {"a": 2}, log, 4.5) == {"a": 4}
    assert missing(["a"], {"a": 6}, log, 4.5) == {}


def test_outage_in_which_nothing_was_sent_ends_with_the_stream(log, record):
    record[5:5] = [[2.5, "lost", "", "a:2"], [2.6, "connect", "", "a:2"], opened(2.75, "a:2")]
    assert check(log, record).outages == [0.25]


def test_slow_reader_is_not_counted_as_a_delay(log, record):
    record[5:5] = [[2.5, "paused", "", "a:2"], [5.5, "resumed", "", "a:2"]]
    assert len(check(log, record).delays) == 3


def test_hole_in_the_log_is_found():
    log = Log()
    log.receive_row("a", 1, text("x"))
    log.receive_row("a", 3, text("y"))
    assert log.deviations == ["the log of a has 3 in place of 2"]


# The unreliable channel


def stream_of(*rounds):
    """Return the record of a stream that got one event of each of these rounds."""
    record = [[0, "begin", "", "a:6"], opened(0, "a:6")]
    for at, number in enumerate(rounds, 1):
        if number == "reset":
            record.append([at, "stream-reset", json.dumps({"channels": [LOOSE]}), "a:6"])
        elif number == "again":
            record += [[at, "lost", "", "a:6"], [at, "connect", "", "a:6"], opened(at, "a:6")]
        else:
            record.append([at, "loose", text(loose_name(number), LOOSE), "a:6"])
    return record


def loose_name(number):
    return f"s0-1.0:{number}:1:{LOOSE}"


def loose_reports():
    """Seven rounds; the second has an unknown end, and the fourth was rolled back."""
    for number in range(1, 8):
        is_sent = number != 4
        name = loose_name(number)
        yield {
            "thread": "s0-1.0",
            "round": number,
            "known": number != 2,
            "kept": [name] if is_sent else [],
            "dropped": [] if is_sent else [name],
        }


@pytest.mark.parametrize(
    ("rounds", "deviation"),
    [
        ([1, 2, 3, 5, 6, 7], None),
        ([3, 5], None),
        ([1, 3], None),
        ([3, "reset", 6], None),
        ([3, "again", 6], None),
        ([3, "again", 3], None),
        ([7, 99], None),
        ([3, 6], f"lost: {loose_name(5)} before {loose_name(6)}, without a reset"),
        ([3, 3], f"repeated: {loose_name(3)}"),
        ([3, 2], f"reordered: {loose_name(2)} follows {loose_name(3)}"),
        ([3, 4], f"an event that was rolled back: {loose_name(4)}"),
    ],
)
def test_stream_without_a_log_is_in_order_or_reset(log, rounds, deviation):
    figures = check(log, stream_of(*rounds), reports=loose_reports())
    if deviation is None:
        assert figures.deviations == []
    else:
        (found,) = figures.deviations
        assert deviation in found


def test_event_without_an_id_must_not_move_the_client(log):
    record = stream_of(1)
    record[-1][3] = "a:5"
    assert "moves {'a': 6} to {'a': 5}" in check(log, record).deviations[0]


# The senders


def report(round_, kept, *, dropped=(), known=True, thread="s0-1.0"):
    return {
        "thread": thread,
        "round": round_,
        "known": known,
        "kept": [f"{thread}:{round_}:{index}" for index in kept],
        "dropped": [f"{thread}:{round_}:{index}" for index in dropped],
    }


def log_of(*names):
    log = Log()
    for number, name in enumerate(names, 1):
        log.receive_row("a", number, text(name))
    return log


def test_log_that_has_what_was_committed_is_no_deviation():
    log = log_of("s0-1.0:1:1", "s0-1.0:1:3", "s0-1.0:3:1")
    reports = [report(1, [1, 3], dropped=[2]), report(2, [1], known=False), report(3, [1])]
    assert check_senders(reports, log, set()) == []


@pytest.mark.parametrize(
    ("names", "reports", "deviation"),
    [
        ([], [report(1, [1])], "s0-1.0:1:1 was committed, and is not in the log"),
        (["s0-1.0:1:1"], [report(1, [], dropped=[1])], "a:1 was rolled back: s0-1.0:1:1"),
        (["s0-1.0:1:1"], [], "a:1 was sent by nobody: s0-1.0:1:1"),
        (["s0-1.0:1:1"] * 2, [report(1, [1])], "s0-1.0:1:1 is 2 times in the log"),
        (
            ["s0-1.0:1:2", "s0-1.0:1:1"],
            [report(1, [1, 2])],
            "a:2 was sent before what precedes it: s0-1.0:1:1",
        ),
    ],
)
def test_log_that_differs_from_what_was_committed_is_found(names, reports, deviation):
    assert deviation in check_senders(reports, log_of(*names), set())


def test_killed_sender_may_have_done_one_more_round():
    log = log_of("s0-1.0:1:1", "s0-1.0:2:1")
    assert check_senders([report(1, [1])], log, {"s0-1"}) == []
    log = log_of("s0-1.0:1:1", "s0-1.0:3:1")
    assert check_senders([report(1, [1])], log, {"s0-1"}) == ["a:2 was sent by nobody: s0-1.0:3:1"]


def test_event_on_another_channel_is_found():
    log = Log()
    log.receive_row("a", 1, text("s0-1.0:1:1", "b"))
    assert "a:1 is of channel b: s0-1.0:1:1" in check_senders([report(1, [1])], log, set())


# The schedule


@pytest.mark.parametrize("backend", BACKENDS)
def test_schedule_is_the_same_again_and_has_every_fault(backend):
    seed = random.randrange(10_000)
    faults = draw(backend, seed, 60)
    assert faults == draw(backend, seed, 60)
    assert faults != draw(backend, seed + 1, 60)
    assert {fault.kind for fault in faults} == set(FAULTS[backend])
    assert faults == sorted(faults, key=lambda fault: fault.at)


def test_harness_knows_every_fault():
    for kinds in FAULTS.values():
        for kind in kinds:
            assert callable(getattr(Harness, "_" + kind.replace(" ", "_")))


def test_percentile_is_a_value():
    assert percentile([3, 1, 2], 0.5) == 2
    assert percentile([3, 1, 2], 0.99) == 3
    assert percentile([], 0.99) == 0
