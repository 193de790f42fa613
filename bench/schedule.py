"""When requests start: fixed before the run, from a seed, in seconds from the run's beginning.

Open loops give absolute times. A loop of ``sleep(interval)`` would drift by its own lateness, and
one that waits for answers would ask less of a slow server (coordinated omission).
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path


class ScheduleError(ValueError):
    """A schedule or trace cannot be used; the message says why."""


@dataclass(frozen=True)
class ClosedLoop:
    """So many users; each asks again when it has its answer."""

    concurrency: int


@dataclass(frozen=True)
class OpenLoop:
    """Requests start at these times, whatever the server does."""

    starts_s: tuple[float, ...]
    label: str = "open"

    @property
    def rate(self) -> float:
        """Requests per second asked for; 0 for a single request."""
        span = self.starts_s[-1] - self.starts_s[0] if self.starts_s else 0.0
        return (len(self.starts_s) - 1) / span if span > 0 else 0.0


Schedule = ClosedLoop | OpenLoop


def constant(rate: float, count: int) -> OpenLoop:
    """``count`` requests, ``1 / rate`` seconds apart."""
    return OpenLoop(tuple(number / rate for number in range(count)), "constant")


def poisson(rate: float, count: int, seed: int) -> OpenLoop:
    """``count`` requests with exponential gaps of mean ``1 / rate`` seconds."""
    draw = random.Random(seed)  # noqa: S311 -- repeatable, not secret
    gaps = (draw.expovariate(rate) for _ in range(count))
    return OpenLoop(tuple(accumulate(gaps)), "poisson")


@dataclass(frozen=True)
class TraceRow:
    """One request of a trace."""

    start_s: float
    prompt_tokens: int | None = None
    output_tokens: int | None = None


def read_trace(path: Path) -> list[TraceRow]:
    """A trace in Mooncake's form: a JSON object a line, ``timestamp`` in milliseconds,
    ``input_length`` and ``output_length`` in tokens (both may be missing). The first request
    starts at 0.

    Raises:
        ScheduleError: a line is no such object; it is named.
        OSError: the file cannot be read.
    """
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            start_s = float(fields["timestamp"]) / 1000
            lengths = [fields.get(name) for name in ("input_length", "output_length")]
            prompt, output = (None if length is None else int(length) for length in lengths)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ScheduleError(
                f"{path}, line {number}: not a request of a trace: {error}"
            ) from None
        rows.append(TraceRow(start_s, prompt, output))
    if not rows:
        raise ScheduleError(f"{path} has no requests")
    rows.sort(key=lambda row: row.start_s)
    first = rows[0].start_s
    return [TraceRow(row.start_s - first, row.prompt_tokens, row.output_tokens) for row in rows]


def replay(rows: list[TraceRow], speed: float = 1.0) -> OpenLoop:
    """The trace's own times, ``speed`` times as fast."""
    return OpenLoop(tuple(row.start_s / speed for row in rows), "trace")


def share(schedule: Schedule, worker: int, workers: int) -> Schedule:
    """The part of one of several client processes: every ``workers``-th request or user."""
    if isinstance(schedule, OpenLoop):
        return OpenLoop(schedule.starts_s[worker::workers], schedule.label)
    whole, rest = divmod(schedule.concurrency, workers)
    return ClosedLoop(whole + (worker < rest))
