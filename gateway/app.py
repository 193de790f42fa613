"""The gateway as one ASGI application.

Outermost is a raw ASGI dispatcher: proxied paths go straight to :class:`Proxy`, so that nothing
stands between an engine's chunk and the client; everything else is FastAPI's (:mod:`.control`).
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from modeltainer.gateway.accounting import Accounting
from modeltainer.gateway.arrival import Arrival
from modeltainer.gateway.auth import NOBODY, Authenticator
from modeltainer.gateway.breaker import BreakerState
from modeltainer.gateway.catalog import Catalog, LoadConfig
from modeltainer.gateway.cold_start import ColdStart
from modeltainer.gateway.config_watch import watch
from modeltainer.gateway.demand_book import DemandBook
from modeltainer.gateway.endpoint_set import EndpointSet, LiveEndpoint
from modeltainer.gateway.errors import GatewayError, Message, Receive, Scope, Send, send_error
from modeltainer.gateway.fast_path import FastPath
from modeltainer.gateway.headers import look_at
from modeltainer.gateway.limits import AnyLimiter, Limiter
from modeltainer.gateway.log import JsonLog
from modeltainer.gateway.metrics import Metrics
from modeltainer.gateway.paths import OPEN, PAGES, PROXIED
from modeltainer.gateway.peers import Peers, Report, one_status
from modeltainer.gateway.proxy import Proxy
from modeltainer.gateway.registry_follower import RegistryFollower, Snapshot
from modeltainer.gateway.settings import GatewaySettings
from modeltainer.gateway.standing import Standing, progress
from modeltainer.gateway.tracing import Tracer
from modeltainer.registry.keys import KeyRing
from modeltainer.registry.layout import Layout
from modeltainer.view import Row

Series = Callable[[], Iterable[tuple[Sequence[str], float]]]


class Gateway:
    """ASGI application; :func:`build` makes it."""

    def __init__(
        self,
        settings: GatewaySettings,
        layout: Layout,
        catalog: Catalog,
        *,
        log: JsonLog,
        owner_token: str,
        list_rows: Callable[[], Sequence[Row]],
        config_files: Sequence[Path] = (),
        peers: Peers | None = None,
        limiter: AnyLimiter | None = None,
    ) -> None:
        from modeltainer.gateway.control import control_app

        self.settings, self.layout, self.catalog, self.log = settings, layout, catalog, log
        self.started_unix = time.time()
        self.metrics = Metrics()
        self.endpoints = EndpointSet(settings, log, lambda model: self.metrics.gap.of(model).mean)
        self.standing = Standing(list_rows)
        self.authenticator = Authenticator(
            ring := KeyRing(layout), required=settings.auth == "keys", owner_token=owner_token
        )
        ring.refresh()
        self._peers = peers
        name = socket.gethostname() if peers is None else f"{socket.gethostname()}-{peers.worker}"
        self.accounting = Accounting(layout, self.metrics, log, name=name, write=settings.usage)
        self._tracer = Tracer() if settings.tracing else None
        self.book = DemandBook(
            layout,
            name,
            launches=self.endpoints.in_flight,
            warn=lambda message: log.warning("demand", message=message),
        )
        self.proxy = Proxy(
            settings,
            endpoints=self.endpoints,
            authenticator=self.authenticator,
            standing=self.standing,
            accounting=self.accounting,
            metrics=self.metrics,
            log=log,
            arrival=Arrival(self.endpoints, self._look_soon),
            cold_start=ColdStart(settings.cold_start, layout, self.endpoints, self.standing, log),
            book=self.book,
            limiter=limiter or Limiter(),
            workers=1 if peers is None else peers.workers,
            tracer=self._tracer,
        )
        self.fast_path = FastPath(
            self.proxy,
            settings,
            endpoints=self.endpoints,
            authenticator=self.authenticator,
            metrics=self.metrics,
            book=self.book,
        )
        self._add_gauges()
        self._ring = ring
        self._follower: RegistryFollower | None = None
        self._config_files = config_files
        self._watch: asyncio.Task[None] | None = None
        self._control = control_app(self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] != "http":
            await self._control(scope, receive, send)
            return
        path: str = scope["path"]
        route = PROXIED.get(path)
        if route is not None and scope["method"] == "POST":
            await self.proxy(scope, receive, send, route)
            return
        rid = look_at(scope["headers"]).request_id

        async def tagged(message: Message) -> None:
            if message["type"] == "http.response.start":
                fields = [one for one in message["headers"] if one[0] != b"x-request-id"]
                message["headers"] = [*fields, (b"x-request-id", rid.encode())]
                if message["status"] >= 400:
                    self._log_refusal(scope, rid, message["status"])
            await send(message)

        try:
            looks = scope["method"] in {"GET", "HEAD"}
            key = NOBODY
            if path not in OPEN:
                key = await self.authenticator.admit(scope["headers"], by_password=looks)
            if route is not None:
                message = f"{path} takes POST, not {scope['method']}"
                raise GatewayError(405, message, "method_not_allowed", allow="POST")
        except GatewayError as error:
            error.browser = path in PAGES
            await send_error(tagged, error, rid)
            return
        scope.setdefault("state", {}).update(key=key, request_id=rid)
        await self._control(scope, receive, tagged)

    def _log_refusal(self, scope: Scope, rid: str, status: int) -> None:
        self.log.info(
            "request", request_id=rid, method=scope["method"], path=scope["path"], status=status
        )

    async def start(self) -> None:
        """Begin to follow the registry. Called once, by the lifespan."""
        loop = asyncio.get_running_loop()

        def publish(snapshot: Snapshot) -> None:
            loop.call_soon_threadsafe(self.endpoints.update, snapshot)

        self.endpoints.set_models(self.catalog.models, self.catalog.splits)
        self._follower = RegistryFollower(
            self.layout,
            self._ring,
            publish,
            interval_s=self.settings.poll_interval,
            warn=lambda message: self.log.warning("registry", message=message),
        )
        self._follower.start()
        if self._config_files:
            self._watch = loop.create_task(
                watch(self._config_files, self.reload, every_s=self.settings.poll_interval)
            )
        self.accounting.start()
        if self._peers is not None:
            self._peers.start(self._report)
        if self.settings.reconcile:
            self.book.start()

    async def stop(self) -> None:
        """Stop following; called once, by the lifespan."""
        if self._follower is not None:
            self._follower.stop()
        if self._watch is not None:
            self._watch.cancel()
        await self.accounting.stop()
        if self._peers is not None:
            await self._peers.stop(self._report)
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close)
        self.book.stop()
        self.endpoints.close()

    def _look_soon(self) -> None:
        if self._follower is not None:
            self._follower.look_soon()

    async def reload(self) -> bool:
        """Read models.yaml again; False when it is bad and the old one stays."""
        good = await asyncio.to_thread(self.catalog.reload)
        if good:
            self.endpoints.set_models(self.catalog.models, self.catalog.splits)
            self.log.info("config_reloaded", models=sorted(self.catalog.models))
            config = self.catalog.config
            if config is not None and config.gateway != self.settings:
                self.log.warning(
                    "config_needs_restart",
                    message="the gateway section has changed; it counts after a restart",
                )
        else:
            self.log.warning("config_rejected", message=self.catalog.problem)
        return good

    def begin_drain(self) -> None:
        """Take no new work; :attr:`ready` is False from now on."""
        self.proxy.draining = True
        self.log.info("draining", in_flight=self.proxy.in_flight)

    @property
    def ready(self) -> bool:
        """The registry has been read and the gateway is not going away."""
        return self.endpoints.snapshot is not None and not self.proxy.draining

    def model_state(self, model: str) -> str:
        """How far a model that has no endpoint has come, in one word."""
        snapshot = self.endpoints.snapshot or Snapshot()
        seen = [one.endpoint for one in snapshot.endpoints if one.alive]
        return progress(model, self.standing.known, seen)

    def _registry_age_s(self) -> float:
        return time.monotonic() - self.endpoints.read_at

    def _add_gauges(self) -> None:
        gauge, live = self.metrics.gauge, self.endpoints

        def per_endpoint(value: Callable[[LiveEndpoint], float]) -> Series:
            return lambda: [((one.target.model, one.target.key), value(one)) for one in live.all]

        def in_flight() -> Iterable[tuple[Sequence[str], float]]:
            counts: dict[tuple[str, str], float] = {}
            for one in (*live.all, *live.leaving):
                name = one.target.model, one.target.key
                counts[name] = counts.get(name, 0) + one.outstanding
            return counts.items()

        def breaker(one: LiveEndpoint) -> float:
            return list(BreakerState).index(one.breaker.state(time.monotonic()))

        both = ("model", "endpoint")
        gauge("in_flight", "Requests under way.", (), lambda: [((), self.proxy.in_flight)])
        gauge("endpoint_in_flight", "Requests under way.", both, in_flight)
        gauge(
            "endpoint_routed",
            "1: it gets requests.",
            both,
            per_endpoint(lambda one: float(one.verified)),
            add_up=min,
        )
        gauge(
            "endpoint_connections",
            "Connections taken and kept.",
            both,
            per_endpoint(lambda one: one.pool.taken + one.pool.idle),
        )
        gauge(
            "breaker_state",
            "0: closed, 1: open, 2: half-open.",
            both,
            per_endpoint(breaker),
            add_up=max,
        )
        gauge(
            "registry_age_seconds",
            "Since the registry was read.",
            (),
            lambda: [((), self._registry_age_s())],
            add_up=max,
        )
        gauge(
            "config_ok",
            "0: models.yaml is bad.",
            (),
            lambda: [((), not self.catalog.problem)],
            add_up=min,
        )

    def _report(self) -> Report:
        return Report(self.metrics.snapshot(), self._own_status())

    def render_metrics(self) -> str:
        """The metrics of all workers, in Prometheus' text form."""
        if self._peers is None:
            return self.metrics.render()
        alive, ended = self._peers.others()
        return self.metrics.render([one.metrics for one in alive], ended)

    def status(self) -> dict[str, Any]:
        """The state of everything, as plain JSON, for ``/admin/status`` and mt-submit."""
        others = [] if self._peers is None else self._peers.others()[0]
        return one_status(self._own_status(), [one.status for one in others])

    def _own_status(self) -> dict[str, Any]:
        snapshot = self.endpoints.snapshot or Snapshot()
        live: dict[str, list[LiveEndpoint]] = {}
        for one in (*self.endpoints.all, *self.endpoints.leaving):
            live.setdefault(one.target.key, []).append(one)
        endpoints = []
        now = time.monotonic()
        for seen in snapshot.endpoints:
            endpoint = seen.endpoint
            known = live.get(endpoint.key, [])
            here = known[0] if known else None
            endpoints.append(
                {
                    "endpoint": endpoint.key,
                    "launch_id": endpoint.launch_id,
                    "model": endpoint.model,
                    "state": endpoint.state.value,
                    "node": endpoint.node,
                    "engine": endpoint.engine_version or endpoint.engine,
                    "gres": endpoint.gres,
                    "address": here.target.address if here is not None else None,
                    "alive": seen.alive,
                    "routed": here is not None and here.verified,
                    "reason": here.reason if here is not None else "",
                    "in_flight": sum(one.outstanding for one in known),
                    "requests": sum(one.requests for one in known),
                    "connections": {
                        "taken": sum(one.pool.taken for one in known),
                        "idle": sum(one.pool.idle for one in known),
                    },
                    "breaker": here.breaker.state(now).value if here is not None else "",
                    "ends_unix": endpoint.ends_unix,
                }
            )
        return {
            "started_unix": self.started_unix,
            "ready": self.ready,
            "draining": self.proxy.draining,
            "in_flight": self.proxy.in_flight,
            "in_flight_by_launch": {
                **dict.fromkeys((one["launch_id"] for one in endpoints), 0),
                **self.endpoints.in_flight(),
            },
            "endpoints": endpoints,
            "models": sorted(self.endpoints.table.configured | set(self.endpoints.table.by_model)),
            "keys": len(self._ring),
            "registry_problems": snapshot.problems,
            "config_problem": self.catalog.problem,
            "scheduler_problem": self.standing.problem,
            "usage_problem": self.accounting.problem,
            "registry_age_s": self._registry_age_s(),
        }


