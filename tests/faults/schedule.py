"""Which faults there are, and when: drawn from a seed, and the same whenever it is drawn again."""

from __future__ import annotations

import random
from dataclasses import dataclass

#: Wherever the log is and whatever carries messages.
EVERYWHERE = (
    "connections reset",
    "slow readers",
    "newcomers",
    "worker killed",
    "worker frozen",
    "rolling restart",
    "sender killed",
    "clocks moved",
    "log trimmed",
    "messages lost",
    "messages repeated",
    "messages delayed",
    "messages garbled",
)
DATABASE_STORAGE = ("sender dies after commit", "log locked")
POSTGRESQL = (
    "database restarted",
    "database killed",
    "database crashed",
    "database connections terminated",
)
REDIS = ("redis killed", "redis frozen", "redis connections terminated")

#: What is tried on each storage and broker.
FAULTS = {
    "sqlite-database": (*EVERYWHERE, *DATABASE_STORAGE),
    "postgresql-database": (*EVERYWHERE, *DATABASE_STORAGE, *POSTGRESQL, "listeners terminated"),
    "postgresql-redis": (*EVERYWHERE, *DATABASE_STORAGE, *POSTGRESQL, *REDIS),
    "redis-redis": (*EVERYWHERE, *REDIS),
}
BACKENDS = tuple(FAULTS)

#: Seconds from fault to fault, on average.
INTERVAL = 2.0


@dataclass(frozen=True)
class Fault:
    """One fault: its kind, seconds after the beginning, and the seed of what else it draws."""

    at: float
    kind: str
    seed: str

    def __str__(self) -> str:
        return f"{self.at:7.1f} s  {self.kind}"


def draw(backend: str, seed: int, duration: float) -> list[Fault]:
    """Return a schedule with each kind at least once."""
    source = random.Random(f"{backend} {seed}")
    kinds = list(FAULTS[backend])
    while len(kinds) < duration / INTERVAL:
        kinds.append(source.choice(FAULTS[backend]))
    source.shuffle(kinds)
    # None in the first tenth, when clients are still coming.
    times = sorted(source.uniform(0.1, 0.95) * duration for _ in kinds)
    return [
        Fault(at, kind, f"{seed} {number}")
        for number, (at, kind) in enumerate(zip(times, kinds, strict=True))
    ]
