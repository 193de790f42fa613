"""Days as records are counted by: UTC, as ``2026-01-31``."""

from __future__ import annotations

import time

DAY_S = 86400


def day_of(unix: float) -> str:
    """The day (UTC) of a time."""
    return time.strftime("%Y-%m-%d", time.gmtime(unix))


def day_end(unix: float) -> float:
    """When that day is over (seconds since 1970)."""
    return (unix // DAY_S + 1) * DAY_S


def by_day(start_unix: float, end_unix: float) -> dict[str, float]:
    """Seconds of a span, by day."""
    found: dict[str, float] = {}
    while start_unix < end_unix:
        midnight = day_end(start_unix)
        found[day_of(start_unix)] = min(midnight, end_unix) - start_unix
        start_unix = midnight
    return found
