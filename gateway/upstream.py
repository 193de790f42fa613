"""HTTP/1.1 towards one engine: an asyncio protocol on httptools, with backpressure both ways.

One request at a time per connection. What has arrived waits in the connection until it is taken;
beyond :data:`HIGH_WATER` reading stops, so that an engine is never read faster than its client.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ssl import SSLCertVerificationError, SSLContext, SSLError
from typing import Protocol, cast

import httptools

from modeltainer.gateway.deadline import Deadline
from modeltainer.gateway.outbox import outbox

HIGH_WATER = 128 * 1024
"""Bytes of body that may wait for the client before reading from the engine is paused."""
MAX_HEAD_BYTES = 64 * 1024
_WRITE_PIECE = 256 * 1024
DEAD_AFTER_S = 20
"""A node that is off the network closes nothing: when TCP has heard nothing from it for so long,
though it was asked, the connection has ended (tcp(7): TCP_USER_TIMEOUT, TCP_KEEPIDLE)."""
_KEEPALIVE = (
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", DEAD_AFTER_S // 4),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", DEAD_AFTER_S // 4),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
    (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", DEAD_AFTER_S * 1000),
)


class UpstreamError(Exception):
    """The engine, or the way to it, failed. ``code`` is stable, for logs and error bodies."""

    code = "upstream_error"


class ConnectError(UpstreamError):
    """No connection: refused, unreachable, or not within the connect timeout."""

    code = "upstream_unreachable"


class WrongCertificateError(ConnectError):
    """The server there is not the one whose certificate the launch's secret has."""

    code = "upstream_certificate"


class ConnectionDiedError(UpstreamError):
    """The connection ended before the answer did."""

    code = "upstream_died"


class UpstreamProtocolError(UpstreamError):
    """What came is not an HTTP/1.1 answer."""

    code = "upstream_protocol"


class UpstreamTimeoutError(UpstreamError):
    """Nothing came within the time given."""

    code = "upstream_timeout"


class EmptyStreamError(UpstreamError):
    """A stream with status 200 ended before its first event."""

    code = "upstream_empty"


