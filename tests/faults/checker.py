"""Compares what every client got with what was committed.

It shares no code with the package. The truth is the log: which event has which id on a channel.
What the senders say is compared with the log first, then the log with each client's record.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

#: The channel that is not reliable; the names of its events end with it.
LOOSE = "loose-channel"
#: How much of a record is shown.
EXCERPT = 6


def parse_positions(last_event_id: str) -> dict[str, int]:
    """Return the positions in a Last-Event-ID."""
    pairs = [pair.rpartition(":") for pair in last_event_id.split(",") if pair]
    return {unquote(name): int(number) for name, _, number in pairs}


@dataclass
class Log:
    """What was committed: the events of each channel, in the order of their ids."""

    events: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    #: When each was sent.
    sent: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    #: When trimming began, and the highest id that it took.
    trims: list[tuple[float, dict[str, int]]] = field(default_factory=list)
    deviations: list[str] = field(default_factory=list)

    def receive_row(self, channel: str, event_id: int, data: str) -> None:
        """Take the next row of a channel."""
        expected = len(self.events[channel]) + 1
        if event_id != expected:
            self.deviations.append(f"the log of {channel} has {event_id} in place of {expected}")
        self.events[channel].append(data)
        self.sent[channel].append(json.loads(data)["sent"])

    def trimmed(self, channel: str, at: float) -> int:
        """Return the highest id of a channel that may have been trimmed by then."""
        return max((ids.get(channel, 0) for time, ids in self.trims if time <= at), default=0)

    def current_ids(self) -> dict[str, int]:
        return {channel: len(events) for channel, events in self.events.items()}


@dataclass
class Loose:
    """What was sent on the unreliable channel."""

    #: Per thread of a sender, in its order: the events, and whether they are known to be sent.
    sent: dict[str, list[tuple[str, bool]]] = field(default_factory=lambda: defaultdict(list))
    #: Where each event is in that list.
    places: dict[str, int] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)

    def receive_report(self, report: dict[str, Any]) -> None:
        """Take what a sender did in one round."""
        sent = self.sent[report["thread"]]
        for name in report["kept"]:
            if name.endswith(LOOSE):
                self.places[name] = len(sent)
                sent.append((name, report["known"]))
        self.dropped.update(name for name in report["dropped"] if name.endswith(LOOSE))

    def between(self, thread: str, first: int, last: int) -> list[str]:
        """Return what a thread is known to have sent between two of its events."""
        return [name for name, known in self.sent[thread][first + 1 : last] if known]


@dataclass
class Figures:
    """What happened to the clients."""

    delivered: int = 0
    lost: int = 0
    repeated: int = 0
    reordered: int = 0
    resets: int = 0
    connections: int = 0
    loose: int = 0
    loose_resets: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    #: Seconds from sending to receiving, of what came to clients that were there and read.
    delays: list[float] = field(default_factory=list)
    #: Seconds from the loss of a stream until the client had all that was sent before it was back.
    outages: list[float] = field(default_factory=list)
    deviations: list[str] = field(default_factory=list)


def check_senders(reports: Iterable[dict[str, Any]], log: Log, killed: set[str]) -> list[str]:
    """Compare what senders committed and took back with the log.

    A report is one round of one thread: what it ``kept``, what it ``dropped`` by a rollback, and
    whether the outcome is ``known``. A thread of a killed process may have done one more round.
    """
    deviations = []
    kept: set[str] = set()
    unsure: set[str] = set()
    dropped: set[str] = set()
    rounds: dict[str, int] = defaultdict(int)
    for report in reports:
        stored = [name for name in report["kept"] if not name.endswith(LOOSE)]
        (kept if report["known"] else unsure).update(stored)
        dropped.update(report["dropped"])
        rounds[report["thread"]] = max(rounds[report["thread"]], report["round"])
    found: Counter[str] = Counter()
    for channel, events in log.events.items():
        latest: dict[str, tuple[int, int]] = {}
        for event_id, text in enumerate(events, 1):
            data = json.loads(text)
            name, place = data["name"], f"{channel}:{event_id}"
            found[name] += 1
            thread, number, index = name.split(":")
            order = (int(number), int(index))
            if data["channel"] != channel:
                deviations.append(f"{place} is of channel {data['channel']}: {name}")
            if order <= latest.get(thread, (-1, -1)):
                deviations.append(f"{place} was sent before what precedes it: {name}")
            latest[thread] = order
            if name in dropped:
                deviations.append(f"{place} was rolled back: {name}")
            elif name not in kept and name not in unsure:
                last = killed and thread.partition(".")[0] in killed
                if not (last and order[0] == rounds[thread] + 1):
                    deviations.append(f"{place} was sent by nobody: {name}")
    deviations += [
        f"{name} is {count} times in the log" for name, count in found.items() if count > 1
    ]
    deviations += [
        f"{name} was committed, and is not in the log" for name in sorted(kept - found.keys())
    ]
    return deviations


def check_client(
    number: int,
    channels: Sequence[str],
    record: list[list[Any]],
    log: Log,
    loose: Loose,
    figures: Figures,
) -> None:
    """Compare a client's record with the log, and with what was sent without one."""
    deviations: list[str] = []

    latest: dict[str, int] = {}  # of each thread, the latest event without an id in the stream
    read_on = 0.0  # since when it is there and reads
    index = 0

    def deviate(text: str) -> None:
        if len(deviations) < 3:  # more of one client only repeat it
            here = record[max(0, index + 1 - EXCERPT) : index + 1]
            lines = [f"    {str(entry)[:200]}" for entry in here]
            deviations.append("\n".join([f"client {number} {list(channels)}: {text}", *lines]))

    positions: dict[str, int] = {}
    lost_at: float | None = None
    behind: dict[str, int] = {}  # what was sent during the outage and is still to come
    for index, (at, what, data, last_event_id) in enumerate(record):  # noqa: B007 (deviate() reads it)
        before = dict(positions)
        if what == "begin":
            positions = parse_positions(last_event_id)
            lost_at, behind = None, {}
            read_on = at
            continue
        if what == "lost":
            figures.ends[data] += 1
            lost_at = at if lost_at is None else lost_at
            continue
        if what == "broken":
            deviate(data)
            continue
        if what in ("paused", "resumed"):
            read_on = math.inf if what == "paused" else at
            continue
        claimed = parse_positions(last_event_id)
        if what == "connect":
            figures.connections += 1
            if claimed != positions:
                deviate(f"it comes back with {claimed} and stood at {positions}")
        elif what == "stream-open":
            if claimed.keys() != set(channels):
                deviate(f"the stream opens with {claimed}")
            if positions and claimed != positions:
                deviate(f"the stream opens at {claimed} and the client stands at {positions}")
            positions = claimed
            latest = {}
            if lost_at is not None:
                behind = missing(channels, positions, log, at)
        elif what == "stream-reset":
            named = json.loads(data)["channels"]
            figures.resets += named != [LOOSE]
            figures.loose_resets += LOOSE in named
            if LOOSE in named:
                latest = {}
            for channel in channels:
                old, new = positions.get(channel, -1), claimed.get(channel, -1)
                if channel not in named and new != old:
                    deviate(f"the reset of {named} moves {channel} from {old} to {new}")
                elif channel in named and old >= log.trimmed(channel, at):
                    deviate(f"a reset of {channel} at {old}, and {old + 1} is there")
                elif channel in named and not old <= new <= len(log.events[channel]):
                    deviate(f"the reset of {channel} goes from {old} to {new}")
            if not set(named) <= {*channels, LOOSE} or not named:
                deviate(f"a reset of {named}")
            positions = claimed
        elif what == "message":
            event = json.loads(data)
            channel = event["channel"]
            if channel not in channels:
                deviate(f"an event of {channel}")
                continue
            old, new = positions.get(channel, -1), claimed.get(channel, -1)
            positions[channel] = new
            if claimed != positions:
                deviate(f"an event of {channel} moves other channels, from {before} to {claimed}")
                positions = claimed
            if not 1 <= new <= len(log.events[channel]) or log.events[channel][new - 1] != data:
                deviate(f"{channel}:{new} is another event in the log")
            figures.delivered += 1
            if new > old + 1:
                figures.lost += new - old - 1
                deviate(f"lost: {channel}:{new} follows {channel}:{old} without a reset")
            elif new == old:
                figures.repeated += 1
                deviate(f"repeated: {channel}:{new}")
            elif new < old:
                figures.reordered += 1
                deviate(f"reordered: {channel}:{new} follows {channel}:{old}")
            if lost_at is None and event["sent"] > read_on:
                figures.delays.append(at - event["sent"])
        elif what == "loose":
            if claimed != positions:
                deviate(f"an event without an id moves {positions} to {claimed}")
            check_loose(json.loads(data)["name"], loose, latest, figures, deviate)
        else:
            deviate(f"an event of the type {what}")
        if lost_at is not None and what != "connect":
            behind = {c: last for c, last in behind.items() if positions.get(c, 0) < last}
            if not behind:
                figures.outages.append(at - lost_at)
                lost_at = None
    for channel in channels:
        end, stands = len(log.events[channel]), positions.get(channel, -1)
        if stands != end:
            figures.lost += max(0, end - stands)
            deviate(f"lost: it ends at {channel}:{stands}, and the log at {end}")
    figures.deviations += deviations


def check_loose(
    name: str,
    loose: Loose,
    latest: dict[str, int],
    figures: Figures,
    deviate: Callable[[str], None],
) -> None:
    """Compare an event without an id with what its thread sent before it, and the stream got."""
    figures.loose += 1
    thread = name.partition(":")[0]
    place, before = loose.places.get(name), latest.get(thread)
    if name in loose.dropped:
        deviate(f"an event that was rolled back: {name}")
    if place is None:  # the last round of a killed sender, which reported nothing
        return
    latest[thread] = place
    if before is None:
        return
    if place == before:
        deviate(f"repeated: {name}")
    elif place < before:
        deviate(f"reordered: {name} follows {loose.sent[thread][before][0]}")
    elif missed := loose.between(thread, before, place):
        deviate(f"lost: {', '.join(missed)} before {name}, without a reset")


def missing(
    channels: Sequence[str], positions: dict[str, int], log: Log, before: float
) -> dict[str, int]:
    """Return, where events follow a position, the id of the last that was sent before a time."""
    last_ids = {}
    for channel in channels:
        sent = log.sent[channel]
        for event_id in range(len(sent), positions[channel], -1):
            if sent[event_id - 1] < before:
                last_ids[channel] = event_id
                break
    return last_ids


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of the values does not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
