"""Whether a point measured the server, or the client itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MAX_CPU = 0.85
"""Of one core, of the busiest worker."""
MAX_LAG_SHARE = 0.05
"""Of the median TTFT: send lag and the harness's own floor above it falsify it."""
MIN_LAG_S = 0.005
"""Below this a lag is never held against a run."""
MIN_RATE_SHARE = 0.95
MAX_CACHED_SHARE = 0.25
"""Of the prompt tokens; a chat template's own few are always there."""


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
    floor_s: float | None,
    cache_intended: bool = False,
) -> list[str]:
    """Why a point is not valid, in words; none when it is.

    Args:
        summary: of :func:`modeltainer.bench.metrics.summarise`.
        wanted_rate, sent_rate: requests per second of an open loop.
        floor_s: the harness's own error of TTFT at this load, from a calibration.
        cache_intended: prompts share a prefix on purpose.
    """
    found = []
    base = summary["ttft_s"].get("p50") or summary["e2e_s"].get("p50") or 0.0
    limit = max(MIN_LAG_S, MAX_LAG_SHARE * base)
    busiest = max((one.cpu_share for one in workers), default=0.0)
    if busiest > MAX_CPU:
        found.append(
            f"a client process used {busiest:.0%} of a core: more --workers or a quieter machine"
        )
    lag = summary["send_lag_s"]
    worst = next((lag[name] for name in ("p99", "p95", "p90", "max") if lag.get(name)), 0.0)
    if worst > limit:
        found.append(
            f"requests left up to {worst * 1000:.1f} ms late (limit {limit * 1000:.1f} ms)"
        )
    late = max((one.loop_lag_s for one in workers), default=0.0)
    if late > limit:
        found.append(f"the client's loop was {late * 1000:.1f} ms late")
    if wanted_rate and sent_rate is not None and sent_rate < MIN_RATE_SHARE * wanted_rate:
        found.append(f"{sent_rate:.2f} requests/s were sent of {wanted_rate:.2f} asked for")
    if floor_s is not None and floor_s > limit:
        found.append(
            f"the harness itself is {floor_s * 1000:.1f} ms off at this load "
            f"(limit {limit * 1000:.1f} ms)"
        )
    if summary["cached_share"] > MAX_CACHED_SHARE and not cache_intended:
        found.append(
            f"{summary['cached_share']:.0%} of the prompt tokens came from the prefix cache"
        )
    return found
