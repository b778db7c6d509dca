"""What is going to happen in a run, but for the order of steps: chosen by the seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

#: For how many seconds the actions of a run go on.
DURATION = 3.0

#: Kinds of faults; each run has some of them, so that the others' absence is tried too.
FAULTS = (
    *("lose", "repeat", "reorder", "delay", "garble", "disconnect"),
    *("kill", "kill-sender", "stop", "age", "impatience", "starve"),
    *("outage", "flaky", "trim", "roll-back", "cut", "stall", "kick", "narrow"),
)

USERS = ("1", "2", None)


@dataclass(frozen=True)
class Action:
    """Something that is done at a time: a method of the world, and its arguments."""

    at: float
    kind: str
    arguments: tuple[Any, ...] = ()

    def __str__(self):
        return f"{self.at:6.3f} {self.kind} {' '.join(map(str, self.arguments))}"


@dataclass
class Plan:
    """One run."""

    seed: int
    #: How many processes serve streams; one more only sends.
    processes: int
    #: How many event loops with streams each of them has, and by how many brokers they hear.
    loops: int
    brokers: tuple[str, ...]
    #: Whether brokers carry only the ids of what the log has.
    lean: bool
    channels: list[str]
    faults: frozenset[str]
    #: Whether event loops do not even keep the order of callbacks.
    unruly: bool
    #: Whether something is sent on every lane in the end, to show holes: where tallies get lost.
    sweeps: bool
    #: Settings of the package, and constants of its modules.
    settings: dict[str, Any]
    constants: dict[tuple[str, str], Any]
    #: How many events per channel the log keeps when it is trimmed.
    keep: int
    actions: list[Action] = field(default_factory=list)

    def __str__(self):
        lines = [
            f"seed {self.seed}: {self.processes} processes, {self.loops} loops in each, "
            f"brokers {' '.join(self.brokers) or 'none'}, channels {' '.join(self.channels)}, "
            f"{'unruly' if self.unruly else 'orderly'} loops"
            f"{', a sweep in the end' if self.sweeps else ''}",
            f"faults: {' '.join(sorted(self.faults)) or 'none'}",
            f"settings: {self.settings}",
            f"constants: { {'.'.join(name): value for name, value in self.constants.items()} }",
        ]
        return "\n".join([*lines, *(f"{i:4} {action}" for i, action in enumerate(self.actions))])


def make_plan(seed):
    """Return the plan of a seed."""
    rng = random.Random(f"plan {seed}")
    choose, chance = rng.choice, rng.random
    likely = choose([0.0, 0.15, 0.3, 0.5])
    faults = frozenset(fault for fault in FAULTS if chance() < likely)
    channels = choose([["r1"], ["r1", "u1"], ["r1", "r2"], ["u1"], ["r1", "r2", "u1"]])
    narrow = "narrow" in faults
    plan = Plan(
        seed,
        processes=choose([1, 2, 2, 3]),
        loops=choose([1, 1, 1, 2]),
        brokers=choose(
            [(), ("bus",), ("bus",), ("database",), ("bus", "bus"), ("bus", "database")]
        ),
        lean=chance() < 0.2,
        channels=channels,
        faults=faults,
        unruly=chance() < 0.3,
        sweeps=chance() < 0.5,
        settings={
            "EVENTSTREAM_PADDING": 0,
            "EVENTSTREAM_MAX_STREAM_AGE": 2.0 if "age" in faults else None,
            "EVENTSTREAM_SEND_TIMEOUT": 0.5 if "impatience" in faults else 60.0,
            "EVENTSTREAM_POLL_INTERVAL": choose([0.3, 1.0]),
            "EVENTSTREAM_KEEP_ALIVE_INTERVAL": choose([4.0, 20.0, 20.0]),
            "EVENTSTREAM_PAGE_SIZE": choose([1, 2, 3, 500]),
            "EVENTSTREAM_BUFFER_SIZE": choose([0, 2, 1000]),
            "EVENTSTREAM_BURST_SIZE": choose([2, 3, 5]) if narrow else 10_000,
        },
        constants={
            ("hub", "BATCH"): choose([1, 2, 256]),
            ("database", "BATCH"): choose([1, 2, 500]),
            ("hub", "INBOX_SIZE"): choose([1, 3]) if narrow else 10_000,
            ("hub", "RECHECK_SPREAD"): 0.5,
            ("hub", "TRIM_FEEDS_INTERVAL"): choose([0.3, 5.0]),
            ("hub", "TRIM_LOG_INTERVAL"): 1.0 if "trim" in faults else 1e9,
            ("hub", "MAX_BACK_OFF"): 2.0,
            ("protocol", "MAX_ENTRIES"): choose([1, 2, 512]),
            ("streaming", "OPEN_TIMEOUT"): choose([0.3, 10.0]),
            ("streaming", "LONGEST_PAUSE"): 1.0,
            ("listening", "LONGEST_PAUSE"): 0.5,
            ("brokers", "TALLY_DELAY"): 0.4,
            ("listening", "READY_PATIENCE"): choose([0.2, 3.0]),
        },
        keep=choose([0, 1, 3, 6]),
    )
    _add_actions(plan, rng)
    plan.actions.sort(key=lambda action: action.at)
    return plan


def _add_actions(plan, rng):
    choose, chance, uniform = rng.choice, rng.random, rng.uniform

    def add(kind, *arguments, at=None):
        plan.actions.append(Action(uniform(0, DURATION) if at is None else at, kind, arguments))

    def skipped():
        return tuple(choose(["1", "2"]) for _ in range(1)) if chance() < 0.2 else ()

    senders = plan.processes + 1
    for number in range(rng.randint(1, 4)):
        some = rng.sample(plan.channels, rng.randint(1, len(plan.channels)))
        # Some come from the past or, as after a restored backup, the future.
        position = choose([None, None, None, 0, 2, 50])
        at = uniform(0, 0.3) if chance() < 0.6 else uniform(0, DURATION)
        add("connect", number, tuple(sorted(some)), choose(USERS), position, at=at)
        if chance() < 0.5:
            # While it is opening, or just open.
            add("send", rng.randrange(senders), choose(some), 1, (), at=at + uniform(0.02, 0.2))
    for _ in range(rng.randint(2, 14)):
        sender, channel = rng.randrange(senders), choose(plan.channels)
        kind = chance()
        if kind < 0.55:
            add("send", sender, channel, choose([1, 1, 1, 2, 5]), skipped())
        else:
            some = tuple(choose(plan.channels) for _ in range(rng.randint(1, 3)))
            end = "commit"
            if "roll-back" in plan.faults and chance() < 0.3:
                end = "roll back"
            elif "kill-sender" in plan.faults and chance() < 0.5:
                end = choose(["die in commit", "die in publish"])
            add("transaction", sender, some, choose([0.0, uniform(0, 0.5)]), end)
    if chance() < 0.3:
        # Close together, so that they overtake each other.
        at = uniform(0, DURATION)
        for _ in range(rng.randint(2, 5)):
            add("send", rng.randrange(senders), choose(plan.channels), 1, skipped(), at=at)
    for fault in sorted(plan.faults):
        for _ in range(rng.randint(1, 3)):
            if fault == "disconnect":
                add("disconnect", rng.randrange(senders), choose([0.0, uniform(0, 1)]))
            elif fault == "stop":
                add("stop", rng.randrange(senders), uniform(0, 0.5))
            elif fault == "kill":
                add("kill", rng.randrange(senders), uniform(0, 1))
            elif fault == "outage":
                add("outage", uniform(0, 1.5))
            elif fault == "trim":
                add("trim", choose(plan.channels), plan.keep)
            elif fault in ("cut", "stall"):
                for _ in range(2):
                    add(choose(["cut", "tear"]) if fault == "cut" else fault, rng.randrange(4))
            elif fault == "kick":
                # Often when a process has no other streams yet.
                at = uniform(0, choose([0.3, DURATION]))
                user, channel = choose(USERS), choose(plan.channels)
                add("deny", rng.randrange(senders), user, channel, at=at)
                if chance() < 0.3:
                    add("allow", user, channel)
                if chance() < 0.7:
                    # While a stream is opened: checked before, not there yet when it comes.
                    number = len(plan.actions)
                    opened = max(0.0, at + uniform(-0.12, 0.02))
                    add("connect", number, (channel,), user, None, at=opened)
                    add("send", rng.randrange(senders), channel, 1, (), at=at + uniform(0, 0.4))
