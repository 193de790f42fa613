"""One proxied request, from the client's first byte to the last."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time

from modeltainer.gateway.accounting import Accounting
from modeltainer.gateway.affinity import choose_arm, prefix_key, session_key, user_key
from modeltainer.gateway.arrival import Arrival
from modeltainer.gateway.attempt import RETRIABLE, Patience, SlowStartError, begin, may_retry
from modeltainer.gateway.auth import Authenticator
from modeltainer.gateway.body import Body, parse
from modeltainer.gateway.body_budget import BodyBudget
from modeltainer.gateway.breaker import Trial
from modeltainer.gateway.client_connection import client_connection
from modeltainer.gateway.cold_start import ColdStart
from modeltainer.gateway.demand_book import DemandBook
from modeltainer.gateway.endpoint_set import EndpointSet, LiveEndpoint
from modeltainer.gateway.errors import GatewayError, Headers, Receive, Scope, Send, send_error
from modeltainer.gateway.exchange import Exchange, Interruption
from modeltainer.gateway.headers import (
    is_event_stream,
    request_head,
    request_id,
    response_headers,
    traceparent,
)
from modeltainer.gateway.limits import BYTES_PER_TOKEN, AnyLimiter, Refusal
from modeltainer.gateway.log import JsonLog
from modeltainer.gateway.metrics import Metrics
from modeltainer.gateway.multipart import parse_form
from modeltainer.gateway.paths import Route
from modeltainer.gateway.pool import PoolTimeoutError
from modeltainer.gateway.relay import break_off, relay
from modeltainer.gateway.request_body import ClientGoneError, read_body
from modeltainer.gateway.routing import unknown_model
from modeltainer.gateway.settings import GatewaySettings
from modeltainer.gateway.standing import Standing, explain
from modeltainer.gateway.token_meter import JsonMeter, StreamMeter
from modeltainer.gateway.tracing import Tracer, traceparent_of
from modeltainer.gateway.upstream import (
    ConnectError,
    ConnectionDiedError,
    EngineError,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeoutError,
)
from modeltainer.registry.keys import KeyRecord

MAX_ATTEMPTS = 3
"""Endpoints tried for one request: one that brings engines down must not bring all of them down."""

MAX_USER = 128
"""Characters of ``user`` that are kept."""

COUNTED_STREAMS = frozenset({"chat", "completions"})
"""Routes whose streams name their tokens only if asked to; the others' always do."""