def build(
    settings: GatewaySettings,
    layout: Layout,
    load_config: LoadConfig | None = None,
    *,
    log: JsonLog | None = None,
    owner_token: str = "",
    list_rows: Callable[[], Sequence[Row]] | None = None,
    config_files: Sequence[Path] = (),
    peers: Peers | None = None,
    limiter: AnyLimiter | None = None,
) -> Gateway:
    """Make the gateway.

    Args:
        settings: the ``gateway:`` section.
        layout: the registry to follow.
        load_config: reads models.yaml, now and at each reload; None serves what the registry has.
        log: where events go; standard error by default.
        owner_token: a key that mt-submit of the same user finds in the gateway's state file.
        config_files: an edit of these has the configuration read again.
        peers: the other workers, where there are several.
        limiter: the limits of all keys, where several workers share them.
        list_rows: every launch; by default the scheduler and the registry are asked.

    Raises:
        ConfigError: models.yaml cannot be used.
    """
    catalog = Catalog(load_config)

    def rows() -> Sequence[Row]:
        if catalog.config is None:
            return []
        from modeltainer.service import list_launches

        return list_launches(catalog.config)

    return Gateway(
        settings,
        layout,
        catalog,
        log=log or JsonLog(),
        owner_token=owner_token,
        list_rows=list_rows or rows,
        config_files=config_files,
        peers=peers,
        limiter=limiter,
    )
