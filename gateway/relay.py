"""From an engine's answer to the client, piece by piece as it comes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Protocol

from modeltainer.gateway.client_connection import ClientConnection
from modeltainer.gateway.errors import Headers, Send
from modeltainer.gateway.families import Family, error_frame
from modeltainer.gateway.metrics import Distribution
from modeltainer.gateway.token_meter import Meter
from modeltainer.gateway.upstream import (
    ResponseHead,
    UpstreamConnection,
    UpstreamError,
    UpstreamTimeoutError,
)

DONE_GRACE_S = 0.5
"""How long after ``[DONE]`` the engine may take to end its answer; some never do."""
_WINDOW = 64


class StreamTail:
    """The last bytes of an event stream: has ``[DONE]`` passed, and does an event end here?"""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, data: bytes) -> None:
        """Take note of the next piece."""
        self._tail = data[-_WINDOW:] if len(data) >= _WINDOW else (self._tail + data)[-_WINDOW:]

    @property
    def at_boundary(self) -> bool:
        """At the start, or behind the blank line that ends an event."""
        return not self._tail or self._tail.endswith((b"\n\n", b"\r\r", b"\r\n\r\n"))

    @property
    def done(self) -> bool:
        """The last event was ``data: [DONE]``."""
        if b"[DONE]" not in self._tail or not self.at_boundary:
            return False
        line = self._tail.rstrip(b"\r\n")
        for form in (b"data: [DONE]", b"data:[DONE]"):
            if line.endswith(form):
                before = line[: -len(form)]
                return not before or before[-1:] in (b"\n", b"\r")
        return False


@dataclass(slots=True)
class Progress:
    """How far an answer has come; kept up to date while it is relayed."""

    started: bool = False
    """The client has the status line: from here on there is no other answer and no other try."""
    status: int = 0
    sent_bytes: int = 0
    is_stream: bool = False
    tail: StreamTail = field(default_factory=StreamTail)
    error: str = ""
    """Why the answer is not whole; empty when it is."""
    truncated: bool = False
    """It broke off and the client was not told in words: its connection must be cut."""


class ChunkWriter(Protocol):
    """A client's connection, as far as a chunked answer goes."""

    @property
    def takes_chunks(self) -> bool:
        """:meth:`write_chunk` may be called: a chunked answer has begun, and the client reads it as
        fast as it comes."""

    def write_chunk(self, data: bytes) -> None:
        """Send a piece of the body."""

    def write(self, data: bytes) -> None:
        """Send a piece of the body that is in a chunk already."""


class StraightOn:
    """Sends the events of a stream from where they arrive: a :class:`Sink`."""

    __slots__ = ("_came", "_client", "_gaps", "_meter", "_progress")

    def __init__(
        self, client: ChunkWriter | None, progress: Progress, meter: Meter, gaps: Distribution
    ) -> None:
        """``client``: None where the server does not say what its client's connection is; then it
        is never open."""
        self._client, self._progress, self._meter, self._gaps = client, progress, meter, gaps
        self._came = 0.0

    @property
    def open(self) -> bool:
        return self._client is not None and self._client.takes_chunks

    def came(self) -> float:
        """A piece has arrived, this way or by a turn of the loop: how long after the last one?
        When it is (monotonic seconds)."""
        now = monotonic()
        if self._came:
            self._gaps.observe(now - self._came)
        self._came = now
        return now

    def take_chunk(self, data: bytes) -> float:
        start = data.find(b"\r\n") + 2
        length = len(data) - start - 2
        # One whole chunk, worded as servers word it: its length in small hexadecimal figures, and
        # nothing more about it (RFC 9112, 7.1). In it whole events, and none that is looked at.
        if (
            length <= 0
            or not data.endswith(b"\n\n\r\n")
            or not data.startswith(b"%x\r\n" % length)
            or b'"usage"' in data
            or b"[DONE]" in data
            or self._client is None
            or not self._client.takes_chunks
            or not self._meter.skip(data)
        ):
            return 0.0
        self._progress.sent_bytes += length  # its tail stays as it is: behind a whole event
        self._client.write(data)
        return self.came()

    def note(self, piece: bytes) -> bytes:
        """Take note of a piece; what of it is to be sent."""
        self.came()
        data = self._meter.feed(piece)
        if data:
            self._progress.sent_bytes += len(data)
            self._progress.tail.feed(data)
        return data

    def finish(self) -> bytes:
        """The stream is at its end: what was held back."""
        held = self._meter.finish()
        self._progress.sent_bytes += len(held)
        return held

    def take(self, piece: bytes) -> bool:
        data = self.note(piece)
        if not data:
            return True
        assert self._client is not None  # it was open
        self._client.write_chunk(data)
        return not self._progress.tail.done


async def relay(
    connection: UpstreamConnection,
    first: bytes | None,
    send: Send,
    *,
    client: ClientConnection | None,
    head: ResponseHead,
    headers: Headers,
    idle_timeout: float,
    progress: Progress,
    meter: Meter,
    gaps: Distribution,
    hang_up: Callable[[], None],
    family: Family,
) -> None:
    """Send status, ``headers`` and body; ``first`` is the body's first piece, None an empty body.

    An event stream that breaks off ends with an error event and without ``[DONE]``; any other
    answer just ends, and :attr:`Progress.truncated` is set. ``hang_up`` has the client's connection
    closed after the answer. Status and headers are left out where pings have made a beginning.
    """
    is_stream = head.is_stream
    if not progress.started:
        progress.started, progress.status, progress.is_stream = True, head.status, is_stream
        await send({"type": "http.response.start", "status": head.status, "headers": headers})
    tail, piece = progress.tail, first
    straight = StraightOn(client, progress, meter, gaps) if is_stream else None

    async def give(data: bytes, more: bool) -> None:
        progress.sent_bytes += len(data)
        if is_stream:
            tail.feed(data)
        await send({"type": "http.response.body", "body": data, "more_body": more})

    try:
        while piece is not None:
            if straight is not None:
                straight.came()
            last = connection.ended
            data = meter.feed(piece)
            if last:
                await give(data + meter.finish(), False)
                return
            if data:
                await give(data, True)
            done = is_stream and tail.done
            if straight is not None and not done and straight.open:
                await connection.pass_on(straight, idle_timeout)
                done = tail.done
            piece = await (_after_done(connection) if done else connection.chunk(idle_timeout))
        await give(meter.finish(), False)
    except UpstreamError as error:
        held = meter.finish()
        if held:
            await give(held, True)
        if isinstance(error, UpstreamTimeoutError):
            message = f"the engine sent nothing for {idle_timeout:g} s; the answer is not complete"
        else:
            message = f"the answer broke off: {error}"
        await break_off(send, message, error.code, progress, hang_up=hang_up, family=family)


async def break_off(
    send: Send,
    message: str,
    code: str,
    progress: Progress,
    *,
    hang_up: Callable[[], None],
    family: Family,
) -> None:
    """End an answer that has begun and cannot be completed."""
    progress.error = code
    if not progress.is_stream:
        progress.truncated = True
        return
    frame = error_frame(family, message, code)
    if not progress.tail.at_boundary:
        frame = b"\n\n" + frame  # ends the event that broke off, so that this one is read
    progress.sent_bytes += len(frame)
    hang_up()
    await send({"type": "http.response.body", "body": frame, "more_body": False})


async def _after_done(connection: UpstreamConnection) -> bytes | None:
    try:
        return await connection.chunk(DONE_GRACE_S)
    except UpstreamError:
        return None