class Proxy:
    """Carries requests to engines. One per gateway."""

    def __init__(
        self,
        settings: GatewaySettings,
        *,
        endpoints: EndpointSet,
        authenticator: Authenticator,
        standing: Standing,
        accounting: Accounting,
        metrics: Metrics,
        log: JsonLog,
        arrival: Arrival,
        cold_start: ColdStart,
        book: DemandBook,
        limiter: AnyLimiter,
        workers: int = 1,
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer = tracer
        self._accounting, self._metrics = accounting, metrics
        self._settings, self._endpoints = settings, endpoints
        self._arrival, self._cold_start, self._book = arrival, cold_start, book
        self._authenticator, self._standing, self._log = authenticator, standing, log
        self._limiter = limiter
        share = max(settings.max_buffered_bytes // workers, settings.max_body_bytes)
        self._budget = BodyBudget(share)
        self._running: set[Exchange] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
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
            exchange.interrupt(Interruption.SHUTDOWN)

    async def __call__(self, scope: Scope, receive: Receive, send: Send, route: Route) -> None:
        """Serve one POST to an allowed path."""
        headers: Headers = scope["headers"]
        exchange = Exchange(
            request_id(headers),
            scope["method"],
            route,
            scope["query_string"],
            headers,
            send,
            client_connection(scope),
        )
        # Each look at the running loop asks the kernel for the process id (Python below 3.12).
        loop = self._loop = self._loop or asyncio.get_running_loop()
        exchange.task = asyncio.current_task(loop)
        self._running.add(exchange)
        self._idle.clear()
        if self._tracer is not None:
            exchange.span = self._tracer.begin(exchange)
        watch: asyncio.Task[None] | None = None
        alarm: asyncio.TimerHandle | None = None
        if self._settings.total_timeout is not None:
            alarm = loop.call_later(
                self._settings.total_timeout, exchange.interrupt, Interruption.TIMEOUT
            )
        try:
            try:
                key = await self._admit(exchange)
                data = await self._read(exchange, receive)
                # The request is read, so the only thing still to come is the client's leaving.
                watch = self._watch(exchange, receive)
                exchange.read_at = time.monotonic()
                body = parse(data) if route.form == "json" else parse_form(data, headers)
                await self._serve(exchange, key, body)
            except asyncio.CancelledError:
                if exchange.interrupted is None:
                    raise
                _uncancel(exchange)
                if not exchange.client_gone:
                    await self._refuse(exchange, self._interruption(exchange))
        except ClientGoneError:
            exchange.interrupted = Interruption.CLIENT_GONE
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
            if watch is not None:
                watch.cancel()
            if alarm is not None:
                alarm.cancel()
            self._finish(exchange)

    def _watch(self, exchange: Exchange, receive: Receive) -> asyncio.Task[None] | None:
        """Have the exchange broken off when its client leaves."""
        if exchange.client is not None:
            exchange.client.when_lost(exchange.leave)
            return None

        async def watch() -> None:
            with contextlib.suppress(asyncio.CancelledError):
                while (await receive())["type"] != "http.disconnect":
                    pass
                exchange.leave()

        return asyncio.create_task(watch())

    def _finish(self, exchange: Exchange) -> None:
        exchange.over = True
        self._running.discard(exchange)
        if not self._running:
            self._idle.set()
        # What refers to each other would wait for the garbage collector.
        if exchange.client is not None:
            exchange.client.forget()
        exchange.task = None
        self._give_back(exchange)
        self._write_log(exchange)

    async def _admit(self, exchange: Exchange) -> KeyRecord:
        key = await self._authenticator.admit(exchange.headers)
        exchange.key = key
        if self.draining:
            raise _shutting_down()
        return key

    def _give_back(self, exchange: Exchange) -> None:
        if exchange.buffered_bytes:
            self._budget.give(exchange.buffered_bytes)
        if exchange.limits is not None and exchange.reservation is not None:
            exchange.limits.settle(exchange.reservation, exchange.tokens_used(), time.monotonic())

    async def _read(self, exchange: Exchange, receive: Receive) -> bytes:
        async def hold(size: int) -> None:
            try:
                await self._budget.take(size, self._settings.pool_timeout)
            except asyncio.TimeoutError:
                raise GatewayError(
                    503,
                    "the gateway holds as many large requests as it may "
                    "(gateway.max_buffered_bytes); try again",
                    "gateway_busy",
                    retry_after_s=1,
                    close=True,
                ) from None
            exchange.buffered_bytes = size

        return await read_body(receive, exchange.headers, self._settings.max_body_bytes, hold)

    async def _refuse(self, exchange: Exchange, error: GatewayError) -> None:
        exchange.over = True  # what is left is quick, and not to be interrupted
        progress = exchange.progress
        if progress.started:
            await break_off(
                exchange.send,
                error.message,
                error.code,
                progress,
                hang_up=exchange.hang_up,
                family=exchange.route.family,
            )
            exchange.cut_if_truncated()
            return
        progress.status, progress.error = error.status, error.code
        progress.sent_bytes = await send_error(
            exchange.send, error, exchange.request_id, exchange.route.family
        )

    def _interruption(self, exchange: Exchange) -> GatewayError:
        if exchange.interrupted is Interruption.TIMEOUT:
            limit = self._settings.total_timeout
            return GatewayError(504, f"the request took longer than {limit:g} s", "request_timeout")
        return _shutting_down()

    async def _serve(self, exchange: Exchange, key: KeyRecord, body: Body) -> None:
        exchange.stream = body.stream
        user = body.head.user
        exchange.user = user[:MAX_USER] if isinstance(user, str) else None
        exchange.affinity = session_key(exchange.headers, body)
        model = exchange.model = self._model(exchange, key, body)
        if exchange.affinity is None and self._settings.routing == "prefix":
            exchange.affinity = prefix_key(body)
        self._reserve(exchange, key, body)
        down = waits = not self._endpoints.table.candidates(model)
        if waits:
            down = not await self._arrival.wait(model)
        may_wait = down and await self._cold_start.admit(model)
        self._book.begin(model, waits=down)
        try:
            if may_wait:
                every_s = self._settings.ping_interval if body.stream else 0.0
                await self._cold_start.hold(model, exchange.ping if every_s else None, every_s)
            if waits:
                exchange.read_at = time.monotonic()  # the wait was not the gateway's own time
            if body.stream:
                self._book.asked(exchange, model)
            await self._try(exchange, model, body)
        finally:
            self._book.given_up(exchange)
            self._book.end(model)

    def _model(self, exchange: Exchange, key: KeyRecord, body: Body) -> str:
        """The model for a request; where the name is split, by weight among those that are up."""
        table, name = self._endpoints.table, body.model
        behind = table.models_of(name)
        if not behind:
            raise GatewayError(
                404, unknown_model(name, self._names_for(key)), "model_not_found", param="model"
            )
        allowed = [one for one in behind if key.allows_by(name, one)]
        if not allowed:
            exchange.model = behind[0]
            raise GatewayError(
                403,
                f"The API key {key.name!r} may not use the model {name!r}",
                "model_not_allowed",
                param="model",
            )
        if name not in table.splits:
            return allowed[0]
        exchange.asked = name
        up = [one for one in allowed if table.candidates(one)] or allowed
        member = exchange.affinity or user_key(body) or os.urandom(8)
        arms = {one: table.splits[name][one] for one in up}
        model = choose_arm(arms, name.encode() + member)
        self._metrics.splits.add(name, model)
        return model

    async def _try(self, exchange: Exchange, model: str, body: Body) -> None:
        """Send the request to one endpoint after the other, until one answers."""
        failed: set[str] = set()
        failure: UpstreamError | None = None
        while exchange.attempts < MAX_ATTEMPTS:
            live = self._endpoints.pick(model, failed, exchange.affinity)
            if live is None:
                break
            exchange.attempts += 1
            exchange.endpoint = live.target.key
            failed.add(live.target.key)
            another = exchange.attempts < MAX_ATTEMPTS and self._endpoints.has_other(model, failed)
            failure = await self._attempt(exchange, live, body, another)
            if failure is None:
                return
            self._metrics.retries.add(model, failure.code)
            self._log.warning(
                "attempt_failed",
                request_id=exchange.request_id,
                endpoint=live.target.key,
                error=failure.code,
                message=str(failure),
            )
            if not may_retry(failure):
                break
        raise await self._no_answer(model, failure)

    def _reserve(self, exchange: Exchange, key: KeyRecord, body: Body) -> None:
        now = time.monotonic()
        limits = self._limiter.of(key, now)
        if limits is None:
            return
        if exchange.route.form == "json":
            exchange.prompt_estimate = body.prompt_bytes // BYTES_PER_TOKEN
        found = limits.reserve(exchange.prompt_estimate + body.max_tokens, now)
        if isinstance(found, Refusal):
            self._metrics.limited.add(found.limit)
            unit = "at once" if found.limit == "concurrent" else "a minute"
            what = "tokens" if found.limit == "tokens" else "requests"
            raise GatewayError(
                429,
                f"The API key {key.name!r} may use {found.allowed} {what} {unit}; try again later",
                "rate_limit_exceeded",
                retry_after_s=max(1, math.ceil(found.retry_after_s)),
            )
        exchange.limits, exchange.reservation = limits, found

    def _names_for(self, key: KeyRecord) -> list[str]:
        table = self._endpoints.table
        return [
            name
            for name in table.names
            if any(key.allows_by(name, model) for model in table.models_of(name))
        ]

    async def _no_answer(self, model: str, failure: UpstreamError | None) -> GatewayError:
        if isinstance(failure, EngineError):
            message = f"{model}: the engine answered with an error: {failure}"
            retry_after_s = 1 if failure.status in RETRIABLE else None
            return GatewayError(
                failure.status,
                message,
                failure.code,
                retry_after_s=retry_after_s,
                document=failure.document,
            )
        if isinstance(failure, UpstreamTimeoutError):
            return GatewayError(504, f"{model}: {failure}", failure.code)
        if isinstance(failure, PoolTimeoutError):
            return GatewayError(503, f"{model}: {failure}", failure.code, retry_after_s=1)
        if failure is not None and not isinstance(failure, ConnectError):
            return GatewayError(502, f"{model}: {failure}", failure.code)
        wait_s = self._endpoints.opens_in(model)
        if wait_s is not None:
            message = f"{model} is up, but its engine fails on every request; try again shortly"
            return GatewayError(
                503, message, "engine_failing", param="model", retry_after_s=math.ceil(wait_s) or 1
            )
        message, retry_after_s = explain(model, await self._standing.rows(), time.time())
        return GatewayError(
            503, message, "model_not_ready", param="model", retry_after_s=retry_after_s
        )

    async def _attempt(
        self, exchange: Exchange, live: LiveEndpoint, body: Body, another: bool
    ) -> UpstreamError | None:
        """One try on one endpoint; the error when no answer has begun, else None. ``another``:
        there is one more to try."""
        live.outstanding += 1
        live.requests += 1
        trial = Trial(live.breaker)
        try:
            return await self._ask(exchange, live, body, another, trial)
        except ConnectError as error:
            self._endpoints.suspect(live, str(error))
            trial.failed()
            return error
        except (PoolTimeoutError, SlowStartError) as error:
            return error  # no verdict: nothing is known against the endpoint
        except EngineError as error:
            trial.answered(error.status)
            return error
        except UpstreamError as error:
            trial.failed()
            return error
        finally:
            trial.end()
            live.outstanding -= 1

    async def _ask(
        self, exchange: Exchange, live: LiveEndpoint, body: Body, another: bool, trial: Trial
    ) -> UpstreamError | None:
        target = live.target
        count = self._settings.usage and body.stream and exchange.route.label in COUNTED_STREAMS
        hide = count and not body.asks_usage
        pieces = body.pieces(target.served_name, include_usage=hide)
        length = sum(len(piece) for piece in pieces)
        top = request_head(
            exchange.target,
            exchange.headers,
            target,
            length,
            rid=exchange.request_id,
            trace=(
                traceparent(exchange.headers)
                if exchange.span is None
                else traceparent_of(exchange.span)
            ),
        )
        request = (top + b"".join(pieces),) if length < 65536 else (top, *pieces)
        patience = self._patience(exchange, another)
        fresh = False
        while True:
            if exchange.attempts == 1 and not fresh:
                self._metrics.overhead.of().observe(time.monotonic() - exchange.read_at)
            connection = await live.pool.acquire(fresh=fresh)
            try:
                try:
                    head, first = await begin(connection, request, patience)
                except ConnectionDiedError:
                    # A kept connection may have been closed by the engine just as we took it.
                    if connection.used > 1 and connection.response_bytes == 0 and not fresh:
                        fresh = True
                        continue
                    raise
                if head.status == 401:
                    self._endpoints.suspect(live, "it refuses the launch's key")
                    return UpstreamProtocolError("the engine refuses the gateway's key")
                if another and head.status in RETRIABLE:
                    raise EngineError(head.status, f"status {head.status}")
                pinged = exchange.progress.started
                if pinged and not (head.status == 200 and is_event_stream(head.headers)):
                    raise EngineError(head.status, f"status {head.status}")
                trial.answered(head.status)
                exchange.first_byte_s = time.monotonic() - exchange.started
                if stream := is_event_stream(head.headers):
                    self._book.answered(exchange)
                meter = exchange.meter = StreamMeter(strip=hide) if stream else JsonMeter()
                await relay(
                    connection,
                    first,
                    exchange.send,
                    client=exchange.client,
                    status=head.status,
                    headers=response_headers(
                        head.headers, exchange.request_id, exchange.attempts, target.model
                    ),
                    idle_timeout=self._settings.idle_timeout,
                    progress=exchange.progress,
                    meter=meter,
                    gaps=self._metrics.gap.of(target.model),
                    hang_up=exchange.hang_up,
                    family=exchange.route.family,
                )
            finally:
                live.pool.release(connection)
            exchange.cut_if_truncated()
            return None

    def _patience(self, exchange: Exchange, another: bool) -> Patience:
        settings = self._settings
        limit_s, shorter = settings.first_byte_timeout, settings.first_token_timeout
        if not exchange.stream:
            return Patience(limit_s)
        hurried = another and shorter is not None and shorter < limit_s
        if hurried and shorter is not None:
            limit_s = shorter
        if settings.ping_interval == 0:
            return Patience(limit_s, hurried)
        return Patience(limit_s, hurried, settings.ping_interval, exchange.ping)

    def _write_log(self, exchange: Exchange) -> None:
        progress = exchange.progress
        status = 499 if exchange.client_gone and not progress.started else progress.status
        self._accounting.count(exchange, status)
        if self._tracer is not None and exchange.span is not None:
            self._tracer.end(exchange, exchange.span, status)
        self._log.event(
            "warning" if progress.error and progress.status not in range(400, 500) else "info",
            "request",
            request_id=exchange.request_id,
            method=exchange.method,
            path=exchange.route.path,
            model=exchange.model,
            split=exchange.asked,
            stream=exchange.stream,
            endpoint=exchange.endpoint,
            status=status,
            error=progress.error or None,
            bytes=progress.sent_bytes,
            duration_s=round(time.monotonic() - exchange.started, 6),
            ttfb_s=None if exchange.first_byte_s is None else round(exchange.first_byte_s, 6),
            attempts=exchange.attempts,
            key_id=exchange.key.id if exchange.key is not None else None,
            client_gone=exchange.client_gone,
        )


def _uncancel(exchange: Exchange) -> None:
    """Since Python 3.11 a task counts cancellations; this one was our own and is dealt with."""
    uncancel = getattr(exchange.task, "uncancel", None)
    if uncancel is not None:
        uncancel()


def _shutting_down() -> GatewayError:
    return GatewayError(
        503, "the gateway is shutting down; try again", "shutting_down", retry_after_s=5, close=True
    )
