"""How much of request bodies is in memory at once: a hundred large ones must not be the end."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import dataclass

SMALL = 1024 * 1024
"""Bodies of up to so many bytes are not counted: they are what a connection may cost anyway."""


@dataclass(frozen=True, eq=False, slots=True)
class _Waiting:
    key: str
    size: int
    turn: asyncio.Future[None]


class BodyBudget:
    """Bytes that may be held; those who ask for more wait, first come first served. But a key that
    holds some already leaves ``spare`` bytes to the others, and may be overtaken by them."""

    def __init__(self, limit: int, spare: int = 0) -> None:
        self._left, self._spare = limit, spare
        self._held: Counter[str] = Counter()
        self._waiting: deque[_Waiting] = deque()

    async def take(self, key: str, size: int, timeout_s: float) -> None:
        """Hold ``size`` bytes, to be given back with :meth:`give`.

        Raises:
            asyncio.TimeoutError: there is no room in time.
        """
        one = _Waiting(key, size, asyncio.get_running_loop().create_future())
        self._waiting.append(one)
        self._grant()
        if one.turn.done():
            return
        try:
            await asyncio.wait_for(one.turn, timeout_s)
        except BaseException:
            if one in self._waiting:
                self._waiting.remove(one)
                self._grant()
            else:
                self.give(key, size)  # it was granted just as we gave up
            raise

    def give(self, key: str, size: int) -> None:
        """Give back what was taken."""
        self._left += size
        self._held[key] -= size
        if not self._held[key]:
            del self._held[key]
        self._grant()

    def _grant(self) -> None:
        full: set[str] = set()
        for one in list(self._waiting):
            if one.key in full or one.turn.done():  # done: it has given up, and is about to go
                continue
            if one.key in self._held and one.size > self._left - self._spare:
                full.add(one.key)
                continue
            if one.size > self._left:
                return
            self._waiting.remove(one)
            self._left -= one.size
            self._held[one.key] += one.size
            one.turn.set_result(None)
