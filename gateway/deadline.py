"""A time limit that is moved with each piece that comes, and nearly never reached."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Deadline:
    """One timer of the event loop, which finds out when it goes off whether its time has been
    moved: that costs less than a timer for each wait."""

    __slots__ = ("_late", "_loop", "_timer", "_timer_at", "at")

    def __init__(self, loop: asyncio.AbstractEventLoop, late: Callable[[], None]) -> None:
        """``late`` is called once each time that the deadline is reached."""
        self._loop = loop
        self._late: Callable[[], None] | None = late
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self.at = 0.0
        """When it is (the loop's clock); 0: nothing is waited for. May be moved on as it is; after
        it was 0, or to make it earlier, :meth:`keep` has to follow."""

    def within(self, seconds: float) -> None:
        """Something has to come within so many seconds from now."""
        self.at = self._loop.time() + seconds
        self.keep()

    def keep(self) -> None:
        """Have :attr:`at` heeded."""
        if self._timer is not None and self._timer_at <= self.at:
            return
        self._stop()
        self._timer_at = self.at
        self._timer = self._loop.call_at(self.at, self._look)

    def off(self) -> None:
        """Nothing is waited for; the timer finds that out by itself."""
        self.at = 0.0

    def cancel(self) -> None:
        """Nothing will be waited for any more; what called for it is not referred to any longer."""
        self.at, self._late = 0.0, None
        self._stop()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self.at == 0.0:
            return
        if self.at - self._loop.time() > 0.001:  # timers count milliseconds
            self.keep()
            return
        self.at = 0.0
        if self._late is not None:
            self._late()
