"""Reading a request's body: bounded, and to its end even when it is refused."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from io import BytesIO

from modeltainer.gateway.body_budget import SMALL
from modeltainer.gateway.errors import GatewayError, Headers, Receive

DISCARD_S = 5.0
"""How long a body that is not taken is read on before it is refused."""
DISCARD_IDLE_S = 0.5
"""A client that has sent nothing for so long waits for the answer."""


class ClientGoneError(Exception):
    """The client left before its request was complete."""


async def read_body(
    receive: Receive, headers: Headers, limit: int, hold: Callable[[int], Awaitable[None]]
) -> bytes:
    """The whole request body.

    Args:
        limit: bytes it may have.
        hold: called with the length it may have, before the rest of a large one is read.

    Raises:
        GatewayError: 413 above ``limit`` bytes, 415 when it is compressed.
        ClientGoneError: the client left while sending.
    """
    expected, compressed = limit, False
    for name, value in headers:
        if name == b"content-length":
            expected = int(value)
        elif name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            compressed = True
    if expected > limit:
        raise _too_large(limit, whole=await discard(receive, headers))
    if compressed:
        whole = await discard(receive, headers)
        words = "compressed request bodies are not taken"
        raise GatewayError(415, words, "unsupported_encoding", close=not whole)
    body = BytesIO()
    length = 0
    held = False
    while True:
        if length > SMALL and not held:
            await hold(expected)
            held = True
            body = _with_room(body, expected)
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        piece = message.get("body", b"")
        length += len(piece)
        if length > limit:
            body.close()
            whole = not message.get("more_body", False) or await discard(receive, headers)
            raise _too_large(limit, whole=whole)
        body.write(piece)
        if not message.get("more_body", False):
            body.truncate()
            return body.getvalue()


def _with_room(begun: BytesIO, size: int) -> BytesIO:
    """A buffer that need not grow: one that does, or is joined in the end, is there twice for a
    while, and many of them leave gaps in the memory that nothing fits in."""
    body = BytesIO(bytes(size))
    body.write(begun.getbuffer())
    return body


async def discard(receive: Receive, headers: Headers) -> bool:
    """Read on for a moment: a connection closed on a client that still sends is reset, and the
    client would never see why. Whether the body has come to its end, and the connection may be
    used on."""
    if any(name == b"expect" for name, _ in headers):
        return False  # it waits for leave to send

    deadline = time.monotonic() + DISCARD_S
    with contextlib.suppress(asyncio.TimeoutError):
        while (left := deadline - time.monotonic()) > 0:
            message = await asyncio.wait_for(receive(), min(left, DISCARD_IDLE_S))
            if message["type"] == "http.disconnect":
                return False
            if not message.get("more_body", False):
                return True
    return False


def _too_large(limit: int, *, whole: bool) -> GatewayError:
    return GatewayError(
        413,
        f"the request body is larger than {limit} bytes (gateway.max_body_bytes)",
        "request_too_large",
        close=not whole,
    )
