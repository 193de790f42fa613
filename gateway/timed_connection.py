"""A client's connection with limits on how slowly and how largely a request may come.

uvicorn's own timeout counts only between requests, and httptools takes header fields of any size:
a few hundred connections that send one byte now and then (slowloris) would hold as many
descriptors for as long as they like. The limits are those of Apache's mod_reqtimeout: a time for
the head; for the body a time that grows with what has come.
"""

from __future__ import annotations

import asyncio
from typing import Any

from modeltainer.gateway.client_connection import ClientProtocol
from modeltainer.gateway.errors import GatewayError


class TimedProtocol(ClientProtocol):
    """One client's connection."""

    head_timeout_s = 20.0
    """From the first byte of a request (or from connecting) to the end of its head."""
    body_timeout_s = 60.0
    """From the head to the end of the body, more for each piece that comes."""
    body_bytes_per_s = 500
    """The slowest body that is waited for, after that time."""
    max_head_bytes = 64 * 1024
    """Request line and header fields together."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timer: asyncio.TimerHandle | None = None
        self._in_head = True
        self._head_bytes = 0
        self._deadline = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            if self._timer is None:
                self._await_head()
            # What follows the head in the same packet counts too, so this is more than it needs.
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > self.max_head_bytes:
            self._refuse(b"431 Request Header Fields Too Large", "The request's head is too large")

    def on_headers_complete(self) -> None:
        self._disarm()
        self._in_head, self._head_bytes = False, 0
        self._deadline = self.loop.time() + self.body_timeout_s
        self._timer = self.loop.call_at(self._deadline, self._look_at_body)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._deadline += len(body) / self.body_bytes_per_s
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._disarm()
        self._in_head = True
        super().on_message_complete()

    def _await_head(self) -> None:
        self._timer = self.loop.call_later(self.head_timeout_s, self._head_is_late)

    def _head_is_late(self) -> None:
        self._timer = None
        if self._head_bytes:
            self._refuse(b"408 Request Timeout", "The request's head took too long to come")
        else:
            self.transport.close()

    def _look_at_body(self) -> None:
        now = self.loop.time()
        if self.flow.read_paused:
            # We are the slow side: the body waits in the socket until it is asked for.
            self._deadline = now + self.body_timeout_s
        if now < self._deadline:
            self._timer = self.loop.call_at(self._deadline, self._look_at_body)
            return
        self._timer = None
        self._refuse(b"408 Request Timeout", "The request's body took too long to come")

    def _refuse(self, status: bytes, message: str) -> None:
        self._disarm()
        if self.transport.is_closing():
            return
        if self._in_head or not self.cycle.response_started:
            body = GatewayError(int(status[:3]), message, "request_too_slow_or_large").body()
            self.transport.write(
                b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
                b"connection: close\r\n\r\n%s" % (status, len(body), body)
            )
        self.transport.close()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
