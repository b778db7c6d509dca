"""Many runs, and the report of one that failed."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from dataclasses import dataclass, field

from .package import played, simulate
from .plan import make_plan


@dataclass
class Summary:
    """What came of some runs."""

    runs: int = 0
    #: How often each thing happened.
    counts: Counter[str] = field(default_factory=Counter)
    #: The first failure of each seed that failed.
    failures: dict[int, str] = field(default_factory=dict)

    def add(self, other):
        self.runs += other.runs
        self.counts += other.counts
        self.failures |= other.failures


def run_seeds(seeds, *, stop=False):
    """Run plans; ``stop``: not beyond the first that fails."""
    summary = Summary()
    with played():
        for seed in seeds:
            world = simulate(make_plan(seed))
            summary.runs += 1
            summary.counts += world.counts
            if world.failures:
                summary.failures[seed] = world.failures[0]
                if stop or len(summary.failures) == 3:
                    break
    return summary


def run_plan(plan):
    """Run one plan; return the world, which has a trace."""
    with played():
        return simulate(plan, trace=True)


def digest(world):
    """Return what differs if anything at all happened in another way."""
    return hashlib.sha256("\n".join(world.trace).encode()).hexdigest()


def pick(plan, indices):
    """Return a plan with some of its actions only."""
    return dataclasses.replace(plan, actions=[plan.actions[index] for index in indices])


def shrink(plan):
    """Return the indices of actions that are enough for a failure: fewer make it readable.

    Not the fewest possible, and maybe of another failure.
    """
    kept = [*range(len(plan.actions))]
    with played():
        size = len(kept)
        while size := size // 2:
            start = 0
            while start < len(kept):
                fewer = kept[:start] + kept[start + size :]
                if simulate(pick(plan, fewer)).failures:
                    kept = fewer
                else:
                    start += size
    return kept


def report(seed):
    """Return all that is to be known about a seed that fails: a text for people."""
    plan = make_plan(seed)
    kept = shrink(plan)
    world = run_plan(pick(plan, kept))
    indices = ",".join(map(str, kept))
    return "\n".join(
        [
            str(plan),
            "",
            f"The interleaving, with the actions {indices} alone:",
            *world.trace,
            "",
            f"Replay: python -m tests.simulation --seed {seed} --actions {indices}",
            f"All of it: python -m tests.simulation --seed {seed}",
        ]
    )
