"""One try of a request on one endpoint, up to the point where it has answered."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import msgspec

from modeltainer.gateway.first_event import FirstEvent, Verdict
from modeltainer.gateway.upstream import (
    ConnectionDiedError,
    EmptyStreamError,
    EngineError,
    ResponseHead,
    UpstreamConnection,
    UpstreamError,
    UpstreamTimeoutError,
)

RETRIABLE = frozenset({408, 429, 502, 503, 504})
"""Statuses with which another endpoint may be tried: this one did not begin to work on it."""


class SlowStartError(UpstreamTimeoutError):
    """No first event within ``first_token_timeout``: another endpoint may be quicker. It says
    nothing against this one, a long prompt takes its time."""


def may_retry(error: UpstreamError) -> bool:
    """Whether another endpoint may be asked after this failure: a fault of the endpoint's, and not
    of the request's, which would fail there too. One that took all of ``first_byte_timeout`` would
    take it again, on each."""
    if isinstance(error, EngineError):
        return error.status in RETRIABLE
    return isinstance(error, SlowStartError) or not isinstance(error, UpstreamTimeoutError)


def retry_after_s(head: ResponseHead, now_unix: float) -> float | None:
    """In how many seconds an answer says to try again (RFC 9110, 10.2.3: seconds or a date); None
    where it does not."""
    for name, value in head.headers:
        if name == b"retry-after":
            said = value.decode("latin-1").strip()
            if said.isascii() and said.isdecimal():
                return float(said[:9])
            try:
                return max(0.0, parsedate_to_datetime(said).timestamp() - now_unix)
            except (ValueError, OverflowError):
                return None
    return None


@dataclass(frozen=True)
class Patience:
    """How long to wait for an answer to begin, and what to do meanwhile."""

    limit_s: float
    hurried: bool = False
    """The limit is shorter than it might be, as there is another endpoint to ask."""
    ping_every_s: float = 0.0
    """0: no pings."""
    ping: Callable[[], Awaitable[None]] | None = None


async def begin(
    connection: UpstreamConnection,
    patience: Patience,
) -> tuple[ResponseHead, bytes | None]:
    """Wait until the answer to a request has begun: a stream with its first event, any other
    with the first piece of its body. What has come of the body is given back, None when it is
    empty.

    Raises:
        EmptyStreamError: a stream that ended without an event.
        EngineError: a stream whose first event is an error.
        SlowStartError: nothing came in time, and there was a hurry.
        UpstreamError: died, not HTTP, or nothing came in time.
    """
    try:
        return await _begin(connection, patience)
    except UpstreamTimeoutError as error:
        if patience.hurried:
            raise SlowStartError(str(error)) from error
        raise


async def _begin(
    connection: UpstreamConnection,
    patience: Patience,
) -> tuple[ResponseHead, bytes | None]:
    deadline = time.monotonic() + patience.limit_s

    async def patiently(wait: Callable[[float], Awaitable[None]]) -> None:
        while True:
            left = max(0.001, deadline - time.monotonic())
            if patience.ping is None or left <= patience.ping_every_s:
                await wait(left)
                return
            try:
                await wait(patience.ping_every_s)
                return
            except UpstreamTimeoutError:
                await patience.ping()

    if not connection.head_done:
        await patiently(connection.wait_head)
    head = await connection.head(patience.limit_s)
    if head.is_stream and is_coded(head):
        head.is_stream = False  # no event can be told from another in it
    if head.status != 200 or not head.is_stream:
        if not connection.body_waits:
            await patiently(connection.wait_body)
        return head, await connection.chunk(patience.limit_s)
    first = FirstEvent()
    while True:
        if not connection.body_waits:
            await patiently(connection.wait_body)
        try:
            piece = await connection.chunk(patience.limit_s)
        except ConnectionDiedError as error:
            raise ConnectionDiedError("the engine died before its first event") from error
        if piece is None:
            raise EmptyStreamError("the engine's stream ended before its first event")
        verdict = first.feed(piece)
        if verdict is Verdict.ANSWER:
            return head, first.held
        if verdict is Verdict.EMPTY:
            raise EmptyStreamError("the engine's stream ended before its first event")
        if first.error is not None:
            said = first.error
            raise EngineError(said.status, said.message, _document(said.document))


def is_coded(head: ResponseHead) -> bool:
    """Whether a body is compressed, though engines are asked not to."""
    return any(name == b"content-encoding" and value != b"identity" for name, value in head.headers)


def _document(event: dict[str, object]) -> bytes | None:
    return msgspec.json.encode(event) if isinstance(event.get("error"), dict) else None
