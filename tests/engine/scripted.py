"""A scripted engine: told exactly which bytes to send, and when.

It speaks just enough HTTP/1.1 to read a request; every answer is raw bytes from a script of steps.
Runs in a thread with its own event loop, or as a program: ``python -m tests.engine.scripted``.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast


@dataclass(frozen=True)
class Send:
    """Write these bytes, as one write."""

    data: bytes


@dataclass(frozen=True)
class Pause:
    """Wait."""

    seconds: float


@dataclass(frozen=True)
class Gate:
    """Wait until the test opens it."""

    event: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Close:
    """Close the connection (FIN)."""


@dataclass(frozen=True)
class Reset:
    """Reset the connection (RST)."""


Step = Send | Pause | Gate | Close | Reset


@dataclass
class Request:
    """One request as it came, byte for byte."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    head: bytes
    body: bytes = b""
    connection: int = 0
    """Which connection it came on, counted from 1."""
    sent: int = 0
    """Bytes of the answer written so far."""
    gone: threading.Event = field(default_factory=threading.Event)
    """The other side closed before the script was done."""
    gone_at: float = 0.0

    def header(self, name: str) -> str | None:
        """One header field's value."""
        return next((value for key, value in self.headers if key.lower() == name), None)


Answer = Sequence[Step] | Callable[[Request], Sequence[Step]]


