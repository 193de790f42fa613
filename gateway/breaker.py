"""A circuit breaker for one endpoint. Pure: time comes in, nothing goes out.

Closed, every request passes. After :data:`FAILURES` failures in a row it opens and nothing passes
until its pause is over; then one request, the probe, may try: its success closes the breaker, its
failure opens it again for twice as long. What counts as a failure is :func:`counts_against`.
"""

from __future__ import annotations

import time
from enum import Enum

FAILURES = 5
"""In a row, until it opens."""
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0


class BreakerState(str, Enum):
    """What it lets through: everything, nothing, one probe."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


def counts_against(status: int) -> bool:
    """Whether an answer's status speaks against its endpoint.

    Only 502, 503 and 504 do: 4xx is the client's fault, and a plain 500 is as a rule this one
    request's (engines answer 500 to a prompt that is too long).
    """
    return status in (502, 503, 504)


class Breaker:
    """The state of one endpoint. Each :meth:`begin` is followed by exactly one of
    :meth:`succeeded`, :meth:`failed` and :meth:`abandoned`."""

    def __init__(self) -> None:
        self._failures = 0
        self._pause_s = FIRST_PAUSE_S
        self._open_until: float | None = None
        self._probing = False

    def state(self, now: float) -> BreakerState:
        """The state at a time (monotonic seconds, as everywhere here)."""
        if self._open_until is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now < self._open_until else BreakerState.HALF_OPEN

    def admits(self, now: float) -> bool:
        """Whether a request may pass."""
        if self._open_until is None:
            return True
        return now >= self._open_until and not self._probing

    def opens_in(self, now: float) -> float:
        """Seconds until a probe may pass; 0 when one may now or everything may."""
        return 0.0 if self._open_until is None else max(0.0, self._open_until - now)

    def begin(self, now: float) -> bool:
        """A request passes that :meth:`admits` has let in; True when it is the probe."""
        if self._open_until is None:
            return False
        self._probing = self._probing or self.state(now) is BreakerState.HALF_OPEN
        return True

    def succeeded(self, probe: bool) -> None:
        """The endpoint has answered. What was sent before it opened changes nothing."""
        if probe:
            self._probing, self._open_until = False, None
            self._pause_s = FIRST_PAUSE_S
        if self._open_until is None:
            self._failures = 0

    def failed(self, now: float, probe: bool) -> None:
        """The endpoint has failed."""
        if probe:
            self._probing = False
            self._pause_s = min(LONGEST_PAUSE_S, self._pause_s * 2)
            self._open_until = now + self._pause_s
        elif self._open_until is None:
            self._failures += 1
            if self._failures >= FAILURES:
                self._open_until = now + self._pause_s

    def abandoned(self, probe: bool) -> None:
        """It ended without a verdict (the client left); another may be the probe."""
        if probe:
            self._probing = False


class Trial:
    """One request's dealings with a breaker: begun at once, judged at most once."""

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker
        self._probe = breaker.begin(time.monotonic())
        self._judged = self._answered = False

    def answered(self, status: int) -> None:
        """The endpoint's answer has begun. The probe's is enough to go by; that of any other counts
        when it is whole."""
        if counts_against(status):
            self.failed()
        elif self._probe and not self._judged:
            self._judged = True
            self._breaker.succeeded(True)
        self._answered = True

    def broke_off(self) -> None:
        """The answer had begun, and did not come to its end."""
        self._judged = True
        self._breaker.failed(time.monotonic(), False)

    def failed(self) -> None:
        """No answer came."""
        if not self._judged:
            self._judged = True
            self._breaker.failed(time.monotonic(), self._probe)

    def end(self) -> None:
        """The request is over, with or without a verdict."""
        if self._judged:
            return
        self._judged = True
        if self._answered:
            self._breaker.succeeded(False)
        else:
            self._breaker.abandoned(self._probe)
