"""Figures out of rows. The formulas, times in seconds:

- TTFT = first token's arrival - intended start
- E2E = last token's arrival - intended start
- TPOT = (last token's arrival - first token's) / (output tokens - tokens in the first chunk)
- chunk gap = arrival of a chunk - arrival of the one before; a chunk may hold several tokens
- tokens/s per user = 1 / TPOT of each request; tokens/s in total = tokens that came within the
  window / its length, a request's tokens behind the first chunk spread evenly up to its last
- requests/s = whole answers in the window / its length; of a request that reaches over an edge, the
  part of its time that lies inside is counted
- goodput = requests that came whole and met every objective / all of them, failures included
- send lag = sent - intended start
- cached share = prompt tokens from a prefix cache / prompt tokens; unknown where no answer says how
  many were, for many servers never count them

Output tokens are those of the server's usage; ``token_source`` says where they are a guess. An
answer that was not streamed has no TTFT and no TPOT. Failures have no latencies: they are counted,
and are misses of the goodput.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from modeltainer.bench.record import Record
from modeltainer.bench.window import Window, steady_window, towards_the_end

MIN_SAMPLES = {50: 1, 90: 50, 95: 100, 99: 500}
"""Below these a percentile is not given: it would be one or two requests' luck."""
DRAWS = 1000


def ttft(record: Record) -> float | None:
    """Time to the first token; seconds. None where the answer was not streamed."""
    if not record.ok or not record.streamed or record.first_token_s is None:
        return None
    return record.first_token_s - record.intended_s


def e2e(record: Record) -> float | None:
    """Time to the last token; seconds."""
    if not record.ok:
        return None
    last = record.last_token_s if record.last_token_s is not None else record.ended_s
    return last - record.intended_s


def tpot(record: Record) -> float | None:
    """Time per output token behind the first chunk; seconds."""
    if not record.ok or record.first_token_s is None or record.last_token_s is None:
        return None
    behind = (record.output_tokens or 0) - (record.first_chunk_tokens or 1)
    if behind < 1 or record.chunks < 2:
        return None
    return (record.last_token_s - record.first_token_s) / behind


def send_lag(record: Record) -> float:
    """How late the client was; seconds."""
    return record.sent_s - record.intended_s


def chunk_gaps(record: Record) -> list[float]:
    """Between arrivals of chunks; seconds."""
    return [gap / 1e6 for gap in record.chunk_gaps_us] if record.ok else []


@dataclass(frozen=True)
class Slo:
    """Objectives of one request; None is no objective. Seconds."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None

    def met(self, record: Record) -> bool:
        """The answer came whole, and in time in every respect."""
        if not record.ok:
            return False
        measured = ((self.ttft_s, ttft), (self.e2e_s, e2e))
        for limit, value_of in measured:
            if limit is not None:
                value = value_of(record)
                if value is None or value > limit:
                    return False
        if self.tpot_s is not None:
            value = tpot(record)
            if value is None:
                return (record.output_tokens or 0) <= (record.first_chunk_tokens or 1)
            return value <= self.tpot_s
        return True


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Of values in order, between neighbours linearly (numpy's default)."""
    position = (len(ordered) - 1) * percent / 100
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def median_of(values: Sequence[float]) -> float:
    """The median, of values in any order."""
    return percentile(sorted(values), 50)


def median_interval(
    values: Sequence[float], *, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float] | None:
    """Interval of the median by the percentile bootstrap; None below 5 values.

    No resample is made: where n values are drawn from n, with replacement, their median is the
    value at the median of n uniform numbers, and that has the distribution
    Beta((n + 1) / 2, (n + 1) / 2); near enough for an even n, whose median lies between two.
    """
    count = len(values)
    if count < 5:
        return None
    ordered = sorted(values)
    half = (count + 1) / 2
    draw = random.Random(seed).betavariate  # noqa: S311 -- repeatable, not secret
    places = sorted(draw(half, half) for _ in range(DRAWS))
    found = [ordered[min(int(place * count), count - 1)] for place in places]
    tail = (1 - confidence) / 2 * 100
    return percentile(found, tail), percentile(found, 100 - tail)


def distribution(values: Sequence[float], *, intervals: bool = True) -> dict[str, Any]:
    """Count, mean, smallest, largest, and those percentiles for which there are enough samples."""
    ordered = sorted(values)
    if not ordered:
        return {"count": 0}
    summary: dict[str, Any] = {
        "count": len(ordered),
        "mean": sum(ordered) / len(ordered),
        "min": ordered[0],
        "max": ordered[-1],
    }
    for percent, least in MIN_SAMPLES.items():
        enough = len(ordered) >= least
        summary[f"p{percent}"] = percentile(ordered, percent) if enough else None
    if intervals:
        summary["p50_interval"] = median_interval(ordered)
    return summary


def share_within(record: Record, window: Window) -> float:
    """Which part of a request's time lies within a window."""
    took = record.ended_s - record.intended_s
    inside = min(record.ended_s, window.end_s) - max(record.intended_s, window.start_s)
    return max(0.0, inside) / took if took > 0 else 0.0


