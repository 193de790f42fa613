"""Whether a point measured the server, or the client itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modeltainer.bench.calibrate import Floor
    from modeltainer.bench.record import Record
    from modeltainer.bench.workload import Workload

MAX_CPU = 0.85
"""Of one core, of the busiest worker."""
MAX_LAG_SHARE = 0.05
"""Of the median TTFT: send lag and the harness's own floor above it falsify it."""
MIN_LAG_S = 0.005
"""Below this a lag is never held against a run."""
MIN_TPOT_ERROR_S = 0.001
"""Below this the harness's own error of TPOT is never held against a run."""
MIN_RATE_SHARE = 0.95
MAX_FAILED_SHARE = 0.05
"""Of the requests: beyond it the latencies are those of the lucky ones only."""
MAX_CACHED_SHARE = 0.25
"""Of the prompt tokens; a chat template's own few are always there."""

MIN_OUTPUT_SHARE = 0.95
"""Of the output tokens asked for: below it the answers are called short."""
_SETS_LENGTH = frozenset({"max_tokens", "max_completion_tokens", "ignore_eos"})
"""Fields of ``--body`` after which nobody knows here how long an answer is to be."""


@dataclass(frozen=True)
class WorkerStats:
    """What one client process says of itself."""

    worker: int
    cpu_share: float
    """CPU seconds / wall seconds."""
    loop_lag_s: float
    """95th percentile of how late its loop was."""


def problems(
    summary: dict[str, Any],
    workers: list[WorkerStats],
    *,
    wanted_rate: float | None,
    sent_rate: float | None,
    floor: Floor | None,
    calibration_failed: bool = False,
    open_loop: bool = False,
    cache_intended: bool = False,
) -> list[str]:
    """Why a point is not valid, in words; none when it is.

    Args:
        summary: of :func:`modeltainer.bench.metrics.summarise`.
        wanted_rate, sent_rate: requests per second of an open loop.
        floor: the harness's own error at this load, from a calibration.
        calibration_failed: there was to be a floor, and there is none.
        open_loop: requests came at a rate that is to be carried, not as a trace has them.
        cache_intended: prompts share a prefix on purpose.
    """
    found = _of_the_answers(summary, cache_intended)
    found += of_the_client(summary, workers, wanted_rate=wanted_rate, sent_rate=sent_rate)
    if open_loop:
        found += _of_the_load(summary)
    if calibration_failed:
        found.append("the calibration failed: the harness's own error is not known")
    if floor is not None:
        found += _of_the_harness(summary, floor)
    return found


def _lag_limit_s(summary: dict[str, Any]) -> float:
    base = summary["ttft_s"].get("p50") or summary["e2e_s"].get("p50") or 0.0
    return max(MIN_LAG_S, MAX_LAG_SHARE * base)


def _of_the_answers(summary: dict[str, Any], cache_intended: bool) -> list[str]:
    found = []
    asked, failed = summary["requests_measured"], summary["failed_measured"]
    if not asked:
        found.append("no request was measured")
    elif failed > MAX_FAILED_SHARE * asked:
        found.append(f"{failed} of {asked} requests failed")
    cached = summary["cached_share"]  # None: not known, so not held against the point
    if cached is not None and cached > MAX_CACHED_SHARE and not cache_intended:
        found.append(f"{cached:.0%} of the prompt tokens came from the prefix cache")
    return found


def of_the_client(
    summary: dict[str, Any],
    workers: list[WorkerStats],
    *,
    wanted_rate: float | None,
    sent_rate: float | None,
) -> list[str]:
    """Those of :func:`problems` that say that the client was the bottleneck."""
    found = []
    limit = _lag_limit_s(summary)
    busiest = max((one.cpu_share for one in workers), default=0.0)
    if busiest > MAX_CPU:
        found.append(
            f"a client process used {busiest:.0%} of a core: more --workers or a quieter machine"
        )
    lag = summary["send_lag_s"]
    worst = next(
        (lag[name] for name in ("p99", "p95", "p90", "max") if lag.get(name) is not None), 0.0
    )
    if worst > limit:
        found.append(
            f"requests left up to {worst * 1000:.1f} ms late (limit {limit * 1000:.1f} ms)"
        )
    late = max((one.loop_lag_s for one in workers), default=0.0)
    if late > limit:
        found.append(f"the client's loop was {late * 1000:.1f} ms late")
    if wanted_rate and sent_rate is not None and sent_rate < MIN_RATE_SHARE * wanted_rate:
        found.append(f"{sent_rate:.2f} requests/s were sent of {wanted_rate:.2f} asked for")
    return found


def _of_the_load(summary: dict[str, Any]) -> list[str]:
    under_way = summary["in_flight"]
    if under_way["growing"]:
        return [
            "requests came faster than they were answered: "
            f"{under_way['middle']:.1f} in flight in the middle, "
            f"{under_way['last']:.1f} towards the end"
        ]
    if not summary["window"]["steady"]:
        return ["the load never got steady: give it a longer --duration"]
    return []


def _of_the_harness(summary: dict[str, Any], floor: Floor) -> list[str]:
    limit = _lag_limit_s(summary)
    per_token = summary["tpot_s"].get("p50") or 0.0
    parts = (
        ("TTFT", floor.ttft_s, limit),
        ("TPOT", floor.tpot_s, max(MIN_TPOT_ERROR_S, MAX_LAG_SHARE * per_token)),
    )
    return [
        f"the harness itself is {off * 1000:.1f} ms off in {name} at this load "
        f"(limit {most * 1000:.1f} ms)"
        for name, off, most in parts
        if off > most
    ]


def short_answers(records: Sequence[Record], workload: Workload) -> list[str]:
    """What to say of one target's answers that ended well before the length asked for, unless that
    was left to the model. The point stays valid: its figures are true, but of less work."""
    wanted = workload.ignore_eos or workload.ignore_eos_refused
    if not wanted or _SETS_LENGTH & workload.extra.keys():
        return []
    whole = [
        (one.output_tokens, workload.output_tokens(one.index))
        for one in records
        # A guess of a token a chunk says nothing of the length.
        if one.ok and not one.warmup and "usage" in one.token_source
        if one.output_tokens is not None
    ]
    given, asked = sum(one for one, _ in whole), sum(one for _, one in whole)
    if not whole or given >= MIN_OUTPUT_SHARE * asked:
        return []
    why = " (the server refuses ignore_eos)" if workload.ignore_eos_refused else ""
    return [
        f"answers of {records[0].model} have {given / len(whole):.1f} tokens on average of the "
        f"{asked / len(whole):.1f} asked for{why}: times and requests/s are of shorter answers"
    ]
