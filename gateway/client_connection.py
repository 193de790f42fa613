"""uvicorn's protocol with two things added: errors in OpenAI's shape, and a way to hang up.

ASGI has no message for "close this connection after the answer" once the answer has begun; the
scope extension ``modeltainer.connection`` offers it as :class:`ClientConnection`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from modeltainer.gateway.errors import Scope
from modeltainer.gateway.families import Family, error_document
from modeltainer.gateway.outbox import JoinedWrites

EXTENSION = "modeltainer.connection"


class ClientConnection:
    """The connection a request came on."""

    def __init__(self, cycle: RequestResponseCycle, transport: JoinedWrites) -> None:
        self._cycle, self._transport = cycle, transport
        self._when_lost: Callable[[], None] | None = None
        self._lost = False
        self.admitted = False
        """The request was let in when its head came, maybe before the gateway began to drain."""

    def when_lost(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called when the client is gone; at once where it is already."""
        if self._lost:
            callback()
        else:
            self._when_lost = callback

    @property
    def over(self) -> bool:
        """The answer is complete: nobody waits for the client any more."""
        return bool(self._cycle.response_complete)

    def forget(self) -> None:
        """The request is over; nobody is to be called (and no reference cycle stays)."""
        self._when_lost = None

    def lost(self) -> None:
        """Called by the protocol."""
        self._lost = True
        if self._when_lost is not None:
            self._when_lost()

    @property
    def takes_chunks(self) -> bool:
        """:meth:`write_chunk` may be called: a chunked answer has begun, and the client reads it as
        fast as it comes."""
        cycle = self._cycle
        return bool(
            cycle.chunked_encoding
            and cycle.response_started
            and not (cycle.response_complete or cycle.disconnected or cycle.flow.write_paused)
        )

    def write_chunk(self, data: bytes) -> None:
        """Send a piece of the body, as ASGI's ``http.response.body`` would, without a coroutine."""
        self._transport.write_now(chunk(data))

    def write(self, data: bytes) -> None:
        """As :meth:`write_chunk`, of what is in a chunk already."""
        self._transport.write_now(data)

    def close_after_answer(self) -> None:
        """Let no further request come on it."""
        self._cycle.keep_alive = False

    def cut(self) -> None:
        """Close now (what is written still goes out): the client sees that the answer is cut."""
        self._transport.close()


def chunk(data: bytes) -> bytes:
    """A piece of a body as a chunk (RFC 9112, 7.1); of nothing nothing: it would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


_UPGRADE = re.compile(rb"(?im)^upgrade(?=[ \t]*:)")


class ClientProtocol(HttpToolsProtocol):
    """One client's connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._before_body = True
        self._deaf = False
        self._requests: list[ClientConnection] = []
        """Under way here: one, or several that were sent without waiting for answers."""

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for request in self._requests:
            request.lost()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.transport = cast(asyncio.Transport, JoinedWrites(transport, self.loop))

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if self._before_body and (b"pgrade" in data or b"PGRADE" in data):
            # An offer to speak HTTP/2 (curl --http2, Java's client) may be passed over (RFC 9110,
            # 7.8); but the parser would take what follows the head for the other protocol, and the
            # request would lose its body. So the offer is made unreadable, in the head alone.
            head, blank, rest = data.partition(b"\r\n\r\n")
            data = _UPGRADE.sub(b"x-passed-over", head) + blank + rest
        super().data_received(data)

    def _unsupported_upgrade_warning(self) -> None:
        # The offer came in pieces: nothing behind it can be trusted to begin a request.
        self._deaf = True
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        self._before_body = True
        super().on_message_complete()

    def on_headers_complete(self) -> None:
        self._before_body = False
        super().on_headers_complete()
        cycle: Any = self.cycle
        if cycle is not None:
            request = ClientConnection(cycle, cast(JoinedWrites, self.transport))
            self._requests = [request, *(one for one in self._requests if not one.over)]
            scope: Any = self.scope
            scope["extensions"] = {EXTENSION: request}

    def send_400_response(self, msg: str) -> None:
        body = error_document(Family.OPENAI, 400, msg.rstrip("."), "invalid_http")
        self.transport.write(
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n%s" % (len(body), body)
        )
        self.transport.close()


def client_connection(scope: Scope) -> ClientConnection | None:
    """The extension, where the server offers it; taken out of the scope, which it refers to."""
    found = scope.get("extensions", {}).pop(EXTENSION, None)
    return found if isinstance(found, ClientConnection) else None
