"""What is to be run, and what came out."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.faults.checker import Figures, percentile

#: How many deviations are shown, and how many of the lines that processes logged.
MOST_DEVIATIONS = 20
MOST_LINES = 15


@dataclass(frozen=True)
class Plan:
    """What is to be run."""

    backend: str
    seed: int
    clients: int = 1000
    deliveries: int = 200_000
    #: How many deliveries a second.
    rate: float = 700
    channels: int = 20
    workers: int = 3
    senders: int = 3
    #: What is to be broken, in the tests of the harness.
    defect: str = ""

    @property
    def duration(self) -> float:
        """For how many seconds there are faults."""
        return self.deliveries / self.rate

    @property
    def event_rate(self) -> float:
        """How many events a second one sender sends."""
        deliveries = 2 * self.clients / self.channels  # a client reads two channels on average
        # Some are rolled back or have no log, and there is none while it cannot be written.
        return 1.6 * self.rate / deliveries / self.senders

    @property
    def command(self) -> str:
        """What runs the same schedule again."""
        options = asdict(self)
        if not self.defect:
            del options["defect"]
        return " ".join(
            ["python -m tests.faults", *(f"--{name} {options[name]}" for name in options)]
        )


@dataclass
class Report:
    """What came out."""

    plan: Plan
    figures: Figures = field(default_factory=Figures)
    deviations: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    committed: int = 0
    seconds: float = 0.0
    connections_reset: int = 0
    #: How long it took until every client got events at once again.
    calm: float = 0.0
    #: How long the slowest client needed once the senders had stopped.
    caught_up: float = 0.0
    #: How long the slowest worker took to end.
    shutdown: float = 0.0
    #: What the workers logged, without what differs from time to time.
    logged: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        figures = self.figures
        return {
            **asdict(self.plan),
            "seconds": round(self.seconds, 1),
            "faults": dict(sorted(self.faults.items())),
            "committed": self.committed,
            "connections": figures.connections,
            "connections reset": self.connections_reset,
            "delivered": figures.delivered,
            "lost": figures.lost,
            "repeated": figures.repeated,
            "reordered": figures.reordered,
            "resets": figures.resets,
            "on the unreliable channel": {
                "delivered": figures.loose,
                "resets": figures.loose_resets,
            },
            "seconds to catch up": {
                "median": round(percentile(figures.outages, 0.5), 3),
                "p99": round(percentile(figures.outages, 0.99), 3),
                "most": round(max(figures.outages, default=0), 3),
                "outages": len(figures.outages),
            },
            "seconds from send to receive": {
                "median": round(percentile(figures.delays, 0.5), 3),
                "p99": round(percentile(figures.delays, 0.99), 3),
            },
            "seconds until all was immediate": round(self.calm, 1),
            "seconds until all had everything": round(self.caught_up, 1),
            "seconds of the slowest shutdown": round(self.shutdown, 1),
            "deviations": len(self.deviations),
        }

    def __str__(self) -> str:
        lines = [f"{name:>34}  {value}" for name, value in self.to_json().items()]
        if self.logged:
            lines.append("What the workers logged:")
            lines += [f"{count:>6} x {text}" for text, count in self.logged.most_common(MOST_LINES)]
        if self.deviations:
            lines += ["DEVIATIONS:", *self.deviations[:MOST_DEVIATIONS]]
            if len(self.deviations) > MOST_DEVIATIONS:
                lines.append(f"and {len(self.deviations) - MOST_DEVIATIONS} more")
            lines.append(f"To replay: {self.plan.command}")
        return "\n".join(lines)
