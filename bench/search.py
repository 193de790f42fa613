"""The highest rate that a server carries within its objectives, by doubling, then halving."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass
class RateSearch:
    """Give it each point's outcome; it gives the next rate, or None when it knows enough.

    Rates are tried upwards by doubling until one fails, then between the best and the worst in
    steps of the geometric mean, until they are within ``tolerance`` of each other.
    """

    first: float = 1.0
    """Requests per second of the first point."""
    tolerance: float = 0.1
    max_points: int = 12
    passed: float | None = None
    """Highest rate that met the objectives."""
    failed: float | None = None
    """Lowest rate that did not."""
    tried: list[float] = field(default_factory=list)

    def next_rate(self) -> float | None:
        """Requests per second of the next point."""
        if len(self.tried) >= self.max_points:
            return None
        if self.passed is None and self.failed is None:
            return self.first
        if self.failed is None:
            assert self.passed is not None
            return self.passed * 2
        if self.passed is None:
            return None if self.failed < self.first / 64 else self.failed / 2
        if self.failed / self.passed <= 1 + self.tolerance:
            return None
        return math.sqrt(self.failed * self.passed)

    def take(self, rate: float, met: bool) -> None:
        """The outcome of a point."""
        self.tried.append(rate)
        if met:
            self.passed = rate if self.passed is None else max(rate, self.passed)
        else:
            self.failed = rate if self.failed is None else min(rate, self.failed)
