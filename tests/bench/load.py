"""Load on a scripted engine, for the tests."""

from __future__ import annotations

from typing import Any

from modeltainer.bench.client import target
from modeltainer.bench.point import PointPlan, PointResult
from modeltainer.bench.run import run_point
from modeltainer.bench.schedule import ClosedLoop, Schedule
from modeltainer.bench.workload import Length, Workload


def load(
    url: str,
    model: str,
    schedule: Schedule | None = None,
    *,
    tokens: int = 20,
    requests: int | None = 2,
    workload: dict[str, Any] | None = None,
    **plan: Any,
) -> PointResult:
    """Run one point; without a schedule, one user."""
    made = Workload(prompt=Length(16, 16), output=Length(tokens, tokens), **(workload or {}))
    chosen = schedule or ClosedLoop(1)
    return run_point(
        PointPlan(
            label="point",
            targets=(target(url, model),),
            schedule=chosen,
            workload=made,
            requests=requests if isinstance(chosen, ClosedLoop) else None,
            **{"warmup": 0, "timeout_s": 30.0, **plan},
        )
    )
