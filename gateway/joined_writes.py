"""One write, and so one packet, for what one step of the program has to say.

uvicorn writes an answer's head and its body's first piece one after the other; each write is a
system call, and wakes the client. What is written during one step of the event loop is sent
together at its end: nothing waits for anything that is not there already.
"""

from __future__ import annotations

import asyncio


class JoinedWrites:
    """The part of a transport that an HTTP server's protocol uses."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._waiting: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Send, at the end of this step."""
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(data)

    def close(self) -> None:
        """Close when all that was written has gone out."""
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """It is closed, or about to be."""
        return self._transport.is_closing()

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting and not self._transport.is_closing():
            self._transport.write(waiting[0] if len(waiting) == 1 else b"".join(waiting))
