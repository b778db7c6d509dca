"""One run: processes, database, bus and clients; the plan carried out, and the verdict."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter, defaultdict, deque
from dataclasses import dataclass
from types import SimpleNamespace

from django.db import DatabaseError

from django_eventstream import (
    brokers,
    eventstream,
    hub,
    shutdown,
)
from django_eventstream.messages import Published, Revoked

from .bus import Broker, Bus
from .client import Client
from .database import Database, Storage, TableBroker, Transaction
from .plan import DURATION
from .scheduler import Scheduler

#: Within how many seconds after the last fault every event must have arrived: a back-off that
#: has grown to its limit, and what comes after it.
PATIENCE = 8.0
#: Within how many seconds what is sent last, and not stored, must have arrived.
SWEEP_TIME = 6.0
#: After how many seconds without streams the loops must be idle.
IDLE = 30.0
MAX_STEPS = 20_000


class Process:
    """A simulated process: its event loops, and what the package's modules keep for it."""

    def __init__(self, world, number, incarnation):
        self.world = world
        self.number = number
        self.name = f"p{number}.{incarnation}"
        self.alive = True
        self.is_stopping = False
        self.loops = [world.scheduler.add_loop(self) for _ in range(world.plan.loops)]
        self.storage = Storage(world.database, world.plan.keep)
        self.brokers = [Broker(bus, self, is_lean=world.plan.lean) for bus in world.buses]
        if "database" in world.plan.brokers:
            self.brokers.append(TableBroker(world.database, self))
        self.hubs = {}
        self._globals = [
            (
                vars(hub),
                {
                    "_hubs": self.hubs,
                    "_revocations": deque(maxlen=10_000),
                    "_trimmed_at": world.scheduler.now,
                    "_trimming": threading.Lock(),
                    "_had_receivers": False,
                    "_has_told": False,
                },
            ),
            (vars(brokers), {"_sender": brokers._Sender()}),
        ]

    def __str__(self):
        return self.name

    def enter(self):
        """Let the modules have what they keep for this process."""
        for module, values in self._globals:
            module.update(values)

    def leave(self):
        """Keep it until the next time."""
        for module, values in self._globals:
            for name in values:
                values[name] = module[name]

    def kill(self):
        """End it, in the middle of everything."""
        self.alive = False
        for loop in self.loops:
            loop.close()
        for bus in self.world.buses:
            bus.disconnect(self, end=True)


@dataclass
class Loose:
    """An event without an id, as it was published."""

    data: str
    process: Process
    #: The number of the thread that sent it, whose events keep their order.
    sender: int
    number: int
    #: The step and the time at which it was published.
    sent_at: int
    time: float
    skip_user_ids: frozenset[str]
    #: Whether the brokers have it.
    carried: bool = False


