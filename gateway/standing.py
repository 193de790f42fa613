"""Why a known model is not up: its launches' states, in one sentence for the client."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence

from modeltainer.registry.records import Endpoint, State
from modeltainer.view import Row

CACHE_S = 5.0
"""Slurm is asked at most this often on behalf of clients."""
ANSWER_WITHIN_S = 3.0
"""A controller that is slower than this does not hold the client's answer up."""

_ON_THE_WAY = (State.LOADING, State.PULLING, State.STARTING, State.QUEUED, State.SUBMITTED)
_WAITING = (State.QUEUED, State.SUBMITTED)


class Standing:
    """The launches as the scheduler and the registry show them, asked for rarely."""

    def __init__(self, list_rows: Callable[[], Sequence[Row]]) -> None:
        """``list_rows`` is called in a thread and may raise."""
        self._list_rows = list_rows
        self._rows: tuple[Row, ...] = ()
        self._asked_at: float | None = None
        self._seen_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None
        self.problem = ""
        """Why the last look failed; empty when it did not."""

    @property
    def known(self) -> tuple[Row, ...]:
        """The launches as last seen."""
        return self._rows

    def seen_within(self, seconds: float) -> tuple[Row, ...]:
        """The launches as last seen; none when that is longer ago."""
        return self._rows if time.monotonic() - self._seen_at <= seconds else ()

    def refresh(self) -> None:
        """Begin a new look when the last is old; nobody waits for it."""
        now = time.monotonic()
        if self._asking is None and (self._asked_at is None or now - self._asked_at > CACHE_S):
            self._asking = asyncio.create_task(self._ask())

    async def rows(self) -> tuple[Row, ...]:
        """The launches, a few seconds old at most, or as last known when no answer comes."""
        self.refresh()
        if self._asking is not None:
            await asyncio.wait({self._asking}, timeout=ANSWER_WITHIN_S)
        return self._rows

    async def _ask(self) -> None:
        asked_at = time.monotonic()
        try:
            self._rows = tuple(await asyncio.to_thread(self._list_rows))
            self._seen_at = asked_at
            self.problem = ""
        except Exception as error:  # whatever is wrong there must not fail the client's request
            self.problem = f"{type(error).__name__}: {error}"
        finally:
            self._asked_at = time.monotonic()
            self._asking = None


def progress(model: str, rows: Sequence[Row], seen: Sequence[Endpoint]) -> str:
    """How far a model that is not ready has come, in one word; of several launches the furthest.

    Args:
        seen: what agents say of themselves, which is newer than ``rows``.
    """
    states = {row.state for row in rows if row.model == model}
    states |= {one.state for one in seen if one.model == model}
    return next((one.value for one in (*_ON_THE_WAY, State.DRAINING) if one in states), "not-ready")


def explain(model: str, rows: Sequence[Row], now_unix: float) -> tuple[str, int]:
    """What to tell a client that asks for a model which is known but not up.

    Returns:
        The message, and after how many seconds to try again.
    """
    launches = [row for row in rows if row.model == model]
    for state in _ON_THE_WAY:
        here = [row for row in launches if row.state is state]
        if here:
            row = min(here, key=lambda one: one.start_estimate_unix or float("inf"))
            return _under_way(model, row, now_unix)
    if any(row.state is State.READY for row in launches):
        return f"{model} is up, but its engine cannot be reached at the moment", 5
    if any(row.state is State.DRAINING for row in launches):
        return f"{model} is being stopped; start it again with: mt-submit up {model}", 30
    failed = next((row for row in launches if row.failed), None)
    if failed is not None and failed.cause is not None:
        return f"{model} is not running: its last start failed ({failed.cause.message})", 60
    return f"{model} is not running; start it with: mt-submit up {model}", 60


def starts_in(model: str, rows: Sequence[Row], now_unix: float) -> float | None:
    """Seconds until the first of a model's jobs is estimated to start; None where one has, none has
    an estimate, or it has passed."""
    here = [row for row in rows if row.model == model and row.state in _ON_THE_WAY]
    if any(row.state not in _WAITING for row in here):
        return None
    found = [row.start_estimate_unix for row in here if row.start_estimate_unix is not None]
    left = min(found, default=0.0) - now_unix
    return left if left > 0 else None


def _under_way(model: str, row: Row, now_unix: float) -> tuple[str, int]:
    if row.state in _WAITING:
        where = f" on partition {row.partition}" if row.partition else ""
        reason = f" ({row.reason})" if row.reason else ""
        verb = "queued" if row.state is State.QUEUED else "submitted"
        message = f"{model} is {verb}{where}{reason}"
        if row.start_estimate_unix is None:
            return message, 30
        left = max(0.0, row.start_estimate_unix - now_unix)
        return f"{message}, estimated start in {_span(left)}", min(300, max(10, math.ceil(left)))
    node = f" on {row.node}" if row.node else ""
    doing = {
        State.STARTING: "starting",
        State.PULLING: "fetching its files",
        State.LOADING: "loading its weights",
    }[row.state]
    return f"{model} is {doing}{node}", 10


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{round(minutes / 60)} h"
