"""The least that a proxy in Python can cost: uvloop and httptools on either side, and no decision.

It passes bytes on as they come, to the one engine there is. It knows no keys, models, limits, time
limits or retries, writes no log and counts nothing: a measure of what a gateway adds to that.

    python -m modeltainer.bench.gateways.bare ENGINE_PORT PORT
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import httptools
import uvloop


class _Engine(asyncio.Protocol):
    """A connection to the engine; kept when its answer is complete."""

    def __init__(self, idle: list[_Engine]) -> None:
        self._idle = idle
        self._parser = httptools.HttpResponseParser(self)
        self.client: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        assert self.client is not None
        self.client.write(data)
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._idle.append(self)


class _Client(asyncio.Protocol):
    """A client's connection."""

    def __init__(self, idle: list[_Engine], engine_port: int) -> None:
        self._idle, self._engine_port = idle, engine_port
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._request: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._request.append(data)
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        request = b"".join(self._request)
        self._begin()
        if self._idle:
            self._send(self._idle.pop(), request)
        else:
            self._opening = asyncio.ensure_future(self._open(request))

    async def _open(self, request: bytes) -> None:
        loop = asyncio.get_running_loop()
        _, engine = await loop.create_connection(
            lambda: _Engine(self._idle), "127.0.0.1", self._engine_port
        )
        self._send(engine, request)

    def _send(self, engine: _Engine, request: bytes) -> None:
        engine.client = self._transport
        engine.transport.write(request)


async def _serve(engine_port: int, port: int) -> None:
    idle: list[_Engine] = []
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: _Client(idle, engine_port), "127.0.0.1", port, backlog=4096
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(_serve(int(sys.argv[1]), int(sys.argv[2])))
