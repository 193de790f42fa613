"""Writes that wait for the end of the event loop's turn, and then go out one after the other.

Each write to a peer that sleeps wakes it, which costs as much as the write. Of several in a row
only the first one does; and what goes to one connection in a turn goes in one write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from weakref import WeakKeyDictionary

_OUTBOXES: WeakKeyDictionary[asyncio.AbstractEventLoop, Outbox] = WeakKeyDictionary()


class Outbox:
    """What is to be written at the end of this turn of one event loop; :func:`outbox` has it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._call_soon = loop.call_soon
        self._waiting: list[Callable[[], None]] = []

    def put(self, write: Callable[[], None]) -> None:
        """Have ``write`` called when this turn is over; it must not raise."""
        if not self._waiting:
            self._call_soon(self._flush)
        self._waiting.append(write)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for write in waiting:
            write()


def outbox(loop: asyncio.AbstractEventLoop) -> Outbox:
    """The one of this loop."""
    found = _OUTBOXES.get(loop)
    if found is None:
        found = _OUTBOXES[loop] = Outbox(loop)
    return found


class JoinedWrites:
    """The part of a transport that an HTTP server's protocol uses; what is written within one turn
    of the loop goes out at its end, in one write."""

    __slots__ = ("_held", "_outbox", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._outbox = transport, outbox(loop)
        self._held = b""

    def write(self, data: bytes) -> None:
        """Send; nothing when the connection is closed already: a pipelined request's bad bytes
        close it while the one before is being answered."""
        if self._held:
            self._held += data
        elif data:
            self._held = data
            self._outbox.put(self._flush)

    def write_now(self, data: bytes) -> None:
        """As :meth:`write`, without waiting: tokens come one by one, and have nothing to gain."""
        if self._held:
            data, self._held = self._held + data, b""
        if not self._transport.is_closing():  # uvloop would raise
            self._transport.write(data)

    def close(self) -> None:
        """Close when all that was written has gone out."""
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Close now; what has not gone out is lost."""
        self._held = b""
        self._transport.abort()

    def is_closing(self) -> bool:
        """It is closed, or about to be."""
        return self._transport.is_closing()

    def _flush(self) -> None:
        if self._held:
            self.write_now(b"")
