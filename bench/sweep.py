"""A whole run: points one after the other, their figures, and whether they can be believed."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from modeltainer.bench.calibrate import Floor, calibrate
from modeltainer.bench.client import Target
from modeltainer.bench.metrics import Slo, paired, summarise
from modeltainer.bench.point import PointPlan, PointResult, capped
from modeltainer.bench.record import Record
from modeltainer.bench.run import STREAMS_PER_WORKER, OnRecord, WorkerError, run_point
from modeltainer.bench.schedule import ClosedLoop, OpenLoop, Schedule, constant, poisson
from modeltainer.bench.search import RateSearch
from modeltainer.bench.unfinished import guessed_tokens, rate_of, unfinished
from modeltainer.bench.validity import of_the_client, problems, short_answers
from modeltainer.bench.workload import Workload

GOODPUT_TARGET = 0.99
"""Part of the requests that must meet the objectives for a rate to count as carried."""


@dataclass(frozen=True)
class RunPlan:
    """What a run asks."""

    targets: tuple[Target, ...]
    workload: Workload
    concurrency: tuple[int, ...] = ()
    rates: tuple[float, ...] = ()
    arrivals: str = "poisson"
    """Or ``constant``."""
    trace: OpenLoop | None = None
    find_limit: bool = False
    """Search for the highest rate within ``slo``."""
    slo: Slo = field(default_factory=Slo)
    requests: int | None = None
    """Of each point; by default enough for it."""
    duration_s: float | None = None
    warmup: int = 2
    timeout_s: float = 600.0
    workers: int | None = None
    """None: as many as the load needs."""
    calibration: bool = True


@dataclass
class RunState:
    """What has come of a run so far."""

    points: list[dict[str, Any]] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    ended_early: str = ""
    limit_rate: float | None = None
    """Highest rate within the objectives, where it was searched for."""
    limit_note: str = ""
    """What the search found, in words: it may have ended before the limit."""


class Announcer:
    """Told of a run's course; does nothing by itself."""

    def point_begins(self, plan: PointPlan) -> None:
        """Before a point's load."""

    def row(self, record: Record) -> None:
        """Each row as it comes."""

    def point_ends(self, summary: dict[str, Any]) -> None:
        """With its figures."""


def run(plan: RunPlan, announcer: Announcer) -> RunState:
    """Run all points. Ctrl-C or the server's death ends the run with what there is.

    Raises:
        WorkerError: a client process failed.
        OSError: from ``announcer``, which may write rows.
    """
    state = RunState()
    search = RateSearch(first=plan.rates[0] if plan.rates else 1.0)
    try:
        _run_points(plan, search, state, announcer)
    except KeyboardInterrupt:
        state.ended_early = "interrupted"
    state.points += unfinished(state.records, state.points, plan.slo)
    if plan.find_limit:
        state.limit_rate, state.limit_note = search.passed, search.outcome()
    return state


def _run_points(plan: RunPlan, search: RateSearch, state: RunState, announcer: Announcer) -> None:
    for label, schedule in _labelled(_schedules(plan, search)):
        point = _point(plan, label, schedule)
        announcer.point_begins(point)
        result = run_point(point, _teller(state, announcer))
        floor: Floor | None = None
        calibration_failed = False
        try:
            if plan.calibration and not result.ended_early:
                floor = _floor(point, result)
        except WorkerError:
            calibration_failed = True
        except KeyboardInterrupt:
            result.ended_early = "interrupted"
        figures = figures_of(point, result, plan.slo, floor, calibration_failed=calibration_failed)
        state.points.append(figures)
        announcer.point_ends(figures)
        if result.ended_early:
            state.ended_early = result.ended_early
            break
        if plan.find_limit and isinstance(schedule, OpenLoop):
            bound = bool(figures["client_bound"])
            search.take(rate_of(label), carried(figures), client_bound=bound)


def _teller(state: RunState, announcer: Announcer) -> OnRecord:
    def tell(record: Record) -> None:
        state.records.append(record)
        announcer.row(record)

    return tell


def carried(figures: dict[str, Any]) -> bool:
    """A rate's objectives were met by (nearly) all requests of each target, and go on to be: where
    requests pile up, they are only met because the point ended."""
    return all(
        side["goodput"]["fraction"] >= GOODPUT_TARGET and not side["in_flight"]["growing"]
        for side in figures["targets"].values()
    )


def _labelled(schedules: Iterator[tuple[str, Schedule]]) -> Iterator[tuple[str, Schedule]]:
    """With a number behind a label that was there before: rows, prompts and windows go by it."""
    seen: Counter[str] = Counter()
    for label, schedule in schedules:
        seen[label] += 1
        yield (label if seen[label] == 1 else f"{label}#{seen[label]}"), schedule


def _schedules(plan: RunPlan, search: RateSearch) -> Iterator[tuple[str, Schedule]]:
    if plan.trace is not None:
        yield "trace", plan.trace
    elif plan.find_limit:
        while (rate := search.next_rate()) is not None:
            rate = float(f"{rate:.4g}")
            yield f"rate={rate:g}", _open(plan, rate)
    elif plan.rates:
        for rate in plan.rates:
            yield f"rate={rate:g}", _open(plan, rate)
    else:
        for concurrency in plan.concurrency:
            yield f"concurrency={concurrency}", ClosedLoop(concurrency)


