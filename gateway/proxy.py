"""One proxied request, from the client's first byte to the last."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import Any

from modeltainer.gateway.auth import Authenticator
from modeltainer.gateway.body import Body, parse
from modeltainer.gateway.client_connection import ClientConnection, client_connection
from modeltainer.gateway.cold_start import ColdStart
from modeltainer.gateway.demand_book import DemandBook
from modeltainer.gateway.endpoint_set import EndpointSet, LiveEndpoint
from modeltainer.gateway.errors import GatewayError, Headers, Receive, Scope, Send, send_error
from modeltainer.gateway.headers import request_head, request_id, response_headers
from modeltainer.gateway.log import JsonLog
from modeltainer.gateway.paths import Route
from modeltainer.gateway.pool import PoolTimeoutError
from modeltainer.gateway.relay import Progress, break_off, relay
from modeltainer.gateway.routing import unknown_model
from modeltainer.gateway.settings import GatewaySettings
from modeltainer.gateway.standing import Standing, explain
from modeltainer.gateway.upstream import (
    ConnectError,
    ConnectionDiedError,
    ResponseHead,
    UpstreamConnection,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeoutError,
)
from modeltainer.registry.keys import KeyRecord

MAX_ATTEMPTS = 3
"""Endpoints tried for one request: one that brings engines down must not bring all of them down."""

DISCARD_S = 5.0
"""How long a body that is too large is read on before it is refused."""


class ClientGoneError(Exception):
    """The client left before its request was complete."""


@dataclass(eq=False)
class Exchange:
    """What is known of one request while it runs; at its end it becomes a log line."""

    request_id: str
    method: str
    path: str
    headers: Headers
    send: Send
    client: ClientConnection | None
    started: float = field(default_factory=time.monotonic)
    progress: Progress = field(default_factory=Progress)
    key_id: str | None = None
    model: str | None = None
    stream: bool = False
    endpoint: str | None = None
    attempts: int = 0
    first_byte_s: float | None = None
    client_gone: bool = False
    stopped: bool = False
    """The gateway is shutting down and waits no longer."""
    task: asyncio.Task[Any] | None = None
    over: bool = False

    def hang_up(self) -> None:
        """Close the client's connection after the answer."""
        if self.client is not None:
            self.client.close_after_answer()

    def cut_if_truncated(self) -> None:
        """Close the client's connection where that is the only way to say that there is more."""
        if self.progress.truncated and self.client is not None:
            self.client.cut()

    def leave(self) -> None:
        """The client is gone: stop at once, wherever the request stands."""
        if not (self.over or self.stopped) and self.task is not None:
            self.client_gone = True
            self.task.cancel()

    def stop(self) -> None:
        """The gateway ends: tell the client and stop."""
        if not (self.over or self.client_gone or self.stopped) and self.task is not None:
            self.stopped = True
            self.task.cancel()


