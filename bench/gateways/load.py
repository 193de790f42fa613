"""Load on one URL: so many connections, each with one request after the other.

Small and raw, so that the two cores of a test machine are left to what is measured.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import cast

from modeltainer.bench.gateways.engine import STREAM_S

BODY = (
    b'{"model":"bench","stream":%s,"messages":[{"role":"system","content":"You are brief."},'
    b'{"role":"user","content":"Name three rivers of the north, and say where they end."}]}'
)


@dataclass
class Seen:
    """What the clients saw. Times in seconds."""

    requests: int = 0
    failed: int = 0
    ttft_s: list[float] = field(default_factory=list)
    gap_s: list[float] = field(default_factory=list)


class _Client(asyncio.Protocol):
    def __init__(self, request: bytes, stream: bool, seen: Seen) -> None:
        self._request, self._stream, self._seen = request, stream, seen
        self._buffer = b""
        self.stopping = False
        self.over = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self._seen.failed += 1
            self.over.set_result(None)

    def _ask(self) -> None:
        self._buffer, self._events, self._checked = b"", 0, False
        self._last = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self._buffer += data
        if not self._checked and len(self._buffer) >= 12:
            self._checked = True
            self._seen.failed += self._buffer[9:12] != b"200"
        if self._stream:
            events = self._buffer.count(b"data: {")
            if events > self._events:
                (self._seen.gap_s if self._events else self._seen.ttft_s).append(now - self._last)
                self._events, self._last = events, now
            done = self._buffer.endswith(b"0\r\n\r\n")
        else:
            head, found, body = self._buffer.partition(b"\r\n\r\n")
            length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
            done = bool(found) and len(body) >= int(length or 0)
        if not done:
            return
        self._seen.requests += 1
        if self.stopping:
            self.over.set_result(None)
            self._transport.close()
        else:
            self._ask()


async def load(
    port: int, connections: int, seconds: float, *, stream: bool, key: str, seen: Seen | None = None
) -> Seen:
    """Keep so many requests under way for so long; the last ones are waited for. ``seen`` is kept
    up to date meanwhile."""
    body = BODY % (b"true" if stream else b"false")
    request = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n"
        f"authorization: Bearer {key}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    ).encode() + body
    seen = seen or Seen()
    loop = asyncio.get_running_loop()
    began = loop.time()
    clients = []
    for number in range(connections):
        if stream:
            # Spread over one answer's time: users do not press enter together.
            await asyncio.sleep(began + number * STREAM_S / connections - loop.time())
        _, client = await loop.create_connection(
            lambda: _Client(request, stream, seen), "127.0.0.1", port
        )
        clients.append(client)
    await asyncio.sleep(max(0.0, began + seconds - loop.time()))
    for client in clients:
        client.stopping = True
    await asyncio.wait([client.over for client in clients], timeout=60)
    return seen