class EngineError(UpstreamError):
    """The engine answered with an error, which has not been passed on yet."""

    code = "engine_error"

    def __init__(
        self,
        status: int,
        message: str,
        document: bytes | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        """``document``: the engine's own JSON, where it has the form of an API's error;
        ``retry_after_s``: when the engine says to try again, where it does."""
        super().__init__(message)
        self.status, self.document, self.retry_after_s = status, document, retry_after_s


@dataclass(slots=True)
class ResponseHead:
    """Status and header fields of an answer; names are in lower case."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    is_stream: bool = False
    """The body is a stream of server-sent events."""


class Sink(Protocol):
    """Takes pieces of a body as they arrive: :meth:`UpstreamConnection.pass_on`."""

    @property
    def open(self) -> bool:
        """It can take a piece now."""

    def take(self, piece: bytes) -> bool:
        """Take a piece; False: the caller of ``pass_on`` is to go on."""

    def take_chunk(self, data: bytes) -> float:
        """Take what came at the beginning of a chunk, if it is one whole chunk that can be passed
        on as it is: when that was (monotonic seconds); 0 when it was not taken."""


class UpstreamConnection(asyncio.Protocol):
    """One connection, used by one coroutine at a time, or by callbacks.

    ``send``, then ``head``, then ``chunk`` until it gives None; then :attr:`reusable` says whether
    the connection may carry another request. Without a coroutine: ``post``, and ``take`` whenever
    the listener is called; a coroutine may go on from there at any moment (``unlisten``).
    """

    __slots__ = (
        "_between_chunks",
        "_busy",
        "_chunks",
        "_complete",
        "_deadline",
        "_error",
        "_framed",
        "_head",
        "_head_done",
        "_keep_alive",
        "_late",
        "_listener",
        "_loop",
        "_lost",
        "_parser",
        "_posted",
        "_read_paused",
        "_sent",
        "_sink",
        "_sink_timeout",
        "_transport",
        "_waiter",
        "_waiting_bytes",
        "_write_paused",
        "head_bytes",
        "idle_since",
        "used",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._deadline = Deadline(loop, self._on_deadline)
        self._error: Exception | None = None
        self._sink: Sink | None = None
        self._sink_timeout = 0.0
        self._listener: Callable[[], None] | None = None
        self._posted = b""
        self._lost = False
        self._write_paused = False
        self._read_paused = False
        self.used = 0
        """Requests sent so far."""
        self.idle_since = 0.0
        self._start_exchange()
        self._busy = False

    def _start_exchange(self) -> None:
        self._head = ResponseHead()
        self._head_done = False
        self.head_bytes = 0
        """Of the answer, up to the piece that ended its head; 0: nothing of it has come."""
        self._framed = False
        self._complete = False
        self._keep_alive = False
        self._between_chunks = False
        self._sent = False
        self._late = False
        self._chunks: list[bytes] = []
        self._waiting_bytes = 0
        self._busy = True

    # The coroutine's side

    async def send(self, pieces: Iterable[bytes | memoryview], timeout: float) -> None:
        """Write a request. Returns early when the answer is there before all is written.

        Raises:
            ConnectionDiedError: the connection ended before any answer.
            UpstreamTimeoutError: the engine took none of it for ``timeout`` seconds.
        """
        assert self._transport is not None
        self._start_exchange()
        self.used += 1
        for piece in pieces:
            for offset in range(0, len(piece), _WRITE_PIECE):
                self._check()
                if self._head_done:
                    return
                self._transport.write(piece[offset : offset + _WRITE_PIECE])
                while self._write_paused and not self._head_done:
                    await self._wait(timeout)
        self._sent = True

    @property
    def head_done(self) -> bool:
        """Status and headers of the answer are there."""
        return self._head_done

    @property
    def body_waits(self) -> bool:
        """:meth:`chunk` would not have to wait."""
        return bool(self._chunks) or self._complete

    async def wait_head(self, timeout: float) -> None:
        """Wait for status and headers. Raises as :meth:`head`; it may be called again."""
        while not self._head_done:
            await self._wait(timeout)

    async def wait_body(self, timeout: float) -> None:
        """Wait for a piece of the body or its end. Raises as :meth:`head`; it may be called
        again."""
        while not self.body_waits:
            await self._wait(timeout)

    async def head(self, timeout: float) -> ResponseHead:
        """Status and headers of the answer; ``timeout`` in seconds from now.

        Raises:
            UpstreamError: died, timed out, or not HTTP.
        """
        await self.wait_head(timeout)
        return self._head

    async def chunk(self, timeout: float) -> bytes | None:
        """What has arrived of the body since the last call, or None at its end. Raises as
        :meth:`head`; bytes that came before a failure are given out first."""
        while not self._chunks:
            if self._complete:
                return None
            await self._wait(timeout)
        return self.take()

    def take(self) -> bytes:
        """What has arrived of the body since the last call; empty when it is nothing."""
        chunks = self._chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self._waiting_bytes = 0
        if self._read_paused and self._transport is not None:
            self._read_paused = False
            if not self._lost:
                self._transport.resume_reading()
        return data

    async def pass_on(self, sink: Sink, timeout: float) -> None:
        """Give what arrives of the body to ``sink`` at once, without a turn of the event loop and
        without waking the caller; until the answer ends, or the sink is closed or has had enough.
        The piece that ends the answer, and those that find the sink closed, are left to
        :meth:`chunk`. Raises as :meth:`head`, ``timeout`` counts between pieces."""
        if self.body_waits:
            return
        self._sink, self._sink_timeout = sink, timeout
        try:
            while self._sink is not None and not self.body_waits:
                await self._wait(timeout)
        finally:
            self._sink = None

    # Without a coroutine

    def post(
        self, request: bytes, listener: Callable[[], None], timeout: float, *, joined: bool
    ) -> None:
        """Write a request that is in one piece; ``joined`` with those to other engines, at the end
        of this turn of the loop (:mod:`.outbox`). From now on ``listener`` is called when something
        of the answer has come, when it ends, when it has failed (which ``timeout`` seconds without
        any of it are too)."""
        self._start_exchange()
        self.used += 1
        self._posted = request
        if joined:
            outbox(self._loop).put(self._write_posted)
        else:
            self._write_posted()
        self._sent = True
        self._listener = listener
        self._deadline.within(timeout)

    def _write_posted(self) -> None:
        posted, self._posted = self._posted, b""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(posted)

    def pass_to(self, sink: Sink, timeout: float) -> None:
        """As :meth:`pass_on`; then the listener is called."""
        self._sink, self._sink_timeout = sink, timeout
        self._deadline.within(timeout)

    def expect_within(self, timeout: float) -> None:
        """What comes next has to come within so many seconds."""
        self._deadline.within(timeout)

    def unlisten(self) -> None:
        """The listener is called no more: a coroutine goes on, or nobody does."""
        self._listener = self._sink = None
        self._deadline.off()

    def give_time(self) -> bool:
        """Whether nothing came in time; it does not count any more."""
        late, self._late = self._late, False
        return late

    @property
    def failed(self) -> bool:
        """The rest of the answer will not come, or not in time."""
        return self._error is not None or self._late or (self._lost and not self._complete)

    @property
    def complete(self) -> bool:
        """All of the answer is there, taken or not."""
        return self._complete

    @property
    def response(self) -> ResponseHead:
        """Status and headers; whole when :attr:`head_done`."""
        return self._head

    @property
    def waiting(self) -> bytes:
        """What :meth:`take` would give."""
        return b"".join(self._chunks)

    def close(self) -> None:
        """Close without waiting for anything still to be written."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.abort()
        self._deadline.cancel()

    @property
    def ended(self) -> bool:
        """The answer is complete, and all of it has been taken."""
        return self._complete and not self._chunks

    @property
    def reusable(self) -> bool:
        """The last request is wholly written, its answer is complete, and both sides keep the
        connection open."""
        return (
            self._error is None
            and self._sent  # else the engine would read the next request as the rest of this one
            and self._complete
            and self._keep_alive
            and not self._write_paused
            and self.open
        )

    @property
    def open(self) -> bool:
        """Neither side has closed it."""
        return not self._lost and self._transport is not None and not self._transport.is_closing()

    def rest(self) -> None:
        """No request is under way: anything that arrives now closes the connection."""
        self._busy = False
        self._deadline.off()
        self.idle_since = time.monotonic()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if self._lost:
            raise ConnectionDiedError("the engine closed the connection")
        if self._late:
            raise _late()

    async def _wait(self, timeout: float) -> None:
        self._check()
        waiter = self._waiter = self._loop.create_future()
        self._deadline.within(timeout)
        try:
            await waiter
        finally:
            self._waiter = None
            self._deadline.off()

    def _wake(self) -> None:
        if self._listener is not None:
            self._listener()
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _on_deadline(self) -> None:
        if self._listener is not None:
            self._late = True
            self._listener()
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(_late())

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        mine = transport.get_extra_info("socket")
        if mine is None or mine.family not in {socket.AF_INET, socket.AF_INET6}:
            return
        for level, name, value in _KEEPALIVE:
            option = getattr(socket, name, None)  # macOS lacks some
            if option is not None:
                mine.setsockopt(level, option, value)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._write_paused = False
        if self._busy and exc is None and self._head_done and not self._framed:
            self._complete = True  # an answer without a length ends with its connection
        self._deadline.cancel()
        self._wake()

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        self._wake()

    def data_received(self, data: bytes) -> None:
        if not self._busy or self._complete:
            # Bytes nobody asked for: the next request's answer must not begin with them.
            self._keep_alive = False
            self.close()
            return
        sink = self._sink
        # The parser waits for a chunk, and is as well off without a whole one.
        if sink is not None and self._between_chunks and (came := sink.take_chunk(data)):
            self._deadline.at = came + self._sink_timeout
            return
        if not self._head_done:
            self.head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self._complete:
                self._fail(UpstreamProtocolError(f"the engine's answer is not HTTP/1.1: {error}"))
                return
            self._keep_alive = False
        if not self._head_done and self.head_bytes > MAX_HEAD_BYTES:
            self._fail(UpstreamProtocolError("the engine's header is too long"))
            return
        if sink is not None and not self._complete:
            if not self._chunks:
                return  # of a chunk, its length alone
            if sink.open:
                self._deadline.at = self._loop.time() + self._sink_timeout
                if sink.take(self.take()):
                    return
            self._sink = None
        if self._waiting_bytes > HIGH_WATER and not self._read_paused and not self._complete:
            self._read_paused = True
            assert self._transport is not None
            self._transport.pause_reading()
        self._wake()

    def _fail(self, error: UpstreamError) -> None:
        if self._error is None:
            self._error = error
        self.close()
        self._wake()

    # httptools' side

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_done:
            self._head.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._complete:  # a second answer to one request
            self._keep_alive = False
            return
        head, status = self._head, self._parser.get_status_code()
        head.status = status
        if status < 200:
            return  # an interim answer; the real one follows
        self._head_done = True
        self._keep_alive = self._parser.should_keep_alive()
        self._framed = status in (204, 304)
        for name, value in head.headers:
            if name in (b"content-length", b"transfer-encoding"):
                self._framed = True
            elif name == b"content-type":
                head.is_stream = value.strip().lower().startswith(b"text/event-stream")

    def on_chunk_header(self) -> None:
        self._between_chunks = False

    def on_chunk_complete(self) -> None:
        self._between_chunks = True

    def on_body(self, body: bytes) -> None:
        if self._complete:
            return
        self._chunks.append(body)
        self._waiting_bytes += len(body)

    def on_message_complete(self) -> None:
        if self._head_done:
            self._complete = True
        else:
            self._head = ResponseHead()


def _late() -> UpstreamTimeoutError:
    return UpstreamTimeoutError("the engine sent nothing in time")


async def connect(
    host: str, port: int, timeout: float, tls: SSLContext | None = None
) -> UpstreamConnection:
    """Open a connection to an engine.

    Args:
        timeout: seconds, the TLS handshake included.
        tls: what it must prove; None speaks plain HTTP.

    Raises:
        WrongCertificateError: its certificate is not the launch's own.
        ConnectError: refused, unreachable, no such host, no TLS where it is due, or not within
            ``timeout``.
    """
    loop = asyncio.get_running_loop()
    try:
        _, protocol = await asyncio.wait_for(
            loop.create_connection(lambda: UpstreamConnection(loop), host, port, ssl=tls), timeout
        )
    except SSLCertVerificationError as error:
        raise WrongCertificateError(
            "cannot connect to the engine: the certificate there is not this launch's "
            f"({error.verify_message})"
        ) from error
    except SSLError as error:
        raise ConnectError(
            "cannot connect to the engine: what answers there does not speak TLS "
            f"({error.reason or error})"
        ) from error
    except (OSError, asyncio.TimeoutError) as error:
        late = f"no answer{'' if tls is None else ' to TLS'} within {timeout:g} s"
        reason = str(error) or late
        raise ConnectError(f"cannot connect to the engine: {reason}") from error
    return protocol