class World:
    """A run of a plan."""

    def __init__(self, plan, *, trace=False):
        self.plan = plan
        self.scheduler = Scheduler(f"schedule {plan.seed}", unruly=plan.unruly)
        if trace:
            self.scheduler.trace = []
        self.random = self.scheduler.random
        self.numbers = self.scheduler.numbers
        self.later = self.scheduler.later
        self.latency = self.scheduler.latency
        self.note = self.scheduler.note
        self.fail = self.scheduler.fail
        self.database = Database(self.scheduler)
        self.buses = [Bus(self.scheduler) for _ in range(plan.brokers.count("bus"))]
        self.processes = []
        self.clients = {}
        #: Since when which user may not read which channel, and until when that was so before.
        self.denied = {}
        self.was_denied_until = {}
        #: Users and channels of denials that were told to all processes.
        self.kicked = set()
        #: When a kick had taken effect, by event loop, user and channel.
        self.settled = {}
        #: The step at which data was sent.
        self.sent_at = {}
        #: The unstored events of each channel.
        self.loose = defaultdict(list)
        self._read_since = {}
        self._loose_by_data = {}
        self._counts = defaultdict(int)
        self._incarnations = defaultdict(int)
        self.healed = False
        #: How often each thing happened, to see that the runs are not void.
        self.counts = Counter()
        #: Nothing happens in this run that could make an unreliable channel miss something.
        self.is_calm = not plan.faults - {"repeat", "cut", "trim"} and (
            plan.constants["listening", "READY_PATIENCE"] > 1.0
        )

    @property
    def steps(self):
        return self.scheduler.steps

    @property
    def failures(self):
        return self.scheduler.failures

    @property
    def trace(self):
        return self.scheduler.trace

    # The run

    def run(self):
        """Carry out the plan."""
        plan, scheduler = self.plan, self.scheduler
        for number in range(plan.processes + 1):
            self._start_process(number)
        for channel in plan.channels:
            if self.is_reliable(channel):
                for _ in range(3):
                    self.database.append(self._old_row(channel))
        if "starve" in plan.faults:
            scheduler.starved = self.processes[0].loops[0]
        if "flaky" in plan.faults:
            self.database.failure_rate = 0.1
        for bus in self.buses:
            bus.loss_rate = 0.2 * ("lose" in plan.faults)
            bus.loses_tallies = plan.sweeps
            bus.repeat_rate = 0.3 * ("repeat" in plan.faults)
            bus.reorder_rate = 0.4 * ("reorder" in plan.faults)
            bus.garble_rate = 0.1 * ("garble" in plan.faults)
            bus.delay = 0.8 * ("delay" in plan.faults)
        for action in plan.actions:
            self.later(action.at, None, self._act, action)
        self._run_until(lambda: scheduler.now >= 1000.0 + DURATION)
        self._heal()
        self._run_until(self._is_quiet, PATIENCE)
        self._judge()
        # Whoever has left must not be waited for, least of all while nothing can be read.
        self.database.is_down = "outage" in plan.faults
        for client in self.clients.values():
            client.leave()
        self._run_until(lambda: False, IDLE)
        self._judge_end()
        self._count()

    def _run_until(self, condition, limit=None):
        scheduler = self.scheduler
        end = None if limit is None else scheduler.now + limit
        while not scheduler.failures and not condition():
            if not scheduler.step() or (end is not None and scheduler.now > end):
                return
            if scheduler.steps > MAX_STEPS:
                self.fail(f"no end after {MAX_STEPS} steps")

    def close(self):
        """Drop everything, without a word from tasks that never ended."""
        for loop in self.scheduler.loops:
            loop.closed = True
            for task in loop.unfinished():
                task._log_destroy_pending = False
                task.get_coro().close()

    # The parts

    def is_reliable(self, channel):
        return channel.startswith("r")

    def choose_process(self):
        """Return a process that serves streams, or None."""
        some = [
            process
            for process in self.processes
            if process.alive and process.number < self.plan.processes
        ]
        return self.random.choice(some) if some else None

    def _start_process(self, number):
        self._incarnations[number] += 1
        process = Process(self, number, self._incarnations[number])
        self.processes = [p for p in self.processes if p.number != number]
        self.processes.append(process)
        self.note(f"{process} starts")
        return process

    def _process(self, number):
        return next(p for p in self.processes if p.number == number)

    def _old_row(self, channel):
        data = self._name(channel)
        return self.database.insert(channel, "message", data, ())

    def _name(self, channel):
        self._counts[channel] += 1
        data = f"{channel}#{self._counts[channel]}"
        self.sent_at[data] = self.steps
        return data

    # Actions

    def _act(self, action):
        self.note(f"action: {action}")
        self.counts[f"action {action.kind}"] += 1
        getattr(self, "do_" + action.kind.replace("-", "_"))(*action.arguments)

    def do_connect(self, number, channels, user, position):
        user = None if user is None else SimpleNamespace(id=user)
        positions = {}
        if position is not None:
            positions = {name: position for name in channels if self.is_reliable(name)}
        client = self.clients[number] = Client(self, f"c{number}", channels, user, positions)
        client.connect()

    def do_send(self, number, channel, count, skipped):
        process = self._process(number)
        self.later(0, process, self._send_all, process, [channel] * count, skipped)

    def _send_all(self, process, channels, skipped):
        self.scheduler.local = Transaction(self.database, next(self.numbers))
        for channel in channels:
            self._send(process, channel, skipped)

    def _send(self, process, channel, skipped=()):
        data = self._name(channel)
        self.note(f"{process} sends {data}, not to {skipped}")
        try:
            eventstream.send_event(
                channel, "message", data, skip_user_ids=skipped, json_encode=False
            )
        except DatabaseError:
            self.note(f"{process} could not send {data}")

    def do_transaction(self, number, channels, duration, end):
        process = self._process(number)
        self.later(0, process, self._begin, process, channels, duration, end)

    def _begin(self, process, channels, duration, end):
        transaction = Transaction(self.database, next(self.numbers))
        transaction.in_atomic_block = True
        self.scheduler.local = transaction
        for channel in channels:
            self._send(process, channel)
        self.later(duration, process, self._end, process, transaction, end)

    def _end(self, process, transaction, end):
        self.scheduler.local = transaction
        if end == "roll back":
            self.note(f"{process} rolls back")
            return
        try:
            transaction.commit()
        except DatabaseError:
            self.note(f"{process} could not commit")
            return
        self.note(f"{process} commits")
        if end == "die in commit":
            self._kill(process, 0.3)
            return
        transaction.dies = end == "die in publish"
        self.scheduler.pause()
        transaction.run_hooks()

    def do_disconnect(self, number, duration):
        process = self._process(number)
        for bus in self.buses:
            bus.disconnect(process)
            if duration:
                bus.unreachable.add(process)
                self.later(duration, None, bus.unreachable.discard, process)

    def do_kill(self, number, duration):
        self._kill(self._process(number), duration)

    def _kill(self, process, duration):
        if not process.alive:
            return
        self.note(f"{process} is killed")
        self.counts["processes killed"] += 1
        process.kill()
        for client in self.clients.values():
            if client.connection is not None and client.connection.process is process:
                self.later(self.latency(), None, client.lose, client.connection)
        self.later(duration, None, self._restart, process)

    def _restart(self, process):
        if process in self.processes:
            self._start_process(process.number)

    def do_stop(self, number, duration):
        """End a process as its server does when it is told to."""
        process = self._process(number)
        if process.alive and not process.is_stopping:
            process.is_stopping = True
            self.later(0, process, self._end_streams, process, duration)

    def _end_streams(self, process, duration):
        self.note(f"{process} is stopping")
        for each in process.hubs.values():
            each.call(lambda stream: stream.end())
        self.later(shutdown.DRAIN_TIME, process, self._exit, process, duration)

    def _exit(self, process, duration):
        if process.hubs:
            self.counts["streams cut off at the end of a process"] += 1
        for each in [*process.hubs.values()]:
            each.call(lambda stream: stream.cut(is_last=True))
        brokers._sender._tell_counts()
        self._kill(process, duration)

    def do_outage(self, duration):
        self.database.is_down = True
        self.later(duration, None, self._end_outage)

    def _end_outage(self):
        self.note("the database is up")
        self.database.is_down = False

    def do_trim(self, channel, keep):
        self.database.trim(channel, keep)

    def do_cut(self, number):
        if number in self.clients:
            self.clients[number].cut()

    def do_tear(self, number):
        if number in self.clients:
            self.clients[number].tear()

    def do_stall(self, number):
        if number in self.clients:
            self.clients[number].stall(self.random.uniform(0.1, 1.5))

    def do_deny(self, number, user, channel):
        process = self._process(number)
        if process.alive:
            self.denied.setdefault((user, channel), self.scheduler.now)
        self.later(self.latency(), process, self._kick, process, user, channel)

    def _kick(self, process, user, channel):
        self.scheduler.local = Transaction(self.database, next(self.numbers))
        user = None if user is None else SimpleNamespace(id=user)
        eventstream.channel_permission_changed(user, channel)

    def do_allow(self, user, channel):
        if self.denied.pop((user, channel), None) is not None:
            self.was_denied_until[user, channel] = self.scheduler.now
            self.kicked.discard((user, channel))
            for key in [key for key in self.settled if key[1:] == (user, channel)]:
                del self.settled[key]

    # What is seen of the package at work

    def can_read(self, user, channel):
        self.scheduler.pause()
        return (None if user is None else user.id, channel) not in self.denied

    def was_denied(self, user, channel, since):
        """Return whether a kick that was justified could still be felt after ``since``."""
        if (user, channel) in self.denied:
            return True
        return self.was_denied_until.get((user, channel), 0.0) > since - 3.0

    def note_revoked(self, revoked):
        key = (revoked.user_id, revoked.channel)
        if key in self.denied:
            self.settled.setdefault((asyncio.get_running_loop(), *key), self.steps)
            self.counts["kicks that took effect"] += not str(key[0]).startswith("nobody")

    def note_published(self, message):
        process, thread = self.scheduler.current, self.scheduler.local
        if isinstance(message, Published) and message.event.id is None:
            event = message.event
            loose = Loose(
                event.data,
                process,
                thread.number,
                next(self.numbers),
                self.steps,
                self.scheduler.now,
                event.skip_user_ids,
            )
            self.loose[event.channel].append(loose)
            self._loose_by_data[event.data] = loose

    def note_carried(self, message):
        if isinstance(message, Published) and message.event.id is None:
            self._loose_by_data[message.event.data].carried = True
        elif isinstance(message, Revoked) and (message.user_id, message.channel) in self.denied:
            self.kicked.add((message.user_id, message.channel))

    def find_loose(self, data):
        return self._loose_by_data[data]

    def note_reader(self, loop, channel):
        """Take note that a stream is opened, maybe the first on the channel there."""
        if not any(
            client.connection is not None
            and client.connection.loop is loop
            and channel in client.channels
            for client in self.clients.values()
        ):
            self._read_since[loop, channel] = self.scheduler.now

    def may_miss(self, loop, channel):
        """Return whether streams there can seem to have missed something.

        Nobody knows for how long a message was on its way, so one that was sent just before the
        first stream came may be looked for.
        """
        since = self._read_since[loop, channel]
        return not self.is_calm or any(
            since - 2.0 < loose.time < since + 0.5 for loose in self.loose[channel]
        )

    def is_excused(self, loose, receiver, channel):
        """Return whether nobody could tell that a message is missing: its sender is dead."""
        sender = loose.process
        if not self.plan.brokers:
            return sender is not receiver
        return not sender.alive and (not loose.carried or self._has_lost(sender, receiver, channel))

    def _has_lost(self, sender, receiver, channel):
        """Whether a message of a sender that is dead may be lost on this way."""
        return any(
            (sender, to, channel) in place.lost
            for place in (*self.buses, self.database)
            for to in (receiver, None)
        )

    def note_error(self, record):
        text = record.getMessage()
        faults = self.plan.faults
        if record.levelno < logging.ERROR:
            return
        if text.startswith(("After a commit", "Cannot trim")) and faults & {"outage", "flaky"}:
            return
        if "cannot carry what is sent" in text and faults & {"disconnect", "outage", "flaky"}:
            return
        error = record.exc_info[1] if record.exc_info else None
        self.fail(f"{self.scheduler.current} logs {text!r} with {error!r}")

    # After the faults

    def _heal(self):
        self.note("all faults end")
        self.scheduler.starved = None
        self.database.is_down = False
        self.database.failure_rate = 0.0
        for bus in self.buses:
            bus.loss_rate = bus.reorder_rate = bus.repeat_rate = bus.garble_rate = 0.0
            bus.delay = 0.0
            bus.unreachable.clear()
        for client in self.clients.values():
            client.resume()
        if "kick" in self.plan.faults or not all(map(self.is_reliable, self.plan.channels)):
            self.later(1.2, None, self._sweep)
        else:
            self.healed = True

    def _sweep(self):
        """Send something on each lane, so that holes show even where tallies got lost."""
        for process in self.processes:
            if not process.alive:
                self._restart(process)
        for process in self.processes if self.plan.sweeps else ():
            for channel in self.plan.channels:
                self.denied[f"nobody-{process}", channel] = self.scheduler.now
                self.later(0, process, self._kick, process, f"nobody-{process}", channel)
                if not self.is_reliable(channel):
                    self.later(0, process, self._send_all, process, [channel], ())
        self.later(1.8, None, self._end_of_sweep, self.scheduler.now + SWEEP_TIME)

    def _end_of_sweep(self, deadline):
        """Wait for what is still on its way: read row by row, a table takes its time."""
        if self.scheduler.now < deadline and any(
            client.find_missed(channel)
            for client in self.clients.values()
            if not client.is_refused and client.connection is not None
            for channel in client.channels
            if not self.is_reliable(channel)
        ):
            self.later(0.5, None, self._end_of_sweep, deadline)
        else:
            self.healed = True

    def _is_quiet(self):
        return (
            self.healed
            and not self._has_pending()
            and all(client.is_caught_up() for client in self.clients.values())
        )

    def _has_pending(self):
        """Whether somebody polls, and there is something to be numbered."""
        return bool(self.database.pending) and any(
            client.is_open for client in self.clients.values()
        )

    def _count(self):
        self.counts["steps"] = self.steps
        self.counts["events stored"] = sum(
            log.current_id for log in self.database.channels.values()
        )
        self.counts["events not stored"] = sum(map(len, self.loose.values()))
        self.counts["copies of messages lost"] = sum(
            len(place.lost) for place in (*self.buses, self.database)
        )
        for client in self.clients.values():
            self.counts += client.counts

    def _judge(self):
        """Look at what every client has in the end."""
        if self.scheduler.failures:
            return
        if self._has_pending():
            self.fail(f"still without a number: {self.database.pending}")
        for client in self.clients.values():
            if not client.is_caught_up():
                self.fail(
                    f"{client} is still at {client.positions}"
                    f"{'' if client.is_open else ', without a stream'}"
                )
            elif not client.is_refused:
                for channel in client.channels:
                    self._judge_channel(client, channel)

    def _judge_channel(self, client, channel):
        if (client.user_id, channel) in self.kicked:
            receiver = client.connection.process
            is_excused = any(
                not sender.alive and self._has_lost(sender, receiver, channel)
                for place in (*self.buses, self.database)
                for sender, _, _ in place.lost
            )
            if self.plan.brokers and not is_excused:
                self.fail(f"{client} still reads {channel}, which it may not")
        if not self.is_reliable(channel):
            missed = client.find_missed(channel)
            if missed:
                self.fail(f"{client} missed {[loose.data for loose in missed]}, without a reset")

    def _judge_end(self):
        if self.scheduler.failures:
            return
        for process in self.processes:
            if process.hubs:
                self.fail(f"{process} still has a hub")
            for task in [task for loop in process.loops for task in loop.tasks]:
                if not task.done():
                    self.fail(f"{process} still has a task: {task}")
                elif task._log_traceback:  # nobody has asked for its exception
                    self.fail(f"{process}: a task ended with {task.exception()!r}")
