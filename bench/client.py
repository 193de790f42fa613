"""HTTP/1.1 towards the server under test: asyncio on httptools, over TCP or a Unix socket.

Arrivals are stamped before anything is parsed, and all sockets that are ready are read before the
first of them is parsed: what one stream costs the client is not seen as latency of another.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools

from modeltainer.bench.answer import Answer
from modeltainer.tls import pinned

clock: Callable[[], float] = time.monotonic
"""CLOCK_MONOTONIC, the same for all processes of this machine; seconds."""
RAN_OUT_S = 0.05
"""A kept connection that closes within this time of a request had run out before it, and the
request is sent again. Later the server has taken it: a second one would hide that, and its wait."""


class TargetError(ValueError):
    """The URL cannot be used; the message says why."""


@dataclass(frozen=True)
class Target:
    """Where requests go."""

    model: str
    host: str = ""
    port: int = 0
    socket: str | None = None
    """A Unix socket, in place of host and port."""
    key: str = ""
    name: str = ""
    """How it is called in results: its URL."""
    certificate: str | None = None
    """PEM of the one certificate that is taken there; None: plain HTTP."""

    @property
    def tls(self) -> ssl.SSLContext | None:
        """The client's side of TLS; None for plain HTTP."""
        return None if self.certificate is None else pinned(self.certificate)

    def head(self, path: str, length: int) -> bytes:
        """A request's head for a body of ``length`` bytes."""
        key = f"authorization: Bearer {self.key}\r\n" if self.key else ""
        return (
            f"POST {path} HTTP/1.1\r\nhost: {self.host or 'localhost'}\r\n{key}"
            f"content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        ).encode()


def target(
    url: str,
    model: str,
    key: str = "",
    socket: str | None = None,
    *,
    certificate: str | None = None,
) -> Target:
    """A target from a base URL, with or without ``/v1``, or ``unix:/path``.

    Args:
        certificate: of an ``https://`` URL: PEM that the server there must have.

    Raises:
        TargetError: not http, nor https with a certificate, or without a host.
    """
    if socket is None and url.startswith("unix:"):
        socket = url.removeprefix("unix:")
    if socket is not None:
        return Target(model, "localhost", socket=socket, key=key, name=f"unix:{socket}")
    parts = urlsplit(url if "//" in url else f"http://{url}")
    if parts.scheme != "http" and (parts.scheme != "https" or certificate is None):
        raise TargetError(
            f"{url}: only http:// and unix: are measured, and https:// of an endpoint of your own "
            "(mt-submit ls); other TLS would be measured with it"
        )
    try:
        host, port = parts.hostname, parts.port or (443 if certificate else 80)
    except ValueError as error:
        raise TargetError(f"{url}: {error}") from None
    if not host:
        raise TargetError(f"{url}: no host in it")
    name = f"{parts.scheme}://{parts.netloc}"
    return Target(model, host, port, key=key, name=name, certificate=certificate)


@dataclass
class Exchange:
    """One request and its answer. Times in seconds of :data:`clock`."""

    answer: Answer
    sent: float = 0.0
    """The request was handed to the kernel."""
    ended: float = 0.0
    status: int = 0
    """HTTP status; 0 when no answer has begun."""
    failure: str = ""
    """A short, stable word; empty when the answer came whole."""
    detail: str = ""
    streamed: bool = False
    connects: int = 0
    """Connections opened for it: 0 when one was reused."""


class Inbox:
    """What sockets have brought in one turn of the loop, parsed when all of them are read."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._arrived: list[tuple[_Connection, float, bytes | None]] = []

    def put(self, connection: _Connection, data: bytes | None) -> None:
        """Bytes, or None for the connection's end."""
        arrived = self._arrived
        if not arrived:
            self._loop.call_soon(self._parse)
        arrived.append((connection, clock(), data))

    def _parse(self) -> None:
        arrived, self._arrived = self._arrived, []
        for connection, now, data in arrived:
            connection.take(now, data)


class _Connection(asyncio.Protocol):
    def __init__(self, inbox: Inbox, loop: asyncio.AbstractEventLoop) -> None:
        self._inbox, self._loop = inbox, loop
        self._exchange: Exchange | None = None
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.open = True

    def data_received(self, data: bytes) -> None:
        self._inbox.put(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._inbox.put(self, None)

    async def run(self, exchange: Exchange, request: bytes, timeout_s: float) -> None:
        """Send, and wait until the answer has ended in one way or the other."""
        self._exchange = exchange
        self._body: list[bytes] = []
        self._now = 0.0
        self._event_stream = self._keep = self._framed = False
        self._parser = httptools.HttpResponseParser(self)
        self._over = self._loop.create_future()
        timer = self._loop.call_later(
            timeout_s, self._end, "timeout", f"not within {timeout_s:g} s"
        )
        exchange.sent = clock()
        self._transport.write(request)
        try:
            await self._over
        finally:
            timer.cancel()
            if self._exchange is not None:  # cancelled
                self._exchange = None
                self.close()

    def close(self) -> None:
        """Close at once."""
        if self.open:
            self.open = False
            self._transport.abort()

    def take(self, now: float, data: bytes | None) -> None:
        """Parse what came at ``now``."""
        exchange = self._exchange
        if data is None:
            self.open = False
            if exchange is not None:
                # What has no length ends with its connection; judge sees whether a stream is whole.
                whole = exchange.status >= 200 and not self._framed
                self._now = now
                if whole:
                    self.on_message_complete()
                else:
                    self._end("closed", "the server closed the connection before the answer's end")
            return
        if exchange is None:
            self.close()  # bytes that nobody asked for
            return
        self._now = now
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._end("protocol", f"not HTTP/1.1: {error}")

    def _end(self, failure: str = "", detail: str = "") -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        exchange.ended = self._now if not failure and self._now else clock()
        exchange.failure, exchange.detail = failure, detail
        if failure or not self._keep:
            self.close()
        if not self._over.done():
            self._over.set_result(None)

    # httptools' side

    def on_header(self, name: bytes, value: bytes) -> None:
        field = name.lower()
        if field == b"content-type":
            self._event_stream = value.lower().startswith(b"text/event-stream")
        elif field in (b"content-length", b"transfer-encoding"):
            self._framed = True

    def on_headers_complete(self) -> None:
        if self._exchange is not None:
            self._exchange.status = self._parser.get_status_code()
            self._exchange.streamed = self._event_stream
            self._keep = self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        if self._event_stream:
            if self._exchange is not None:
                self._exchange.answer.feed(self._now, body)
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        exchange = self._exchange
        if exchange is None or exchange.status < 200:
            return
        body = b"".join(self._body)
        if exchange.status != 200:
            self._end(f"http_{exchange.status}", body[:300].decode(errors="replace"))
            return
        if not self._event_stream:
            exchange.answer.whole(self._now, body)
        self._end(*judge(exchange))


def judge(exchange: Exchange) -> tuple[str, str]:
    """Why an answer that came under status 200 is a failure; empty words when it is none."""
    answer = exchange.answer
    if answer.error is not None:
        return "error_in_answer", answer.error
    if answer.finish_reason is None:
        return "truncated", "the answer ended without a finish_reason"
    if exchange.streamed and not answer.done:
        return "truncated", "the stream ended without [DONE]"
    return "", ""


class Client:
    """Requests to one target over connections that are kept; for one event loop."""

    def __init__(self, to: Target, path: str, timeout_s: float) -> None:
        self._target, self._path, self._timeout_s = to, path, timeout_s
        self._loop = asyncio.get_running_loop()
        self._inbox = Inbox(self._loop)
        self._idle: list[_Connection] = []

    async def perform(self, body: bytes) -> Exchange:
        """One request. Never raises for what the server or the network does."""
        request = self._target.head(self._path, len(body)) + body
        exchange = Exchange(Answer())
        while self._idle:
            connection = self._idle.pop()
            if not connection.open:
                continue
            await connection.run(exchange, request, self._timeout_s)
            ran_out = exchange.ended - exchange.sent < RAN_OUT_S
            if exchange.failure == "closed" and exchange.status == 0 and ran_out:
                exchange = Exchange(Answer())  # its keep-alive had run out; that is no failure
                break
            return self._keep(connection, exchange)
        exchange.connects = 1
        try:
            connection = await asyncio.wait_for(self._connect(), min(30.0, self._timeout_s))
        except (OSError, asyncio.TimeoutError) as error:
            exchange.sent = exchange.ended = clock()
            exchange.failure, exchange.detail = "connect", str(error) or "no answer in time"
            if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
                exchange.failure = "client_limit"
            return exchange
        await connection.run(exchange, request, self._timeout_s)
        return self._keep(connection, exchange)

    def _keep(self, connection: _Connection, exchange: Exchange) -> Exchange:
        if connection.open:
            self._idle.append(connection)
        return exchange

    async def _connect(self) -> _Connection:
        def make() -> _Connection:
            return _Connection(self._inbox, self._loop)

        if self._target.socket is not None:
            _, made = await self._loop.create_unix_connection(make, self._target.socket)
        else:
            to = self._target
            _, made = await self._loop.create_connection(make, to.host, to.port, ssl=to.tls)
        return made

    def close(self) -> None:
        """Close the idle connections."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()
