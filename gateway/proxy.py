"""One proxied request, from the client's first byte to the last."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from modeltainer.gateway.accounting import Accounting
from modeltainer.gateway.admission import Admission
from modeltainer.gateway.arrival import Arrival
from modeltainer.gateway.attempt import (
    RETRIABLE,
    Patience,
    SlowStartError,
    begin,
    is_coded,
    may_retry,
    retry_after_s,
)
from modeltainer.gateway.auth import Authenticator
from modeltainer.gateway.body import Body, parse, parse_at_once
from modeltainer.gateway.body_budget import BodyBudget
from modeltainer.gateway.breaker import Trial
from modeltainer.gateway.client_connection import client_connection
from modeltainer.gateway.cold_start import ColdStart
from modeltainer.gateway.demand_book import DemandBook
from modeltainer.gateway.endpoint_set import EndpointSet, LiveEndpoint
from modeltainer.gateway.errors import GatewayError, Receive, Scope, Send, send_error
from modeltainer.gateway.exchange import Exchange, Interruption
from modeltainer.gateway.first_event import error_in
from modeltainer.gateway.headers import (
    look_at,
    request_head,
    response_headers,
    tried,
)
from modeltainer.gateway.limits import AnyLimiter
from modeltainer.gateway.log import JsonLog
from modeltainer.gateway.metrics import Metrics
from modeltainer.gateway.multipart import parse_form
from modeltainer.gateway.paths import Route
from modeltainer.gateway.pool import PoolTimeoutError
from modeltainer.gateway.relay import break_off, relay
from modeltainer.gateway.request_body import ClientGoneError, read_body
from modeltainer.gateway.settings import GatewaySettings
from modeltainer.gateway.standing import Standing, explain
from modeltainer.gateway.token_meter import JsonMeter, Meter, StreamMeter
from modeltainer.gateway.tracing import Tracer, traceparent_of
from modeltainer.gateway.upstream import (
    ConnectError,
    ConnectionDiedError,
    EngineError,
    ResponseHead,
    UpstreamConnection,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeoutError,
)
from modeltainer.registry.keys import KeyRecord

if TYPE_CHECKING:
    from modeltainer.gateway.fast_path import FastExchange as Handed

Request = tuple[bytes | memoryview, ...]

MAX_ATTEMPTS = 3
"""Endpoints tried for one request: one that brings engines down must not bring all of them down."""

ONE_PIECE = 64 * 1024
"""Bytes of a request up to which it is written in one piece."""

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
        self.admission = Admission(settings, endpoints, limiter)
        share = max(settings.max_buffered_bytes // workers, settings.max_body_bytes)
        # With no keys all clients are one, who has nobody to leave room for.
        spare = min(settings.max_body_bytes, share // 2) if settings.auth == "keys" else 0
        self._budget = BodyBudget(share, spare)
        self._patience = Patience(settings.first_byte_timeout)
        """For most requests."""
        self._parsing = ThreadPoolExecutor(2, "parsing")
        """For bodies that take long; others' requests go on meanwhile."""
        self._running: set[Exchange] = set()
        self._reading: set[object] = set()
        """Connections with a part of a request, which is no exchange yet."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = False
        """No new work is taken."""

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return len(self._running) + len(self._reading)

    async def idle(self) -> None:
        """Wait until no request is under way."""
        await self._idle.wait()

    def stop_all(self) -> None:
        """End all requests that still run, each with an error."""
        for exchange in list(self._running):
            exchange.interrupt(Interruption.SHUTDOWN)

    async def __call__(self, scope: Scope, receive: Receive, send: Send, route: Route) -> None:
        """Serve one POST to an allowed path."""
        fields = look_at(scope["headers"])
        query: bytes = scope["query_string"]
        target = route.path.encode() + (b"?" + query if query else b"")
        exchange = Exchange(
            fields.request_id, route, target, fields, send, client_connection(scope)
        )
        self.enter(exchange)
        await self._carry(exchange, lambda: self._from_start(exchange, receive))

    async def carry_on(self, handed: Handed, scope: Scope, send: Send) -> None:
        """Serve the rest of a request that callbacks have carried until now."""
        exchange = handed.exchange
        exchange.send, exchange.client = send, client_connection(scope)
        await self._carry(exchange, lambda: self._from_there(handed))

    def note_reading(self, connection: object, reading: bool) -> None:
        """A part of a request has come on a connection; or the rest of it has, or will not."""
        if reading:
            self._reading.add(connection)
            self._idle.clear()
        else:
            self._reading.discard(connection)
            self._note_idle()

    def _note_idle(self) -> None:
        if not (self._running or self._reading):
            self._idle.set()

    def enter(self, exchange: Exchange) -> None:
        """A request has come; :meth:`finish` is to follow."""
        self._running.add(exchange)
        self._idle.clear()
        if self._tracer is not None:
            exchange.span = self._tracer.begin(exchange)
        if self._settings.total_timeout is not None:
            left_s = self._settings.total_timeout + exchange.started - time.monotonic()
            exchange.alarm = self.loop.call_later(
                max(0.0, left_s), exchange.interrupt, Interruption.TIMEOUT
            )

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The one event loop there is."""
        # Each look at the running one asks the kernel for the process id (Python below 3.12).
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    async def _carry(self, exchange: Exchange, work: Callable[[], Awaitable[None]]) -> None:
        """Do a request's work, and answer for whatever comes of it."""
        exchange.task = asyncio.current_task(self.loop)
        try:
            try:
                await work()
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
            self.finish(exchange)

    async def _from_start(self, exchange: Exchange, receive: Receive) -> None:
        key = await self._admit(exchange)
        data = await self._read(exchange, key, receive)
        # The request is read, so the only thing still to come is the client's leaving.
        watch = self._watch(exchange, receive)
        try:
            exchange.read_at = time.monotonic()
            if exchange.route.form != "json":
                body: Body | None = parse_form(data, exchange.fields.raw)
            else:
                body = parse_at_once(data)
            if body is None:
                body = await self.loop.run_in_executor(self._parsing, parse, data)
            await self._serve(exchange, key, body)
        finally:
            if watch is not None:
                watch.cancel()

    async def _from_there(self, handed: Handed) -> None:
        """From the first endpoint's answer on, or from the way to it."""
        exchange, live, body = handed.exchange, handed.live, handed.body
        model = live.target.model
        try:
            if exchange.client is not None:
                exchange.client.when_lost(exchange.leave)
            failure = await self._attempt(exchange, live, body, handed)
            if failure is not None:
                await self._try(exchange, model, body, failure)
        finally:
            self.leave(exchange, model)

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

    def finish(self, exchange: Exchange) -> None:
        """A request is over, whatever became of it."""
        exchange.over = True
        self._running.discard(exchange)
        self._note_idle()
        # What refers to each other would wait for the garbage collector.
        if exchange.client is not None:
            exchange.client.forget()
        exchange.task = exchange.hand_over = None
        if exchange.alarm is not None:
            exchange.alarm.cancel()
        self.give_back(exchange)
        progress = exchange.progress
        status = 499 if exchange.client_gone and not progress.started else progress.status
        self._accounting.count(exchange, status)
        if self._tracer is not None and exchange.span is not None:
            self._tracer.end(exchange, exchange.span, status)
        self._log.request(exchange, status)

    async def _admit(self, exchange: Exchange) -> KeyRecord:
        key = await self._authenticator.admit(exchange.fields.raw)
        exchange.key = key
        admitted = exchange.client is not None and exchange.client.admitted
        if self.draining and not admitted:
            raise _shutting_down()
        return key

    def give_back(self, exchange: Exchange) -> None:
        """What the request has held and reserved is free again."""
        if exchange.buffered_bytes and exchange.key is not None:
            self._budget.give(exchange.key.id, exchange.buffered_bytes)
        if exchange.limits is not None and exchange.reservation is not None:
            exchange.limits.settle(exchange.reservation, exchange.tokens_used(), time.monotonic())

    async def _read(self, exchange: Exchange, key: KeyRecord, receive: Receive) -> bytes:
        async def hold(size: int) -> None:
            try:
                await self._budget.take(key.id, size, self._settings.pool_timeout)
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

        return await read_body(receive, exchange.fields.raw, self._settings.max_body_bytes, hold)

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
        # A key learns nothing of a model that it may not use.
        model = exchange.model if error.status != 403 else None
        progress.sent_bytes = await send_error(
            exchange.send,
            error,
            exchange.request_id,
            exchange.route.family,
            tried(model, exchange.attempts),
        )

    def _interruption(self, exchange: Exchange) -> GatewayError:
        if exchange.interrupted is Interruption.TIMEOUT:
            limit = self._settings.total_timeout
            return GatewayError(504, f"the request took longer than {limit:g} s", "request_timeout")
        return _shutting_down()

    async def _serve(self, exchange: Exchange, key: KeyRecord, body: Body) -> None:
        model = self.admission.model(exchange, key, body)
        self.admission.reserve(exchange, key, body)
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
            self.leave(exchange, model)

    def leave(self, exchange: Exchange, model: str) -> None:
        """A request asks no more for a model."""
        self._book.given_up(exchange)
        self._book.end(model)

    async def _try(
        self, exchange: Exchange, model: str, body: Body, failure: UpstreamError | None = None
    ) -> None:
        """Send the request to one endpoint after the other, until one answers. ``failure``: of the
        one that was asked already."""
        while True:
            if failure is not None:
                self._metrics.retries.add(model, failure.code)
                self._log.warning(
                    "attempt_failed",
                    request_id=exchange.request_id,
                    endpoint=exchange.endpoint,
                    error=failure.code,
                    message=str(failure),
                )
                if not may_retry(failure) or exchange.attempts == MAX_ATTEMPTS:
                    break
            live = self._endpoints.pick(model, exchange.tried, body, exchange.affinity)
            if live is None:
                break
            failure = await self._attempt(exchange, live, body)
            if failure is None:
                return
        raise await self._no_answer(model, failure)

    def _has_another(self, exchange: Exchange, model: str) -> bool:
        """Whether there is one more endpoint to ask."""
        return exchange.attempts < MAX_ATTEMPTS and self._endpoints.has_other(model, exchange.tried)

    async def _no_answer(self, model: str, failure: UpstreamError | None) -> GatewayError:
        if isinstance(failure, EngineError):
            message = f"{model}: the engine answered with an error: {failure}"
            least_s = 1 if failure.status in RETRIABLE else None
            return GatewayError(
                failure.status,
                message,
                failure.code,
                retry_after_s=math.ceil(failure.retry_after_s or 0) or least_s,
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
        message, again_s = explain(model, await self._standing.rows(), time.time())
        return GatewayError(503, message, "model_not_ready", param="model", retry_after_s=again_s)

    def begin_attempt(self, exchange: Exchange, live: LiveEndpoint) -> Trial:
        """An endpoint is tried; :meth:`end_attempt` is to follow."""
        exchange.endpoint = live.target.key
        exchange.tried.add(exchange.endpoint)
        live.outstanding += 1
        live.requests += 1
        return Trial(live.breaker)

    async def _attempt(
        self, exchange: Exchange, live: LiveEndpoint, body: Body, handed: Handed | None = None
    ) -> UpstreamError | None:
        """One try on one endpoint; the error when no answer has begun, else None. ``handed``: it
        has been begun."""
        trial = self.begin_attempt(exchange, live) if handed is None else handed.trial
        try:
            if handed is None:
                return await self._ask(exchange, live, body, trial)
            if exchange.interrupted is not None:
                handed.let_go()
                raise asyncio.CancelledError
            if handed.failure is not None:
                handed.let_go()
                raise handed.failure
            return await self._ask(exchange, live, body, trial, handed)
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
            self.end_attempt(exchange, live, trial)

    def end_attempt(self, exchange: Exchange, live: LiveEndpoint, trial: Trial) -> None:
        """It is over, with or without a verdict."""
        if exchange.progress.error:
            trial.broke_off()
        trial.end()
        live.outstanding -= 1

    def request(self, exchange: Exchange, live: LiveEndpoint, body: Body) -> Request:
        """What an endpoint is sent."""
        target = live.target
        pieces = body.pieces(target.served_name, include_usage=self.hides_usage(exchange, body))
        length = sum(len(piece) for piece in pieces)
        top = request_head(
            exchange.target,
            exchange.fields,
            target,
            length,
            rid=exchange.request_id,
            trace=exchange.fields.trace if exchange.span is None else traceparent_of(exchange.span),
        )
        self.note_own_time(exchange)
        return (top + b"".join(pieces),) if length < ONE_PIECE else (top, *pieces)

    def note_own_time(self, exchange: Exchange) -> None:
        """From here on an endpoint is waited for; nothing when that was noted already."""
        if exchange.read_at:
            self._metrics.overhead.of().observe(time.monotonic() - exchange.read_at)
            exchange.read_at = 0.0

    def hides_usage(self, exchange: Exchange, body: Body) -> bool:
        """Whether a stream's engine is asked for token counts that its client did not ask for."""
        counted = self._settings.usage and exchange.route.label in COUNTED_STREAMS
        return counted and body.stream and not body.asks_usage

    async def _ask(
        self,
        exchange: Exchange,
        live: LiveEndpoint,
        body: Body,
        trial: Trial,
        handed: Handed | None = None,
    ) -> UpstreamError | None:
        another = self._has_another(exchange, live.target.model)
        sent, ping_due, gone_s = None, False, 0.0
        if handed is not None and handed.connection is not None:
            sent, ping_due = handed.connection, handed.ping_due
            gone_s = time.monotonic() - handed.asked_at
        patience = self.patience(exchange, live.target.model, gone_s)
        request: Request = () if sent is not None else self.request(exchange, live, body)
        fresh = False
        while True:
            connection = sent or await live.pool.acquire(fresh=fresh)
            try:
                try:
                    if exchange.meter is not None:  # its answer has begun
                        await self._relay(exchange, live, connection, b"")
                        return None
                    if sent is None:
                        await connection.send(request, patience.limit_s)
                    elif ping_due and patience.ping is not None and not connection.head_done:
                        await patience.ping()
                    head, first = await begin(connection, patience)
                except ConnectionDiedError:
                    # A kept connection may have been closed by the engine just as we took it.
                    if connection.used > 1 and connection.head_bytes == 0 and not fresh:
                        request = request or self.request(exchange, live, body)
                        fresh, sent = True, None
                        continue
                    raise
                if head.status == 401:
                    self._endpoints.suspect(live, "it refuses the launch's key")
                    return UpstreamProtocolError("the engine refuses the gateway's key")
                if head.status in RETRIABLE:
                    self._put_off(live, head, another)
                pinged = exchange.progress.started
                if pinged and not (head.status == 200 and head.is_stream):
                    trial.answered(head.status)
                    return _no_stream(head, first)
                trial.answered(head.status)
                if body.stream and head.status == 200 and not head.is_stream:
                    self._book.answered(exchange)  # a compressed stream counts as a plain body
                self.answered(exchange, body, head.is_stream)
                await self._relay(exchange, live, connection, first)
                return None
            finally:
                live.pool.release(connection)

    def _put_off(self, live: LiveEndpoint, head: ResponseHead, another: bool) -> None:
        """The engine did not begin to work on the request, and may have said until when.

        Raises:
            EngineError: there is another to ask.
        """
        again_s = retry_after_s(head, time.time())
        if again_s is not None:
            self._endpoints.leave_alone(live, again_s)
        if another:
            raise EngineError(head.status, f"status {head.status}", retry_after_s=again_s)

    def answered(self, exchange: Exchange, body: Body, stream: bool) -> Meter:
        """The answer has begun, and is about to be passed on."""
        exchange.first_byte_s = time.monotonic() - exchange.started
        if stream:
            self._book.answered(exchange)
            exchange.meter = StreamMeter(strip=self.hides_usage(exchange, body))
        else:
            exchange.meter = JsonMeter()
        return exchange.meter

    async def _relay(
        self,
        exchange: Exchange,
        live: LiveEndpoint,
        connection: UpstreamConnection,
        first: bytes | None,
    ) -> None:
        head, model = connection.response, live.target.model
        assert exchange.meter is not None
        await relay(
            connection,
            first,
            exchange.send,
            client=exchange.client,
            head=head,
            headers=response_headers(head, exchange.request_id, exchange.attempts, model),
            idle_timeout=self._settings.idle_timeout,
            progress=exchange.progress,
            meter=exchange.meter,
            gaps=self._metrics.gap.of(model),
            hang_up=exchange.hang_up,
            family=exchange.route.family,
        )
        exchange.cut_if_truncated()

    def patience(self, exchange: Exchange, model: str, gone_s: float = 0.0) -> Patience:
        """How long an endpoint's answer is waited for, of which ``gone_s`` are over."""
        settings = self._settings
        limit_s, shorter = settings.first_byte_timeout, settings.first_token_timeout
        hurried = False
        if exchange.stream and shorter is not None and shorter < limit_s:
            hurried = self._has_another(exchange, model)
            limit_s = shorter if hurried else limit_s
        if not exchange.stream or settings.ping_interval == 0:
            if not (hurried or gone_s):
                return self._patience
            return Patience(max(0.001, limit_s - gone_s), hurried)
        limit_s = max(0.001, limit_s - gone_s)
        return Patience(limit_s, hurried, settings.ping_interval, exchange.ping)


def _no_stream(head: ResponseHead, first: bytes | None) -> UpstreamError:
    """Why an answer cannot go on a stream that has begun; ``first`` is the first of its body."""
    if head.status == 200 and is_coded(head):
        return UpstreamProtocolError("the engine compresses its answer, though it was asked not to")
    said = error_in(first or b"")
    return EngineError(head.status, f"status {head.status}" if said is None else said.message)


def _uncancel(exchange: Exchange) -> None:
    """Since Python 3.11 a task counts cancellations; this one was our own and is dealt with."""
    uncancel = getattr(exchange.task, "uncancel", None)
    if uncancel is not None:
        uncancel()


def _shutting_down() -> GatewayError:
    return GatewayError(
        503, "the gateway is shutting down; try again", "shutting_down", retry_after_s=5, close=True
    )