def _open(plan: RunPlan, rate: float) -> OpenLoop:
    count = math.ceil(rate * (plan.duration_s or 30.0))
    if plan.requests is not None:
        count = plan.requests if plan.duration_s is None else min(count, plan.requests)
    if plan.arrivals == "constant":
        return constant(rate, max(1, count))
    return poisson(rate, max(1, count), plan.workload.seed)


def _point(plan: RunPlan, label: str, schedule: Schedule) -> PointPlan:
    streams = schedule.concurrency if isinstance(schedule, ClosedLoop) else schedule.rate * 4
    workers = plan.workers or default_workers(streams)
    if isinstance(schedule, ClosedLoop):
        workers = capped(workers, schedule.concurrency)
    requests = plan.requests
    if isinstance(schedule, ClosedLoop) and requests is None and plan.duration_s is None:
        requests = default_requests(schedule.concurrency)
    return PointPlan(
        label=label,
        targets=plan.targets,
        schedule=schedule,
        # Another prompt for each point: what one has left in a prefix cache is of no use to others.
        workload=replace(plan.workload, salt=f"{plan.workload.salt}/{label}"),
        requests=requests if isinstance(schedule, ClosedLoop) else None,
        duration_s=plan.duration_s if isinstance(schedule, ClosedLoop) else None,
        warmup=plan.warmup,
        timeout_s=plan.timeout_s,
        workers=workers,
    )


def default_requests(concurrency: int) -> int:
    """Enough for a median and some: at least 20, and 8 of each user."""
    return max(20, 8 * concurrency)


def default_workers(streams: float) -> int:
    """Client processes: one up to 256 streams, never more than there are cores."""
    wanted = math.ceil(streams / STREAMS_PER_WORKER)
    return max(1, min(wanted, len(os.sched_getaffinity(0))))


def _floor(point: PointPlan, result: PointResult) -> Floor | None:
    """The harness's own error at this point's load; None where no answer came in pieces.

    Raises:
        WorkerError: the calibration failed.
    """
    if not point.workload.stream:
        return None
    gaps = sorted(
        gap for one in result.records if one.ok and not one.warmup for gap in one.chunk_gaps_us
    )
    if not gaps:
        return None
    gap_s = max(1e-3, gaps[len(gaps) // 2] / 1e6)
    if isinstance(point.schedule, ClosedLoop):
        streams = point.schedule.concurrency
    else:
        streams = _mean_in_flight(result.records)
    return calibrate(max(1, streams), min(gap_s, 0.25), point.workers)


def _mean_in_flight(records: list[Record]) -> int:
    rows = [one for one in records if not one.warmup]
    begin = min(one.intended_s for one in rows)
    end = max(one.ended_s for one in rows)
    return round(sum(one.ended_s - one.intended_s for one in rows) / max(1e-3, end - begin))


def figures_of(
    point: PointPlan,
    result: PointResult,
    slo: Slo,
    floor: Floor | None,
    *,
    calibration_failed: bool = False,
) -> dict[str, Any]:
    """A point's entry in the summary."""
    sides: dict[str, Any] = {}
    found: list[str] = []
    short: list[str] = []
    client_bound = False
    rows = [one for one in result.records if not one.warmup]
    wanted = sent = None
    if isinstance(point.schedule, OpenLoop) and len(point.schedule.starts_s) > 1:
        wanted = point.schedule.rate
        times = sorted(one.sent_s for one in rows)
        span = times[-1] - times[0] if times else 0.0
        sent = (len(times) - 1) / span if span > 0 else None
    for number, to in enumerate(point.targets):
        name = "ab"[number]
        own = [one for one in rows if one.target == name]
        figures = summarise(own, slo)
        figures["model"], figures["url"] = to.model, to.name
        sides[name] = figures
        short += short_answers(own, point.workload)
        client_bound |= bool(
            of_the_client(figures, result.workers, wanted_rate=wanted, sent_rate=sent)
        )
        for problem in problems(
            figures,
            result.workers,
            wanted_rate=wanted,
            sent_rate=sent,
            floor=floor,
            calibration_failed=calibration_failed,
            open_loop=point.label.startswith("rate="),
            cache_intended=bool(point.workload.shared_prefix) or not point.workload.nonce,
        ):
            if problem not in found:
                found.append(problem)
    entry: dict[str, Any] = {
        "point": point.label,
        "concurrency": point.users or None,
        "rate": rate_of(point.label) if point.label.startswith("rate=") else wanted,
        "client_processes": point.workers,
        "workers": [asdict(one) for one in result.workers],
        "targets": sides,
        "floor": asdict(floor) if floor is not None else None,
        "ended_early": result.ended_early,
        "valid": not found and not result.ended_early,
        "client_bound": client_bound,
        "problems": found,
        "warnings": guessed_tokens(sides) + short,
    }
    if len(point.targets) == 2:
        entry["paired"] = paired(rows)
    return entry


def salt() -> str:
    """Differs from run to run."""
    return f"{time.time_ns():x}"
