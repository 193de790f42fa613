"""Reading a request's body: bounded, and to its end even when it is refused."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

from modeltainer.gateway.body_budget import SMALL
from modeltainer.gateway.errors import GatewayError, Headers, Receive

DISCARD_S = 5.0
"""How long a body that is too large is read on before it is refused."""
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
    expected = limit
    for name, value in headers:
        if name == b"content-length":
            expected = int(value)
            if expected > limit:
                await discard(receive, headers)
                raise _too_large(limit)
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise GatewayError(
                415, "compressed request bodies are not taken", "unsupported_encoding", close=True
            )
    pieces: list[bytes] = []
    length = 0
    held = False
    while True:
        if length > SMALL and not held:
            await hold(expected)
            held = True
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        piece = message.get("body", b"")
        length += len(piece)
        if length > limit:
            pieces.clear()
            if message.get("more_body", False):
                await discard(receive, headers)
            raise _too_large(limit)
        if piece:
            pieces.append(piece)
        if not message.get("more_body", False):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def discard(receive: Receive, headers: Headers) -> None:
    """Read on for a moment: a connection closed on a client that still sends is reset, and the
    client would never see why."""
    if any(name == b"expect" for name, _ in headers):
        return  # it waits for leave to send

    deadline = time.monotonic() + DISCARD_S
    with contextlib.suppress(asyncio.TimeoutError):
        while (left := deadline - time.monotonic()) > 0:
            message = await asyncio.wait_for(receive(), min(left, DISCARD_IDLE_S))
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return


def _too_large(limit: int) -> GatewayError:
    return GatewayError(
        413,
        f"the request body is larger than {limit} bytes (gateway.max_body_bytes)",
        "request_too_large",
        close=True,
    )