def whole(
    body: bytes | object, status: str = "200 OK", headers: str = "", kind: str = "application/json"
) -> list[Step]:
    """A complete answer in one write."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    top = (
        f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\n{headers}content-length: {len(data)}\r\n\r\n"
    )
    return [Send(top.encode() + data)]


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


def piece(data: bytes) -> Send:
    """One chunk of a chunked body."""
    return Send(b"%x\r\n%s\r\n" % (len(data), data))


END = Send(b"0\r\n\r\n")


def token(text: str, model: str = "m") -> bytes:
    """One event of a chat stream."""
    delta = {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}],
    }
    return b"data: " + json.dumps(delta, ensure_ascii=False).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def stream(*events: bytes) -> list[Step]:
    """A complete stream, one chunk per event."""
    return [Send(STREAM_HEAD), *(piece(event) for event in events), END]


class ScriptedEngine:
    """One engine on a loopback port."""

    def __init__(
        self,
        names: Sequence[str] = (),
        key: str | None = None,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """``names``: listed by ``GET /v1/models``; ``key``: demanded as bearer token."""
        self.names, self.key, self.tls = list(names), key, tls
        self.port = port
        self.requests: list[Request] = []
        self.probes = 0
        self.keys_seen: set[str] = set()
        self.connections = 0
        self.open = 0
        self.answer: Answer = whole({"ok": True})
        self.reading = threading.Event()
        """Bodies are read; else they are left in their connections."""
        self.reading.set()
        self.left_unread = 0
        """Requests whose bodies are."""
        self._arrived = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self.live: set[_Connection] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._up = threading.Event()

    def __enter__(self) -> ScriptedEngine:
        self._thread.start()
        assert self._up.wait(5)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Close the port and every connection."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end)
            self._thread.join(5)

    def wait_request(self, count: int = 1, timeout: float = 5.0) -> Request:
        """The ``count``-th request on a scripted path."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.requests) >= count, timeout)
            return self.requests[count - 1]

    def drop_idle(self) -> None:
        """Close every open connection, as a server's keep-alive timeout does."""
        done = threading.Event()

        def drop() -> None:
            for connection in list(self.live):
                connection.close()
            done.set()

        self._loop.call_soon_threadsafe(drop)
        assert done.wait(2)

    def arrived(self, request: Request) -> None:
        """Called by a connection."""
        with self._arrived:
            self.requests.append(request)
            self._arrived.notify_all()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen())
        self._up.set()
        self._loop.run_forever()
        self._loop.close()

    async def _listen(self) -> None:
        self._server = await self._loop.create_server(
            lambda: _Connection(self), "127.0.0.1", self.port, backlog=1024, ssl=self.tls
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def _end(self) -> None:
        assert self._server is not None
        self._server.close()
        for connection in list(self.live):
            connection.close()
        self._loop.call_later(0.01, self._loop.stop)


class _Connection(asyncio.Protocol):
    def __init__(self, engine: ScriptedEngine) -> None:
        self._engine = engine
        self._buffer = bytearray()
        self._more = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._lost = False
        self._request: Request | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._engine.connections += 1
        self._number = self._engine.connections
        self._engine.open += 1
        self._engine.live.add(self)
        self._task = asyncio.get_running_loop().create_task(self._serve())

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._engine.open -= 1
        self._engine.live.discard(self)
        if self._request is not None:
            self._request.gone_at = time.monotonic()
            self._request.gone.set()
        self._more.set()
        self._writable.set()
        self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._more.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def close(self) -> None:
        self._transport.close()

    async def _until(self, enough: Callable[[], bool]) -> None:
        while not enough():
            self._more.clear()
            await self._more.wait()

    async def _serve(self) -> None:
        while True:
            await self._until(lambda: b"\r\n\r\n" in self._buffer)
            end = self._buffer.index(b"\r\n\r\n")
            head = bytes(self._buffer[:end])
            del self._buffer[: end + 4]
            lines = head.decode("latin-1").split("\r\n")
            method, path, _ = lines[0].split(" ")
            headers = [(n, v.strip()) for n, _, v in (line.partition(":") for line in lines[1:])]
            request = Request(method, path, headers, head, connection=self._number)
            length = int(request.header("content-length") or 0)
            if length and not self._engine.reading.is_set():
                await self._leave_unread()
            await self._until(lambda: len(self._buffer) >= length)  # noqa: B023
            request.body = bytes(self._buffer[:length])
            del self._buffer[:length]
            await self._answer(request)

    async def _leave_unread(self) -> None:
        self._transport.pause_reading()
        self._engine.left_unread += 1
        while not self._engine.reading.is_set():  # noqa: ASYNC110 (set from another thread)
            await asyncio.sleep(0.002)
        self._engine.left_unread -= 1
        self._transport.resume_reading()

    async def _answer(self, request: Request) -> None:
        engine = self._engine
        if (shown := request.header("authorization")) is not None:
            engine.keys_seen.add(shown)
        if engine.key is not None and request.header("authorization") != f"Bearer {engine.key}":
            await self._play(whole({"error": "bad key"}, "401 Unauthorized"))
            return
        if request.path == "/v1/models":
            engine.probes += 1
            listed = {"object": "list", "data": [{"id": name} for name in engine.names]}
            await self._play(whole(listed))
            return
        self._request = request
        engine.arrived(request)
        steps = engine.answer(request) if callable(engine.answer) else engine.answer
        await self._play(steps)
        self._request = None

    async def _play(self, steps: Sequence[Step]) -> None:
        for step in steps:
            if isinstance(step, Send):
                self._transport.write(step.data)
                if self._request is not None:
                    self._request.sent += len(step.data)
                await self._writable.wait()
            elif isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
            elif isinstance(step, Gate):
                while not step.event.is_set():  # noqa: ASYNC110 (opened from another thread)
                    await asyncio.sleep(0.002)
            elif isinstance(step, Close):
                self._request = None
                self._transport.close()
                await asyncio.sleep(3600)
            else:
                self._request = None
                sock = self._transport.get_extra_info("socket")
                linger = struct.pack("ii", 1, 0)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self._transport.abort()
                await asyncio.sleep(3600)


def main() -> None:
    """Serve a short stream on any free port until killed; prints the port. Arguments: names."""
    with ScriptedEngine(sys.argv[1:] or ["m"]) as engine:
        engine.answer = stream(*(token(f"{n} ") for n in range(64)), DONE)
        print(engine.port, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
