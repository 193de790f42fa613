"""From an engine's answer to the client, piece by piece as it comes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

from modeltainer.gateway.client_connection import ClientConnection
from modeltainer.gateway.errors import Headers, Send
from modeltainer.gateway.families import Family, error_frame
from modeltainer.gateway.headers import is_event_stream
from modeltainer.gateway.metrics import Distribution
from modeltainer.gateway.token_meter import Meter
from modeltainer.gateway.upstream import UpstreamConnection, UpstreamError, UpstreamTimeoutError

DONE_GRACE_S = 0.5
"""How long after ``[DONE]`` the engine may take to end its answer; some never do."""
_WINDOW = 64


class StreamTail:
    """The last bytes of an event stream: has ``[DONE]`` passed, and does an event end here?"""

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
        if not self.at_boundary:
            return False
        line = self._tail.rstrip(b"\r\n")
        for form in (b"data: [DONE]", b"data:[DONE]"):
            if line.endswith(form):
                before = line[: -len(form)]
                return not before or before[-1:] in (b"\n", b"\r")
        return False


@dataclass
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


class _StraightOn:
    """Sends the events of a stream from where they arrive: a :class:`Sink`."""

    def __init__(
        self, client: ClientConnection | None, progress: Progress, meter: Meter, gaps: Distribution
    ) -> None:
        """``client``: None where the server does not say what its client's connection is; then it
        is never open."""
        self._client, self._progress, self._meter, self._gaps = client, progress, meter, gaps
        self._came = 0.0

    @property
    def open(self) -> bool:
        return self._client is not None and self._client.takes_chunks

    def came(self) -> None:
        """A piece has arrived, this way or by a turn of the loop: how long after the last one?"""
        now = monotonic()
        if self._came:
            self._gaps.observe(now - self._came)
        self._came = now

    def take(self, piece: bytes) -> bool:
        self.came()
        data = self._meter.feed(piece)
        if not data:
            return True
        assert self._client is not None  # it was open
        progress = self._progress
        progress.sent_bytes += len(data)
        progress.tail.feed(data)
        self._client.write_chunk(data)
        return not progress.tail.done


async def relay(
    connection: UpstreamConnection,
    first: bytes | None,
    send: Send,
    *,
    client: ClientConnection | None,
    status: int,
    headers: Headers,
    idle_timeout: float,
    progress: Progress,
    meter: Meter,
    gaps: Distribution,
    hang_up: Callable[[], None],
    family: Family,
) -> None:
    """Send status, headers and body; ``first`` is the body's first piece, None an empty body.

    An event stream that breaks off ends with an error event and without ``[DONE]``; any other
    answer just ends, and :attr:`Progress.truncated` is set. ``hang_up`` has the client's connection
    closed after the answer. Status and headers are left out where pings have made a beginning.
    """
    is_stream = is_event_stream(headers)
    if not progress.started:
        progress.started, progress.status, progress.is_stream = True, status, is_stream
        await send({"type": "http.response.start", "status": status, "headers": headers})
    tail, piece = progress.tail, first
    straight = _StraightOn(client, progress, meter, gaps) if is_stream else None

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
