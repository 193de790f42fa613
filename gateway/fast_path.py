"""The plain request, carried by callbacks alone: no task, no coroutine, no more turns of the event
loop than its bytes take.

Plain is what most requests are: JSON of moderate length, for a model that is up, whose first
endpoint answers with status 200, to a client that reads as fast as the answer comes. Whatever is
not so, or ceases to be so, is handed over at that moment to a task, which goes on from there
(:meth:`Proxy.carry_on`): nothing here waits, tries again, or words an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from modeltainer.gateway.auth import Authenticator
from modeltainer.gateway.body import Body, parse_at_once
from modeltainer.gateway.body_budget import SMALL
from modeltainer.gateway.demand_book import DemandBook
from modeltainer.gateway.endpoint_set import EndpointSet, LiveEndpoint
from modeltainer.gateway.errors import GatewayError, Headers, Message, Receive, Scope, Send
from modeltainer.gateway.exchange import Exchange, Interruption
from modeltainer.gateway.first_event import FirstEvent, Verdict
from modeltainer.gateway.headers import Fields, look_at, response_headers
from modeltainer.gateway.metrics import Metrics
from modeltainer.gateway.paths import PROXIED, Route
from modeltainer.gateway.relay import DONE_GRACE_S, ChunkWriter, StraightOn
from modeltainer.gateway.settings import GatewaySettings
from modeltainer.gateway.token_meter import JsonMeter
from modeltainer.gateway.upstream import UpstreamConnection
from modeltainer.registry.keys import KeyRecord

if TYPE_CHECKING:
    from modeltainer.gateway.proxy import Proxy

_ROUTES = {path.encode(): route for path, route in PROXIED.items() if route.form == "json"}
_NOT_PLAIN = frozenset({b"transfer-encoding", b"content-encoding", b"expect", b"upgrade"})
"""With these fields a body may be of any length, in any form, or not come at all yet."""

Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class FastClient(Protocol):
    """The connection that a plain request came on."""

    def chunks(self) -> ChunkWriter:
        """Where the pieces of an answer in chunks go."""

    @property
    def waits(self) -> bool:
        """Not all of what was written has gone out: the client reads slowly."""

    def write_whole(self, headers: Headers, body: bytes) -> None:
        """Send an answer with status 200, all of it."""

    def write_first_chunk(self, headers: Headers, data: bytes) -> None:
        """Begin an answer with status 200 in chunks."""

    def write_last_chunk(self, data: bytes) -> None:
        """Send the last piece of an answer in chunks."""

    def answered(self) -> None:
        """The answer is complete; the next request may come."""

    def hand_over(self, go_on: Application) -> None:
        """Have an ASGI application go on with the request, in a task."""


@dataclass(slots=True)
class PlainHead:
    """What the head of a plain request says. The next one on the connection says the same for the
    most, and need not be looked at again then."""

    target: bytes
    route: Route
    fields: Fields
    """``Content-Length`` is not among them."""
    key: KeyRecord
    generation: int
    """Of the keys, when this one was found."""


class FastPath:
    """Begins plain requests. One per gateway."""

    def __init__(
        self,
        proxy: Proxy,
        settings: GatewaySettings,
        *,
        endpoints: EndpointSet,
        authenticator: Authenticator,
        metrics: Metrics,
        book: DemandBook,
    ) -> None:
        self.proxy, self.settings = proxy, settings
        self.metrics, self.book = metrics, book
        self._endpoints, self._authenticator = endpoints, authenticator
        self._longest = min(SMALL, settings.max_body_bytes)

    def fits(self, length: bytes) -> bool:
        """Whether a body of this length, as its field gives it, may be carried so now."""
        return not self.proxy.draining and 0 < int(length) <= self._longest

    def look_at(self, target: bytes, headers: Headers, known: PlainHead | None) -> PlainHead | None:
        """Whether a POST may be carried so, as far as its head tells; ``known``: the head of the
        request before it."""
        if (
            known is not None
            and known.target == target
            and known.fields.raw == headers
            and self.still_valid(known)
        ):
            return known
        route = _ROUTES.get(target.partition(b"?")[0])
        if route is None or any(name in _NOT_PLAIN for name, _ in headers):
            return None
        generation = self._authenticator.generation
        try:
            key = self._authenticator.identify(headers)
        except GatewayError:
            return None
        return PlainHead(target, route, look_at(headers), key, generation)

    def still_valid(self, head: PlainHead) -> bool:
        """Whether its key may still be used."""
        return self._authenticator.still_valid(head.key, head.generation)

    def begin(
        self, client: FastClient, head: PlainHead, data: bytes, came: float
    ) -> FastExchange | None:
        """Take a request on, which is to be started then; None when it is not plain, and nothing
        was done. ``came``: when its head did (monotonic seconds)."""
        proxy = self.proxy
        exchange = _exchange(head, came)
        exchange.read_at = monotonic()
        try:
            body = parse_at_once(data)
            if body is None:
                return None
            model = proxy.admission.model(exchange, head.key, body)
            live = self._endpoints.pick(model, exchange.tried, body, exchange.affinity)
            if live is None:
                return None
            proxy.admission.reserve(exchange, head.key, body)
        except Exception:  # a fault of our own, too: a task finds it again, and has words for it
            return None
        proxy.enter(exchange)
        self.book.begin(model, waits=False)
        if body.stream:
            self.book.asked(exchange, model)
        return FastExchange(self, client, exchange, live, body)

    def left(self, head: PlainHead, came: float) -> None:
        """The client has left before its request was whole."""
        exchange = _exchange(head, came)
        self.proxy.enter(exchange)
        exchange.interrupted = Interruption.CLIENT_GONE
        self.proxy.finish(exchange)


def _exchange(head: PlainHead, came: float) -> Exchange:
    fields = head.fields
    found = Exchange(fields.request_id, head.route, head.target, fields, _nobody, None, came)
    found.key = head.key
    return found


class FastExchange:
    """One plain request under way."""

    __slots__ = (
        "_client",
        "_connecting",
        "_done",
        "_path",
        "_proxy",
        "_straight",
        "asked_at",
        "body",
        "connection",
        "exchange",
        "failure",
        "live",
        "ping_due",
        "trial",
    )

    def __init__(
        self,
        path: FastPath,
        client: FastClient,
        exchange: Exchange,
        live: LiveEndpoint,
        body: Body,
    ) -> None:
        self._path, self._proxy, self._client = path, path.proxy, client
        self._connecting: asyncio.Task[UpstreamConnection] | None = None
        self._done = False
        """``[DONE]`` has passed."""
        self._straight: StraightOn | None = None
        """Passes the stream on, once it has begun."""
        self.exchange, self.live, self.body = exchange, live, body
        self.connection: UpstreamConnection | None = None
        """Where the request was sent."""
        self.asked_at = 0.0
        """When."""
        self.ping_due = False
        """The client has waited long enough for one."""
        self.failure: BaseException | None = None
        """Why it could not be sent, or its answer not be passed on."""
        self.trial = path.proxy.begin_attempt(exchange, live)
        exchange.hand_over = self.hand_over

    # -- the way to the engine --

    def start(self) -> None:
        """Send the request, as soon as there is a connection."""
        kept = self.live.pool.take_kept()
        if kept is not None:
            self._send(kept)
        else:
            self._proxy.note_own_time(self.exchange)
            self._connecting = self._proxy.loop.create_task(self.live.pool.acquire())
            self._connecting.add_done_callback(self._connected)

    def _connected(self, task: asyncio.Task[UpstreamConnection]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if self._connecting is None:  # handed over, or the client is gone
            if error is None:
                self.live.pool.release(task.result())
            return
        self._connecting = None
        if error is None:
            self._send(task.result())
        else:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Let a task find out what it means."""
        if self.exchange.over:
            raise error
        self.failure = error
        self.hand_over()

    def _send(self, connection: UpstreamConnection) -> None:
        self.connection = connection
        patience = self._proxy.patience(self.exchange, self.live.target.model)
        wait_s = patience.limit_s
        if patience.ping is not None:
            wait_s = min(wait_s, patience.ping_every_s)
        self.asked_at = monotonic()
        try:
            request = b"".join(self._proxy.request(self.exchange, self.live, self.body))
            # Streams begin one by one: one more turn of the loop costs more than it can save.
            connection.post(request, self._came, wait_s, joined=not self.body.stream)
        except Exception as error:
            self._fail(error)

    # -- the answer --

    def _came(self) -> None:
        try:
            self._look()
        except Exception as error:
            self._fail(error)

    def _look(self) -> None:
        connection = self.connection
        assert connection is not None
        if self._straight is None:
            self._begin_answer(connection)
        elif connection.complete or (self._done and connection.failed):
            self._end_stream(connection, self._straight)
        elif connection.failed or self._done or not self.exchange.progress.tail.done:
            self.hand_over()
        else:
            self._done = True
            connection.expect_within(DONE_GRACE_S)

    def _begin_answer(self, connection: UpstreamConnection) -> None:
        if not connection.body_waits:
            if connection.failed:
                self.hand_over()
            return
        head = connection.response
        if head.is_stream:
            plain = FirstEvent().feed(connection.waiting) is Verdict.ANSWER
        else:
            plain = connection.complete
        if head.status != 200 or not plain or self._client.waits:
            self.hand_over()
            return
        exchange, model = self.exchange, self.live.target.model
        headers = response_headers(head, exchange.request_id, 1, model)
        self.trial.answered(200)
        meter = self._proxy.answered(exchange, self.body, head.is_stream)
        progress = exchange.progress
        progress.started, progress.status, progress.is_stream = True, 200, head.is_stream
        if isinstance(meter, JsonMeter):
            data = meter.whole(connection.take())
            progress.sent_bytes = len(data)
            self._client.write_whole(headers, data)
            self._end()
            self._client.answered()
            return
        straight = StraightOn(
            self._client.chunks(), progress, meter, self._path.metrics.gap.of(model)
        )
        self._straight = straight
        self._client.write_first_chunk(headers, straight.note(connection.take()))
        if connection.complete or progress.tail.done:
            self._look()
        else:
            connection.pass_to(straight, self._path.settings.idle_timeout)

    def _end_stream(self, connection: UpstreamConnection, straight: StraightOn) -> None:
        piece = connection.take()
        data = straight.note(piece) if piece else b""
        self._client.write_last_chunk(data + straight.finish())
        self._end()
        self._client.answered()

    # -- the end, one way or the other --

    def leave(self) -> None:
        """The client has left."""
        self.exchange.interrupted = Interruption.CLIENT_GONE
        self._end()

    def hand_over(self) -> None:
        """Let a task go on from here."""
        self.exchange.hand_over = None
        self._stop_connecting()
        if self.connection is not None:
            self.connection.unlisten()
            if self._straight is None:
                self.ping_due = self.connection.give_time()  # how much is left, the task knows
        self._client.hand_over(self._go_on)

    async def _go_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._proxy.carry_on(self, scope, send)

    def let_go(self) -> None:
        """Give the connection back, if there is one."""
        self._stop_connecting()
        if self.connection is not None:
            self.connection.unlisten()
            self.live.pool.release(self.connection)

    def _stop_connecting(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None

    def _end(self) -> None:
        self.let_go()
        self._proxy.end_attempt(self.exchange, self.live, self.trial)
        self._proxy.leave(self.exchange, self.live.target.model)
        self._proxy.finish(self.exchange)


async def _nobody(message: Message) -> None:
    raise AssertionError("nothing is sent this way before a request is handed over")
