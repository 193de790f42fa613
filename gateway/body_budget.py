"""How much of request bodies is in memory at once: a hundred large ones must not be the end."""

from __future__ import annotations

import asyncio
from collections import deque

SMALL = 1024 * 1024
"""Bodies of up to so many bytes are not counted: they are what a connection may cost anyway."""


class BodyBudget:
    """Bytes that may be held; those who ask for more wait, first come first served."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int, timeout_s: float) -> None:
        """Hold ``size`` bytes, to be given back with :meth:`give`.

        Raises:
            asyncio.TimeoutError: there is no room in time.
        """
        if not self._waiting and size <= self._left:
            self._left -= size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await asyncio.wait_for(turn, timeout_s)
        except BaseException:
            if turn.done() and not turn.cancelled():
                self._left += size  # it was granted just as we gave up
            else:
                self._waiting = deque(one for one in self._waiting if one[1] is not turn)
            self._grant()
            raise

    def give(self, size: int) -> None:
        """Give back what was taken."""
        self._left += size
        self._grant()

    def _grant(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._left:
            size, turn = self._waiting.popleft()
            if not turn.done():
                self._left -= size
                turn.set_result(None)
