"""A client's connection with limits on how slowly and how largely a request may come.

uvicorn's own timeout counts only between requests, and httptools takes header fields of any size:
a few hundred connections that send one byte now and then (slowloris) would hold as many
descriptors for as long as they like. The limits are those of Apache's mod_reqtimeout: a time for
the head; for the body a time that grows with what has come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from modeltainer.gateway.deadline import Deadline
from modeltainer.gateway.errors import GatewayError
from modeltainer.gateway.fast_connection import FastProtocol
from modeltainer.gateway.outbox import JoinedWrites


class TimedProtocol(FastProtocol):
    """One client's connection."""

    head_timeout_s = 20.0
    """From the first byte of a request (or from connecting) to the end of its head."""
    body_timeout_s = 60.0
    """From the head to the end of the body, more for each piece that comes."""
    body_bytes_per_s = 500
    """The slowest body that is waited for, after that time."""
    max_head_bytes = 64 * 1024
    """Request line and header fields together; and what is no body behind them, as trailers are."""
    send_timeout_s = 60.0
    """A client that has read nothing for so long, though an answer waits, is hung up on."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline = Deadline(self.loop, self._on_deadline)
        self._late: Callable[[], None] | None = None
        """What is done at the deadline."""
        self._in_head = True
        self._head_bytes = 0
        """Of a head, so far; behind it what came since the last piece of the body."""
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait(self._head_is_late, self.head_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        self._late = None
        self._note_read()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._note_read()
        abort = cast(JoinedWrites, self.transport).abort
        self._unread = self.loop.call_later(self.send_timeout_s, abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._note_read()

    def _note_read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            if not self._head_bytes and self.take_alike(data):
                self._deadline.off()
                return
            if not self._head_bytes:
                self._deadline.off()  # what was waited for has begun
        # What follows the head in the same packet counts too, so this is more than it needs.
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > self.max_head_bytes:
            message = "The request's head is too large"
            self._refuse(b"431 Request Header Fields Too Large", message)
        elif self._in_head and self._head_bytes:
            if not self._deadline.at:
                self._wait(self._head_is_late, self.head_timeout_s)
        elif self._deadline.at:
            self._deadline.keep()

    def on_headers_complete(self) -> None:
        self._in_head, self._head_bytes = False, 0
        self._late = self._look_at_body
        self._deadline.at = self.loop.time() + self.body_timeout_s  # most bodies are here already
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        # So much time for each piece; but no credit for a silence that may follow.
        latest = self.loop.time() + self.body_timeout_s
        self._deadline.at = min(self._deadline.at + len(body) / self.body_bytes_per_s, latest)
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._deadline.off()
        self._in_head, self._head_bytes = True, 0
        super().on_message_complete()
        if not self.answering:  # that was done before the body came
            self._rest()

    def answered(self) -> None:
        super().answered()
        self._rest()

    def _rest(self) -> None:
        """No request is under way, and the next one may be long in coming."""
        self._wait(self.timeout_keep_alive_handler, self.timeout_keep_alive)

    def _wait(self, late: Callable[[], None], seconds: float) -> None:
        """Have ``late`` called unless something comes within so many seconds."""
        self._late = late
        self._deadline.within(seconds)

    def _on_deadline(self) -> None:
        if self._late is not None:
            self._late()

    def _head_is_late(self) -> None:
        if self.answering:
            # Nothing can be said before its end.
            self._wait(self._head_is_late, self.head_timeout_s)
        elif self._head_bytes:
            self._refuse(b"408 Request Timeout", "The request's head took too long to come")
        else:
            self.transport.close()

    def _look_at_body(self) -> None:
        if self.flow.read_paused:
            # We are the slow side: the body waits in the socket until it is asked for.
            self._wait(self._look_at_body, self.body_timeout_s)
            return
        self._refuse(b"408 Request Timeout", "The request's body took too long to come")

    def _refuse(self, status: bytes, message: str) -> None:
        self._deadline.off()
        if self.transport.is_closing():
            return
        if self._in_head:
            silent = not self.answering
        else:
            silent = self._head is not None or not (self.cycle.response_started or self.pipeline)
        if silent:
            body = GatewayError(int(status[:3]), message, "request_too_slow_or_large").body()
            self.transport.write(
                b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
                b"connection: close\r\n\r\n%s" % (status, len(body), body)
            )
        self.transport.close()
