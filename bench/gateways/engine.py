"""The engine behind every contender: ``python -m modeltainer.bench.gateways.engine --port N``.

Answers ``GET`` as vLLM would (health, models), a request with ``"stream":true`` with server-sent
events at fixed times, any other at once with a small JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from typing import cast

import uvloop

TTFT_S, GAP_S, TOKENS = 0.2, 0.2, 16
STREAM_S = TTFT_S + GAP_S * (TOKENS - 1)


def _answer(document: object) -> bytes:
    data = json.dumps(document).encode()
    head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: "
    return f"{head}{len(data)}\r\n\r\n".encode() + data


def _chunk(document: object) -> bytes:
    data = document if isinstance(document, str) else json.dumps(document)
    event = f"data: {data}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(event), event)


def _token(word: str) -> object:
    choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "choices": [choice]}


_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_TOKEN = _chunk(_token(" word"))
_END = _chunk("[DONE]") + b"0\r\n\r\n"
_USAGE = {"prompt_tokens": 8, "completion_tokens": 1, "total_tokens": 9}
_WHOLE = _answer(
    {
        "id": "c",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "word"}}],
        "usage": _USAGE,
    }
)


class _Connection(asyncio.Protocol):
    def __init__(self, models: bytes) -> None:
        self._models = models
        self._loop = asyncio.get_running_loop()
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
        if not found:
            return
        length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
        if len(body) < int(length or 0):
            return
        self._buffer = b""
        if head.startswith(b"GET"):
            self._transport.write(self._models)
        elif b'"stream":true' in body.replace(b" ", b""):
            self._due = self._loop.time() + TTFT_S
            self._left = TOKENS
            self._timer = self._loop.call_at(self._due, self._next, _HEAD + _TOKEN)
        else:
            self._transport.write(_WHOLE)

    def _next(self, piece: bytes) -> None:
        self._left -= 1
        if not self._left:
            self._transport.write(piece + _END)
            return
        self._transport.write(piece)
        self._due += GAP_S
        self._timer = self._loop.call_at(self._due, self._next, _TOKEN)


async def _serve(port: int, names: Sequence[str]) -> None:
    listed = [{"id": name, "object": "model", "created": 1, "owned_by": "bench"} for name in names]
    models = _answer({"object": "list", "data": listed})
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(models), "127.0.0.1", port, backlog=2048)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


def main() -> None:
    """Write the port, then serve until ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("names", nargs="+", help="model names that it lists")
    options = parser.parse_args()
    uvloop.run(_serve(options.port, options.names))


if __name__ == "__main__":
    main()
