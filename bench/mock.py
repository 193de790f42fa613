"""A server with known timing, for the harness to measure itself against.

``python -m modeltainer.bench.mock --socket PATH --ttft 0.05 --gap 0.02 --tokens 64`` writes
``ready`` when it listens; with ``--port`` it listens on loopback's TCP, and lists its model. Each
stream's events are due at absolute times from the request's arrival; what the server is late by is
therefore part of the error that a calibration reports, which is an upper bound of the harness's
own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from typing import cast

import uvloop

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_LISTED = (
    b'{"object":"list","data":[{"id":"mock","object":"model","created":1,"owned_by":"bench"}]}'
)
_MODELS = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
    len(_LISTED),
    _LISTED,
)
_ROLE = {"role": "assistant", "content": ""}


def _chunk(document: object) -> bytes:
    data = document if isinstance(document, str) else json.dumps(document, separators=(",", ":"))
    event = f"data: {data}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(event), event)


def _event(delta: dict[str, str], finish: str | None = None) -> dict[str, object]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "mock", "object": "chat.completion.chunk", "model": "mock", "choices": [choice]}


class _Stream(asyncio.Protocol):
    def __init__(self, ttft_s: float, gap_s: float, tokens: int) -> None:
        self._ttft_s, self._gap_s, self._tokens = ttft_s, gap_s, tokens
        self._loop = asyncio.get_running_loop()
        self._token = _chunk(_event({"content": " word"}))
        usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}
        self._end = (
            _chunk(_event({}, "length"))
            + _chunk({"id": "mock", "choices": [], "usage": usage})
            + _chunk("[DONE]")
            + b"0\r\n\r\n"
        )
        self._head = _HEAD + _chunk(_event(_ROLE))
        self._buffer = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
        if found and head.startswith(b"GET "):
            self._buffer = b""
            self._transport.write(_MODELS)
        elif found and len(body) >= length:
            self._buffer = b""
            self._began = time.monotonic()
            self._sent = 0
            self._transport.write(self._head)
            self._sleep()

    def _sleep(self) -> None:
        due = self._began + self._ttft_s + self._sent * self._gap_s
        self._timer = self._loop.call_later(max(0.0, due - time.monotonic()), self._write)

    def _write(self) -> None:
        self._sent += 1
        if self._sent < self._tokens:
            self._transport.write(self._token)
            self._sleep()
        else:
            self._transport.write(self._token + self._end)


async def _serve(
    socket: str | None, port: int | None, ttft_s: float, gap_s: float, tokens: int
) -> None:
    def stream() -> _Stream:
        return _Stream(ttft_s, gap_s, tokens)

    loop = asyncio.get_running_loop()
    server: asyncio.AbstractServer
    if socket is not None:
        server = await loop.create_unix_server(stream, socket, backlog=4096)
    else:
        server = await loop.create_server(stream, "127.0.0.1", port, backlog=4096)
    print("ready", flush=True)
    await server.serve_forever()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--socket")
    where.add_argument("--port", type=int)
    parser.add_argument("--ttft", type=float, default=0.05, help="seconds")
    parser.add_argument("--gap", type=float, default=0.02, help="seconds")
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    uvloop.new_event_loop().run_until_complete(
        _serve(options.socket, options.port, options.ttft, options.gap, options.tokens)
    )


if __name__ == "__main__":
    main()
