"""What launches teach: how long starts take, why they fail, what they cost. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from modeltainer.reconcile.replica import Phase, Replica
from modeltainer.registry.days import by_day, day_of
from modeltainer.registry.deployments import History
from modeltainer.registry.records import Cause

SAMPLES = 5
REMEMBERED = 512
"""Launch ids; more than can be ended and not yet forgotten."""
DAYS = 8
STABLE_S = 120.0
"""A launch that served so long was no failed start."""


def learn(history: History, replicas: Iterable[Replica], now_unix: float) -> History:
    """What is known after a look at a model's launches. Seeing a launch twice teaches nothing."""
    for one in replicas:
        if one.phase is Phase.READY:
            history = _measure(history, one)
        elif one.phase is Phase.ENDED and one.launch_id not in history.counted:
            history = _count(history, one, now_unix)
    return history


def failed(history: History, cause: Cause, now_unix: float) -> History:
    """One more failure in a row."""
    return replace(
        history,
        failures=history.failures + 1,
        cause_code=cause.code,
        cause=cause.message,
        failed_unix=now_unix,
    )


def forgiven(history: History) -> History:
    """No failures any more."""
    return replace(history, failures=0, cause_code="", cause="")


def _measure(history: History, one: Replica) -> History:
    # One that served before the failure says nothing of how starts go now.
    tried_since = one.submitted_unix >= history.failed_unix
    if history.failures and tried_since and one.serving_s >= STABLE_S:
        history = forgiven(history)
    if one.launch_id in history.measured or one.load_s is None:
        return history
    return replace(
        history,
        load_s=(*history.load_s, one.load_s)[-SAMPLES:],
        queue_s=(*history.queue_s, one.queue_s or 0.0)[-SAMPLES:],
        start=one.start,
        measured=(*history.measured, one.launch_id)[-REMEMBERED:],
    )


def _count(history: History, one: Replica, now_unix: float) -> History:
    history = replace(
        history,
        counted=(*history.counted, one.launch_id)[-REMEMBERED:],
        gpu_seconds=_charged(history.gpu_seconds, one, now_unix),
    )
    if one.on_demand:
        shared = _charged(history.on_demand_gpu_seconds, one, now_unix)
        history = replace(history, on_demand_gpu_seconds=shared)
    cause = _failure(one)
    # Launches of one wave fail together: only one that was tried after the last failure counts.
    if cause is None or (history.failures and one.submitted_unix < history.failed_unix):
        return history
    if one.serving_s >= STABLE_S:
        history = forgiven(history)
    return failed(history, cause, now_unix)


_PREEMPTION = frozenset({"stopped", "preempted", "job-gone"})
"""What a preempted job's end may look like. It is what spare replicas are for, and no failure."""


def _failure(one: Replica) -> Cause | None:
    if one.cause is None or one.asked:
        return None
    if one.spare and one.cause.code in _PREEMPTION:
        return None
    if one.cause.code == "stopped":
        return Cause("cancelled", "its job was cancelled, and not by mt-submit")
    return one.cause if one.cause.failed else None


def _charged(known: dict[str, float], one: Replica, now_unix: float) -> dict[str, float]:
    if not one.gpus or one.running_s <= 0:
        return known
    charged = dict(known)
    for day, seconds in _run_by_day(one, now_unix).items():
        charged[day] = charged.get(day, 0.0) + seconds * one.gpus
    return dict(sorted(charged.items())[-DAYS:])


def _run_by_day(one: Replica, now_unix: float) -> dict[str, float]:
    """Seconds that it has run, by day."""
    ended = now_unix - one.ended_s
    return by_day(ended - one.running_s, ended)


def gpu_seconds_today(
    history: History, replicas: Iterable[Replica], now_unix: float, *, on_demand: bool = False
) -> float:
    """GPU seconds used on this day by launches that have ended and those that run; only of those
    on demand where it says so."""
    today = day_of(now_unix)
    ended = history.on_demand_gpu_seconds if on_demand else history.gpu_seconds
    used = ended.get(today, 0.0)
    for one in replicas:
        counts = one.on_demand or not on_demand
        if counts and one.gpus and one.launch_id not in history.counted:
            used += _run_by_day(one, now_unix).get(today, 0.0) * one.gpus
    return used
