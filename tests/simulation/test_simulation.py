"""A sample of the simulation, and whether it would find what it is there to find."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from django_eventstream import brokers, hub, listening, protocol, sequence, streaming
from django_eventstream.exceptions import EventDoesNotExist
from django_eventstream.feed import Feed
from django_eventstream.messages import Gap

from .plan import FAULTS, make_plan
from .runner import digest, pick, report, run_plan, run_seeds, shrink

#: How many runs are a sample. By hand: python -m tests.simulation
SAMPLE = 1200


@pytest.mark.slow
def test_every_interleaving_keeps_the_promises():
    summary = run_seeds(range(1, SAMPLE + 1))
    assert not summary.failures, report(min(summary.failures))
    # Not in vain: everything that the plans hold has happened.
    for what in (
        *("events stored", "events not stored", "copies of messages lost", "processes killed"),
        *("kicks that took effect", "received stream-reset", "received stream-error"),
    ):
        assert summary.counts[what] > SAMPLE / 20, what
    assert summary.counts["received keep-alive"]
    assert summary.counts["received message"] > 10 * SAMPLE


def test_seeds_have_every_fault_and_no_fault():
    plans = [make_plan(seed) for seed in range(200)]
    assert {fault for plan in plans for fault in plan.faults} == {*FAULTS}
    assert any(not plan.faults for plan in plans)


@pytest.mark.parametrize("seed", [3, 77])
def test_a_seed_is_one_interleaving_in_every_process(seed):
    """Whatever hashes and addresses there are."""
    code = (
        "from tests.simulation.runner import digest, run_plan\n"
        "from tests.simulation.plan import make_plan\n"
        f"print(digest(run_plan(make_plan({seed}))))"
    )
    expected = digest(run_plan(make_plan(seed)))
    assert digest(run_plan(make_plan(seed))) == expected
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={
                **os.environ,
                "PYTHONHASHSEED": hash_seed,
                "DJANGO_SETTINGS_MODULE": "tests.settings",
            },
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.stdout.strip() == expected, done.stderr
    assert digest(run_plan(make_plan(seed + 1))) != expected


# Planted bugs: each is found within the sample.

BUGS = {}


def bug(verdict):
    """Have a bug planted and found, with a verdict that holds this text."""

    def note(plant):
        BUGS[plant.__name__] = (plant, verdict)
        return plant

    return note


@bug("is still at")
def live_before_looking_for_the_place_in_the_feed(monkeypatch):
    class Cursor(protocol.Cursor):
        def __init__(self, channel, feed, position):
            super().__init__(channel, feed, position)
            self.place = feed.end

    monkeypatch.setattr(protocol, "Cursor", Cursor)


@bug("no end")
def log_read_before_the_feed_is_joined(monkeypatch):
    start = protocol.StreamProtocol.receive_start

    def receive_start(self, feeds, current_ids):
        if self.state is protocol.State.OPENING:
            start(self, {name: Feed(name) for name in feeds}, current_ids)
            for cursor in self.cursors:
                cursor.feed = feeds[cursor.channel]
                cursor.place = cursor.feed.end

    monkeypatch.setattr(protocol.StreamProtocol, "receive_start", receive_start)


@bug("is still at")
def early_events_taken_as_if_in_order(monkeypatch):
    receive = Feed.receive_event

    def receive_event(self, event):
        if event.id is not None and self.base is not None and event.id > self.tail + 1:
            self._append(event)
            return True
        return receive(self, event)

    monkeypatch.setattr(Feed, "receive_event", receive_event)


@bug("without a reset")
def overtaken_cursors_go_on_at_the_start_of_the_feed(monkeypatch):
    follow = protocol.StreamProtocol._follow

    def follow_from_start(self):
        for cursor in self.cursors:
            # Where there are ids, a stream sees by them that some are missing.
            is_overtaken = cursor.place is not None and cursor.place < cursor.feed.start
            if is_overtaken and cursor.position is None:
                cursor.place = cursor.feed.start
        follow(self)

    monkeypatch.setattr(protocol.StreamProtocol, "_follow", follow_from_start)


@bug("without a reset")
def gaps_ignored(monkeypatch):
    monkeypatch.setattr(hub.Hub, "_note_gap", lambda self, channel: [])


@bug("which it may not")
def permissions_not_checked_after_a_gap(monkeypatch):
    monkeypatch.setattr(streaming.Stream, "recheck", lambda self: None)


@bug("is still at")
def poll_that_never_fills(monkeypatch):
    monkeypatch.setattr(hub.Hub, "_fill", lambda self, feed: None)


@bug("a task ended with")
def poll_that_ends_with_the_first_failure(monkeypatch):
    async def poll(self, storage):
        while True:
            await asyncio.sleep(1)
            await self._read_current(lambda names: hub._poll(storage, names), self._feeds_to_poll())

    monkeypatch.setattr(hub.Hub, "_poll", poll)


@bug("is still at")
def trimmed_events_taken_for_the_end_of_the_log(monkeypatch):
    read = hub.read_page

    def read_page(*args):
        try:
            return read(*args)
        except EventDoesNotExist:
            return []

    monkeypatch.setattr(hub, "read_page", read_page)


@bug("without a reset")
def messages_left_in_a_full_inbox(monkeypatch):
    take = hub.Hub._take_messages

    def take_messages(self):
        take(self)
        self._inbox.clear()

    monkeypatch.setattr(hub.Hub, "_take_messages", take_messages)


@bug("without a reset")
def overflow_of_the_inbox_forgotten(monkeypatch):
    receive = hub.Hub.receive_messages

    def receive_messages(self, messages):
        room = hub.INBOX_SIZE - len(self._inbox)
        receive(self, list(messages)[: max(0, room)])

    monkeypatch.setattr(hub.Hub, "receive_messages", receive_messages)


@bug("without a reset")
def holes_that_are_no_gap(monkeypatch):
    give_up = sequence._give_up

    def give_up_silently(lane, channel):
        return [message for message in give_up(lane, channel) if not isinstance(message, Gap)]

    monkeypatch.setattr(sequence, "_give_up", give_up_silently)


@bug("twice")
def messages_handed_on_as_they_come(monkeypatch):
    def receive(self, envelope, now):
        return [envelope.message]

    monkeypatch.setattr(sequence.Resequencer, "receive", receive)


@bug("without a reset")
def first_message_of_a_sender_taken_for_its_first(monkeypatch):
    """What was lost before it, although it could be heard, goes unnoticed."""
    receive = sequence.Resequencer.receive

    def receive_first(self, envelope, now):
        _, lanes = self._channels.get(envelope.message.channel, (0.0, {}))
        if envelope.sequence is not None and envelope.sender not in lanes:
            lane = lanes[envelope.sender] = sequence.Lane()
            lane.last = envelope.sequence - 1
        return receive(self, envelope, now)

    monkeypatch.setattr(sequence.Resequencer, "receive", receive_first)


@bug("for no reason")
def gaps_told_for_nothing(monkeypatch):
    receive = sequence.Resequencer.receive

    def receive_with_gap(self, envelope, now):
        messages = receive(self, envelope, now)
        return [Gap(envelope.message.channel), *messages] if envelope.sequence else messages

    monkeypatch.setattr(sequence.Resequencer, "receive", receive_with_gap)


@bug("which the log holds")
def full_pages_taken_for_holes(monkeypatch):
    read = hub.read_page

    def read_page(storage, channel, last_id, limit):
        events = read(storage, channel, last_id, limit)
        if len(events) == limit:
            raise EventDoesNotExist("", events[-1].id)
        return events

    monkeypatch.setattr(hub, "read_page", read_page)


@bug("twice")
def own_messages_taken_for_those_of_others(monkeypatch):
    monkeypatch.setattr(brokers, "is_text_of_own", lambda text: False)


@bug("without a reset")
def reconnection_not_told(monkeypatch):
    note = listening.Listening.note_connected
    monkeypatch.setattr(
        listening.Listening, "note_connected", lambda self, *, again: note(self, again=False)
    )


@bug("without a reset")
def brokers_not_waited_for(monkeypatch):
    async def wait_until_ready(self):
        pass

    monkeypatch.setattr(listening.Listening, "wait_until_ready", wait_until_ready)


@bug("without a reset")
def listener_that_stays_dead(monkeypatch):
    async def supervise(self, broker, listener):
        try:
            await broker.listen(listener)
        except Exception:
            listener.finish()
            await asyncio.Event().wait()

    monkeypatch.setattr(listening.Listening, "_supervise", supervise)


@bug("after the kick")
def revocations_not_remembered(monkeypatch):
    monkeypatch.setattr(streaming, "was_revoked", lambda *args: False)


@bug("which it may not")
def kicks_from_before_brokers_were_connected_not_looked_for(monkeypatch):
    note = listening.Listening.note_connected

    def note_connected(self, *, again):
        note(self, again=again)
        self.since = None

    monkeypatch.setattr(listening.Listening, "note_connected", note_connected)


@bug("without a reset")
def counts_not_told(monkeypatch):
    monkeypatch.setattr(sequence.Sequencer, "tally", lambda self, *_: self._changed.clear())


@bug("after the kick")
def kicks_not_obeyed(monkeypatch):
    monkeypatch.setattr(hub.Hub, "_revoke", lambda self, revoked: None)


@bug("skips this user")
def skipped_users_not_skipped(monkeypatch):
    write = protocol.StreamProtocol._write

    def write_to_all(self, cursor, entry):
        entry.skip_user_ids = frozenset()
        return write(self, cursor, entry)

    monkeypatch.setattr(protocol.StreamProtocol, "_write", write_to_all)


@bug("nothing follows a stream-error")
def error_written_twice(monkeypatch):
    receive = protocol.StreamProtocol.receive_error

    def receive_error(self, error):
        receive(self, error)
        self._out *= 2

    monkeypatch.setattr(protocol.StreamProtocol, "receive_error", receive_error)


@bug("without a word")
def streams_ended_without_a_word(monkeypatch):
    def receive_end(self, retry):
        self.state = protocol.State.CLOSED

    monkeypatch.setattr(protocol.StreamProtocol, "receive_end", receive_end)


@bug("without a word")
def clients_that_do_not_read_forgotten_as_they_leave(monkeypatch):
    monkeypatch.setattr(streaming.Stream, "cut", streaming.Stream.leave)


@bug("still has a task")
def tasks_left_behind(monkeypatch):
    leave = hub.Hub.leave

    def leave_tasks(self, stream):
        tasks, self._tasks = self._tasks, set()
        leave(self, stream)
        self._tasks = tasks

    monkeypatch.setattr(hub.Hub, "leave", leave_tasks)


@bug("a task ended with")
def task_that_fails_unseen(monkeypatch):
    refresh = hub.Hub._refresh

    async def refresh_badly(self):
        await refresh(self)
        raise RuntimeError

    monkeypatch.setattr(hub.Hub, "_refresh", refresh_badly)


@pytest.mark.slow
@pytest.mark.parametrize(("plant", "verdict"), BUGS.values(), ids=BUGS)
def test_a_planted_bug_is_found(monkeypatch, plant, verdict):
    plant(monkeypatch)
    summary = run_seeds(range(1, SAMPLE + 1), stop=True)
    (failure,) = summary.failures.values()
    assert verdict in failure


def test_a_failure_is_reported_with_what_it_takes_to_replay_it(monkeypatch):
    plant, _ = BUGS["tasks_left_behind"]
    plant(monkeypatch)
    (seed,) = run_seeds(range(1, SAMPLE + 1), stop=True).failures
    plan = make_plan(seed)
    kept = shrink(plan)
    assert len(kept) == 1  # a client that comes is enough
    assert plan.actions[kept[0]].kind == "connect"
    assert run_plan(pick(plan, kept)).failures
    text = report(seed)
    assert f"python -m tests.simulation --seed {seed} --actions {kept[0]}\n" in text
    assert "connects to p" in text
