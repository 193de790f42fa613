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
    client_failed: set[float] = field(default_factory=set)
    """Rates at which the client was the bottleneck, twice."""
    _again: float | None = None

    def next_rate(self) -> float | None:
        """Requests per second of the next point."""
        if len(self.tried) >= self.max_points:
            return None
        if self._again is not None:
            return self._again
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

    def take(self, rate: float, met: bool, *, client_bound: bool = False) -> None:
        """The outcome of a point.

        Args:
            client_bound: the client was the bottleneck. The rate is tried once more, for a moment's
                hiccup must not end the search far below the limit; then it is not carried.
        """
        self._again = rate if client_bound and rate not in self.tried else None
        self.tried.append(rate)
        if self._again is not None:
            return
        if client_bound:
            self.client_failed.add(rate)
        if met and not client_bound:
            self.passed = rate if self.passed is None else max(rate, self.passed)
        else:
            self.failed = rate if self.failed is None else min(rate, self.failed)

    def outcome(self) -> str:
        """What the search has found, in words that claim no more."""
        if self.passed is None:
            if not self.tried:
                return "no rate was tried to its end"
            return (
                f"no rate was carried within the objectives, down to {min(self.tried):g} requests/s"
            )
        if self.failed is None or self.failed / self.passed > 1 + self.tolerance:
            found = f"at least {self.passed:g} requests/s are carried within the objectives"
            below = "" if self.failed is None else f", {self.failed:g} are not"
            found += f"{below}; the search ended after {len(self.tried)} points, before the limit"
        else:
            found = f"highest rate within the objectives: {self.passed:g} requests/s"
        if self.failed in self.client_failed:
            found += f"; at {self.failed:g} the client was the bottleneck, not the server"
        return found