class Proxy:
    """Carries requests to engines. One per gateway."""

    def __init__(
        self,
        settings: GatewaySettings,
        endpoints: EndpointSet,
        authenticator: Authenticator,
        standing: Standing,
        log: JsonLog,
        *,
        cold_start: ColdStart,
        book: DemandBook,
    ) -> None:
        self._settings, self._endpoints = settings, endpoints
        self._cold_start, self._book = cold_start, book
        self._authenticator, self._standing, self._log = authenticator, standing, log
        self._running: set[Exchange] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = False
        """No new work is taken."""

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return len(self._running)

    async def idle(self) -> None:
        """Wait until no request is under way."""
        await self._idle.wait()

    def stop_all(self) -> None:
        """End all requests that still run, each with an error."""
        for exchange in list(self._running):
            exchange.stop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send, route: Route) -> None:
        """Serve one POST to an allowed path."""
        headers: Headers = scope["headers"]
        exchange = Exchange(
            request_id(headers),
            scope["method"],
            route.path,
            headers,
            send,
            client_connection(scope),
        )
        exchange.task = asyncio.current_task()
        self._running.add(exchange)
        self._idle.clear()
        watch: asyncio.Task[None] | None = None
        try:
            try:
                key = await self._admit(exchange)
                data = await read_body(receive, headers, self._settings.max_body_bytes)
                # The request is read, so the only thing still to come is the client's leaving.
                watch = asyncio.create_task(_watch(receive, exchange))
                body = parse(data)
                await self._serve(exchange, key, body)
            except asyncio.CancelledError:
                if not (exchange.client_gone or exchange.stopped):
                    raise
                _uncancel(exchange)
                if not exchange.client_gone:
                    await self._refuse(exchange, _shutting_down())
        except ClientGoneError:
            exchange.client_gone = True
        except GatewayError as error:
            await self._refuse(exchange, error)
        except Exception as error:
            self._log.event(
                "error",
                "fault",
                request_id=exchange.request_id,
                error=f"{type(error).__name__}: {error}",
            )
            fault = GatewayError(500, "the gateway failed on this request", "internal_error")
            await self._refuse(exchange, fault)
        finally:
            exchange.over = True
            self._running.discard(exchange)
            if not self._running:
                self._idle.set()
            if watch is not None:
                watch.cancel()
            self._write_log(exchange)

    async def _admit(self, exchange: Exchange) -> KeyRecord:
        key = await self._authenticator.admit(exchange.headers)
        exchange.key_id = key.id
        if self.draining:
            raise _shutting_down()
        return key

    async def _refuse(self, exchange: Exchange, error: GatewayError) -> None:
        exchange.over = True  # what is left is quick, and not to be interrupted
        progress = exchange.progress
        if progress.started:
            await break_off(exchange.send, error.message, error.code, progress, exchange.hang_up)
            exchange.cut_if_truncated()
            return
        progress.status, progress.error = error.status, error.code
        progress.sent_bytes = await send_error(exchange.send, error, exchange.request_id)

    async def _serve(self, exchange: Exchange, key: KeyRecord, body: Body) -> None:
        model = self._endpoints.table.model_named(body.model)
        exchange.stream = body.stream
        if model is None:
            raise GatewayError(
                404,
                unknown_model(body.model, self._names_for(key)),
                "model_not_found",
                param="model",
            )
        exchange.model = model
        if not key.allows(model):
            raise GatewayError(
                403,
                f"The API key {key.name!r} may not use the model {body.model!r}",
                "model_not_allowed",
                param="model",
            )
        down = not self._endpoints.table.candidates(model)
        may_wait = down and await self._cold_start.admit(model)
        self._book.begin(model, waits=down)
        try:
            if may_wait:
                await self._cold_start.hold(model)
            await self._try(exchange, model, body)
        finally:
            self._book.end(model)

    async def _try(self, exchange: Exchange, model: str, body: Body) -> None:
        """Send the request to one endpoint after the other, until one answers."""
        failed: set[str] = set()
        failure: UpstreamError | None = None
        while exchange.attempts < MAX_ATTEMPTS:
            live = self._endpoints.pick(model, failed)
            if live is None:
                break
            exchange.attempts += 1
            exchange.endpoint = live.target.key
            failure = await self._attempt(exchange, live, body)
            if failure is None:
                return
            failed.add(live.target.key)
            self._log.warning(
                "attempt_failed",
                request_id=exchange.request_id,
                endpoint=live.target.key,
                error=failure.code,
                message=str(failure),
            )
            if isinstance(failure, UpstreamTimeoutError):
                break  # it is still being worked on; a second engine would only do it twice
        raise await self._no_answer(model, failure)

    def _names_for(self, key: KeyRecord) -> list[str]:
        table = self._endpoints.table
        return [
            name
            for name in table.names
            if (model := table.model_named(name)) is not None and key.allows(model)
        ]

    async def _no_answer(self, model: str, failure: UpstreamError | None) -> GatewayError:
        if isinstance(failure, UpstreamTimeoutError):
            return GatewayError(504, f"{model}: {failure}", failure.code)
        if isinstance(failure, PoolTimeoutError):
            return GatewayError(503, f"{model}: {failure}", failure.code, retry_after_s=1)
        if isinstance(failure, (ConnectionDiedError, UpstreamProtocolError)):
            return GatewayError(502, f"{model}: {failure}", failure.code)
        message, retry_after_s = explain(model, await self._standing.rows(), time.time())
        return GatewayError(
            503, message, "model_not_ready", param="model", retry_after_s=retry_after_s
        )

    async def _attempt(
        self, exchange: Exchange, live: LiveEndpoint, body: Body
    ) -> UpstreamError | None:
        """One try on one endpoint; the error when another may be tried, else None."""
        live.outstanding += 1
        live.requests += 1
        try:
            return await self._ask(exchange, live, body)
        except ConnectError as error:
            self._endpoints.suspect(live, str(error))
            return error
        except UpstreamError as error:
            return error
        finally:
            live.outstanding -= 1

    async def _ask(
        self, exchange: Exchange, live: LiveEndpoint, body: Body
    ) -> UpstreamError | None:
        target = live.target
        pieces = body.pieces(target.served_name)
        length = sum(len(piece) for piece in pieces)
        top = request_head(exchange.path, exchange.headers, target, length, exchange.request_id)
        request = (top + b"".join(pieces),) if length < 65536 else (top, *pieces)
        fresh = False
        while True:
            connection = await live.pool.acquire(fresh=fresh)
            try:
                try:
                    head, first = await self._first_piece(connection, request)
                except ConnectionDiedError:
                    # A kept connection may have been closed by the engine just as we took it.
                    if connection.used > 1 and connection.response_bytes == 0 and not fresh:
                        fresh = True
                        continue
                    raise
                if head.status == 401:
                    self._endpoints.suspect(live, "it refuses the launch's key")
                    return UpstreamProtocolError("the engine refuses the gateway's key")
                exchange.first_byte_s = time.monotonic() - exchange.started
                await relay(
                    connection,
                    first,
                    exchange.send,
                    status=head.status,
                    headers=response_headers(head.headers, exchange.request_id, exchange.attempts),
                    idle_timeout=self._settings.idle_timeout,
                    progress=exchange.progress,
                    hang_up=exchange.hang_up,
                )
            finally:
                live.pool.release(connection)
            exchange.cut_if_truncated()
            return None

    async def _first_piece(
        self, connection: UpstreamConnection, request: tuple[bytes | memoryview, ...]
    ) -> tuple[ResponseHead, bytes | None]:
        """Send the request and wait until the answer's body begins, or ends without one."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.first_byte_timeout
        await connection.send(request, self._settings.first_byte_timeout)
        head = await connection.head(max(0.001, deadline - loop.time()))
        return head, await connection.chunk(max(0.001, deadline - loop.time()))

    def _write_log(self, exchange: Exchange) -> None:
        progress = exchange.progress
        self._log.event(
            "warning" if progress.error and progress.status not in range(400, 500) else "info",
            "request",
            request_id=exchange.request_id,
            method=exchange.method,
            path=exchange.path,
            model=exchange.model,
            stream=exchange.stream,
            endpoint=exchange.endpoint,
            status=499 if exchange.client_gone and not progress.started else progress.status,
            error=progress.error or None,
            bytes=progress.sent_bytes,
            duration_s=round(time.monotonic() - exchange.started, 6),
            ttfb_s=None if exchange.first_byte_s is None else round(exchange.first_byte_s, 6),
            attempts=exchange.attempts,
            key_id=exchange.key_id,
            client_gone=exchange.client_gone,
        )


async def read_body(receive: Receive, headers: Headers, limit: int) -> bytes:
    """The whole request body.

    Raises:
        GatewayError: 413 above ``limit`` bytes, 415 when it is compressed.
        ClientGoneError: the client left while sending.
    """
    for name, value in headers:
        if name == b"content-length" and int(value) > limit:
            await _discard(receive, headers)
            raise _too_large(limit)
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise GatewayError(
                415, "compressed request bodies are not taken", "unsupported_encoding", close=True
            )
    pieces: list[bytes] = []
    length = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        piece = message.get("body", b"")
        length += len(piece)
        if length > limit:
            pieces.clear()
            if message.get("more_body", False):
                await _discard(receive, headers)
            raise _too_large(limit)
        if piece:
            pieces.append(piece)
        if not message.get("more_body", False):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def _discard(receive: Receive, headers: Headers) -> None:
    """Read on for a moment: a connection closed on a client that still sends is reset, and the
    client would never see why."""
    if any(name == b"expect" for name, _ in headers):
        return  # it waits for leave to send

    async def rest() -> None:
        while (message := await receive())["type"] != "http.disconnect":
            if not message.get("more_body", False):
                return

    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(rest(), DISCARD_S)


def _too_large(limit: int) -> GatewayError:
    return GatewayError(
        413,
        f"the request body is larger than {limit} bytes (gateway.max_body_bytes)",
        "request_too_large",
        close=True,
    )


async def _watch(receive: Receive, exchange: Exchange) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        while (await receive())["type"] != "http.disconnect":
            pass
        exchange.leave()


def _uncancel(exchange: Exchange) -> None:
    """Since Python 3.11 a task counts cancellations; this one was our own and is dealt with."""
    uncancel = getattr(exchange.task, "uncancel", None)
    if uncancel is not None:
        uncancel()


def _shutting_down() -> GatewayError:
    return GatewayError(
        503, "the gateway is shutting down; try again", "shutting_down", retry_after_s=5, close=True
    )