def tokens_within(record: Record, window: Window) -> float:
    """How many of a request's output tokens came within a window."""
    first, last, tokens = record.first_token_s, record.last_token_s, record.output_tokens
    if first is None or last is None or not tokens:
        return 0.0
    at_first = min(tokens, record.first_chunk_tokens or 1)
    if last <= first:
        return float(tokens) if window.start_s <= first < window.end_s else 0.0
    inside = max(0.0, min(last, window.end_s) - max(first, window.start_s))
    counted = (tokens - at_first) * inside / (last - first)
    return counted + (at_first if window.start_s <= first < window.end_s else 0)


def summarise(records: Sequence[Record], slo: Slo) -> dict[str, Any]:
    """All figures of one point and one target, over its steady window."""
    measured = [record for record in records if not record.warmup]
    window = steady_window(measured)
    counted = [record for record in measured if window.has(record)]
    summary = _figures(measured, counted, window, slo)
    whole = Window(
        min((one.intended_s for one in measured), default=0.0),
        max((one.ended_s for one in measured), default=0.0),
        steady=False,
    )
    summary["uncut"] = {
        name: value
        for name, value in _figures(measured, measured, whole, slo, intervals=False).items()
        if name in {"requests_per_s", "output_tokens_per_s", "ttft_s", "tpot_s", "e2e_s", "goodput"}
    }
    return summary


def _figures(
    measured: Sequence[Record],
    counted: Sequence[Record],
    window: Window,
    slo: Slo,
    *,
    intervals: bool = True,
) -> dict[str, Any]:
    length = window.length_s or math.inf
    under_way = towards_the_end(measured)
    met = sum(slo.met(record) for record in counted)
    finished = sum(share_within(one, window) for one in measured if one.ok)
    good = sum(share_within(one, window) for one in measured if slo.met(one))
    per_token = [value for one in counted if (value := tpot(one)) is not None]

    def over(value_of: Callable[[Record], float | None]) -> dict[str, Any]:
        values = [value for one in counted if (value := value_of(one)) is not None]
        return distribution(values, intervals=intervals)

    return {
        "requests": len(counted),
        "requests_measured": len(measured),
        "failed": sum(not one.ok for one in counted),
        "failed_measured": sum(not one.ok for one in measured),
        "failures": dict(Counter(one.failure for one in counted if not one.ok)),
        "window": {"start_s": window.start_s, "end_s": window.end_s, "steady": window.steady},
        "in_flight": {
            "middle": under_way.middle,
            "last": under_way.last,
            "growing": under_way.growing,
        },
        "requests_per_s": finished / length,
        "output_tokens_per_s": sum(tokens_within(one, window) for one in measured if one.ok)
        / length,
        "ttft_s": over(ttft),
        "tpot_s": distribution(per_token, intervals=intervals),
        "tokens_per_s_per_user": distribution(
            [1 / value for value in per_token if value > 0], intervals=intervals
        ),
        "e2e_s": over(e2e),
        "chunk_gap_s": distribution(
            [gap for one in counted for gap in chunk_gaps(one)], intervals=False
        ),
        "send_lag_s": distribution([send_lag(one) for one in counted], intervals=False),
        "goodput": {
            "met": met,
            "fraction": met / len(counted) if counted else 0.0,
            "requests_per_s": good / length,
        },
        "prompt_tokens_mean": _mean([one.prompt_tokens for one in counted if one.ok]),
        "output_tokens_mean": _mean([one.output_tokens for one in counted if one.ok]),
        "cached_share": cached_share(counted),
        "token_sources": dict(Counter(one.token_source for one in counted if one.ok)),
    }


def cached_share(records: Sequence[Record]) -> float | None:
    """Part of the prompt tokens that came from a prefix cache; None where no answer says so."""
    whole = [one for one in records if one.ok]
    if all(one.cached_tokens is None for one in whole):
        return None
    # vLLM counts them only where there are some: beside such an answer one without has none.
    cached = sum(one.cached_tokens or 0 for one in whole)
    prompt = sum(one.prompt_tokens or 0 for one in whole)
    return cached / prompt if prompt else None


def _mean(values: Sequence[int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def paired(records: Sequence[Record]) -> dict[str, Any]:
    """Differences b - a of the pairs of an A/B run, with intervals of their medians."""
    sides: dict[str, dict[int, Record]] = {"a": {}, "b": {}}
    for record in records:
        if not record.warmup:
            sides[record.target][record.index] = record
    both = sorted(sides["a"].keys() & sides["b"].keys())
    differences: dict[str, Any] = {"pairs": len(both)}
    for name, value_of in (("ttft_s", ttft), ("tpot_s", tpot), ("e2e_s", e2e)):
        pairs = [(value_of(sides["a"][index]), value_of(sides["b"][index])) for index in both]
        apart = [b - a for a, b in pairs if a is not None and b is not None]
        if apart:
            differences[name] = {
                "count": len(apart),
                "median": median_of(apart),
                "interval": median_interval(apart),
            }
    return differences
