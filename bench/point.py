"""One point of a sweep: the plan of its load, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from modeltainer.bench.client import Target
from modeltainer.bench.record import Record
from modeltainer.bench.schedule import ClosedLoop, Schedule
from modeltainer.bench.validity import WorkerStats
from modeltainer.bench.workload import Workload


@dataclass(frozen=True)
class PointPlan:
    """What is asked of whom, and when."""

    label: str
    targets: tuple[Target, ...]
    """One, or the two sides of an A/B run, asked in pairs by a closed loop."""
    schedule: Schedule
    workload: Workload
    requests: int | None = None
    """How many (of a closed loop; pairs in an A/B run); an open loop's schedule says it itself."""
    duration_s: float | None = None
    """No request starts later than this."""
    warmup: int = 2
    """Requests before, in no figure."""
    timeout_s: float = 600.0
    """Longest answer."""
    workers: int = 1
    """Client processes."""

    @property
    def users(self) -> int:
        """Of a closed loop; 0 of an open one."""
        return self.schedule.concurrency if isinstance(self.schedule, ClosedLoop) else 0


def capped(workers: int, users: int) -> int:
    """Client processes of so many users: one without a user would leave its requests unasked."""
    return max(1, min(workers, users))


@dataclass(frozen=True)
class WorkerPlan:
    """One client process's part of a point."""

    plan: PointPlan
    worker: int


@dataclass
class PointResult:
    """What one point gave."""

    plan: PointPlan
    records: list[Record] = field(default_factory=list)
    workers: list[WorkerStats] = field(default_factory=list)
    ended_early: str = ""
    """``interrupted`` or ``server_died``; empty when the plan was carried out."""
