"""An answer's head and its body's first piece in one write, and so in one packet.

uvicorn writes them one after the other; each write is a system call, and wakes the client.
"""

from __future__ import annotations

import asyncio

_HEAD = b"HTTP/1.1 "


class JoinedWrites:
    """The part of a transport that an HTTP server's protocol uses. A head waits for what is written
    next, at most until this step of the event loop is over."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._head = b""

    def write(self, data: bytes) -> None:
        """Send; nothing when the connection is closed already (uvloop would raise): a pipelined
        request's bad bytes close it while the one before is being answered."""
        if self._transport.is_closing():
            return
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(_HEAD):
            self._head = data
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def close(self) -> None:
        """Close when all that was written has gone out."""
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """It is closed, or about to be."""
        return self._transport.is_closing()

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            if not self._transport.is_closing():
                self._transport.write(head)
