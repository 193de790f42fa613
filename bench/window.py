"""The steady part of a run, found from how many requests were in flight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from modeltainer.bench.record import Record

PLATEAU = 0.9
"""Steady is where this part of the plateau's requests is in flight."""
MIN_SHARE = 0.3
"""A window with fewer of the requests says too little; then the whole run counts, unsteady."""


@dataclass(frozen=True)
class Window:
    """A span of a run, in seconds from its start."""

    start_s: float
    end_s: float
    steady: bool
    """False: the run has no plateau long enough, and this is all of it."""

    @property
    def length_s(self) -> float:
        """Seconds."""
        return self.end_s - self.start_s

    def has(self, record: Record) -> bool:
        """The request was meant to start in it."""
        return self.start_s <= record.intended_s <= self.end_s


def in_flight(records: Sequence[Record]) -> list[tuple[float, int]]:
    """How many requests are under way from each moment on: (seconds, count), in order.

    A request is under way from its intended start: one that waits in the client waits too.
    """
    changes: dict[float, int] = {}
    for record in records:
        changes[record.intended_s] = changes.get(record.intended_s, 0) + 1
        changes[record.ended_s] = changes.get(record.ended_s, 0) - 1
    series, count = [], 0
    for moment in sorted(changes):
        count += changes[moment]
        series.append((moment, count))
    return series


def steady_window(records: Sequence[Record]) -> Window:
    """Warm-up and tail cut off.

    The plateau is the median over time of the requests in flight in the run's middle half. The
    window begins when that is (nearly) reached and the first answer has been given, and ends when
    it is last there.
    """
    if not records:
        return Window(0.0, 0.0, steady=False)
    series = in_flight(records)
    begin, end = series[0][0], series[-1][0]
    whole = Window(begin, end, steady=False)
    quarter = (end - begin) / 4
    plateau = _median_over_time(series, begin + quarter, end - quarter)
    if plateau <= 0:  # mostly idle: nothing fills up or runs empty, so that all of it counts
        return Window(begin, end, steady=end > begin)
    level = PLATEAU * plateau
    first_answer = min(record.ended_s for record in records)
    at_level = [moment for moment, count in series if count >= level]
    if not at_level:
        return whole
    start = next((moment for moment in at_level if moment >= first_answer), None)
    last = at_level[-1]
    after = next((moment for moment, _ in series if moment > last), last)
    if start is None or after <= start:
        return whole
    window = Window(start, after, steady=True)
    inside = sum(window.has(record) for record in records)
    return window if inside >= MIN_SHARE * len(records) else whole


@dataclass(frozen=True)
class InFlight:
    """Mean number of requests under way, of two thirds of the time in which requests were sent."""

    middle: float
    last: float

    @property
    def growing(self) -> bool:
        """More than chance: arrivals at random vary by about the root of their number."""
        return self.last - self.middle > max(1.0, 2.5 * math.sqrt(self.middle), 0.2 * self.middle)


def towards_the_end(records: Sequence[Record]) -> InFlight:
    """Whether a load piles up."""
    if not records:
        return InFlight(0.0, 0.0)
    begin = min(record.intended_s for record in records)
    end = max(record.intended_s for record in records)
    third = (end - begin) / 3
    if third <= 0:
        return InFlight(0.0, 0.0)
    spans = (begin + third, end - third), (end - third, end)
    middle, last = (
        sum(max(0.0, min(one.ended_s, b) - max(one.intended_s, a)) for one in records) / (b - a)
        for a, b in spans
    )
    return InFlight(middle, last)


def _median_over_time(series: list[tuple[float, int]], start: float, end: float) -> float:
    spans: dict[int, float] = {}
    for (moment, count), (until, _) in pairwise(series):
        length = min(until, end) - max(moment, start)
        if length > 0:
            spans[count] = spans.get(count, 0.0) + length
    half, passed = sum(spans.values()) / 2, 0.0
    for count in sorted(spans):
        passed += spans[count]
        if passed >= half:
            return count
    return 0
