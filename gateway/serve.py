"""Runs the gateway as a process: listening, signals, state file."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import uvicorn

from modeltainer import core_files
from modeltainer.gateway import address as state
from modeltainer.gateway.address import GatewayAddress
from modeltainer.gateway.app import Gateway, build
from modeltainer.gateway.companion_process import CompanionProcess, batches, reconciler
from modeltainer.gateway.dispatch import receive
from modeltainer.gateway.limits import AnyLimiter
from modeltainer.gateway.listening import CannotStartError, bind, take_lock
from modeltainer.gateway.log import JsonLog, ServerLogHandler
from modeltainer.gateway.peers import Peers
from modeltainer.gateway.settings import GatewaySettings
from modeltainer.gateway.timed_connection import TimedProtocol
from modeltainer.registry.layout import Layout
from modeltainer.scheduler import start_ticks

CLIENT_KEEP_ALIVE_S = 75
"""Idle time of a client's connection, as nginx has it."""
TICK_S = 1.0
"""Between two looks at the clock for the ``Date`` of answers."""
_LAST_WORDS_S = 2
"""For clients to take their error frames after the drain's deadline."""


class AlreadyRunningError(CannotStartError):
    """This registry has a gateway on this host."""


class GatewayServer(uvicorn.Server):
    """uvicorn's server, with the gateway's way to end: drain first, close the door last."""

    def __init__(self, gateway: Gateway, channel: socket.socket | None = None) -> None:
        """``channel``: through which connections come, where this is one of several workers."""
        super().__init__(
            uvicorn.Config(
                gateway,
                loop="uvloop",
                http=TimedProtocol,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=2048,
                timeout_keep_alive=CLIENT_KEEP_ALIVE_S,
                timeout_graceful_shutdown=_LAST_WORDS_S,
            )
        )
        self._gateway = gateway
        self._ending: asyncio.Task[None] | None = None
        self._channel = channel
        self._connecting: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's; then connections are taken from the channel, too."""
        await super().startup(sockets)
        channel = self._channel
        if channel is None:
            return
        channel.setblocking(False)
        loop = asyncio.get_running_loop()

        def take(connection: socket.socket) -> None:
            task = loop.create_task(self._connect(connection))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

        def closed() -> None:  # the supervisor is gone
            loop.remove_reader(channel)
            self.end()

        loop.add_reader(channel, receive, channel, take, closed)

    async def _connect(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        with contextlib.suppress(OSError):  # the client is gone already
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: TimedProtocol(
                    config=self.config,
                    server_state=self.server_state,
                    app_state=self.lifespan.state,
                ),
                connection,
            )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's; no more connections are taken from the channel."""
        if self._channel is not None:
            asyncio.get_running_loop().remove_reader(self._channel)
            self._channel.close()
        await super().shutdown(sockets)

    async def main_loop(self) -> None:
        """As uvicorn's, which looks ten times a second whether it is over, where this one is told:
        once is enough for the date, and each look costs as much as many tokens."""
        over = asyncio.ensure_future(self._over.wait())
        while not await self.on_tick(0):
            await asyncio.wait([over], timeout=TICK_S)
        over.cancel()

    def _exit(self) -> None:
        self.should_exit = True
        self._over.set()

    def end(self) -> None:
        """The first call drains, the second ends now. To be called on the event loop."""
        if self._ending is None:
            self._gateway.begin_drain()
            self._ending = asyncio.get_running_loop().create_task(self._drain())
        else:
            self._gateway.log.warning("forced", in_flight=self._gateway.proxy.in_flight)
            self._ending.cancel()
            self._gateway.proxy.stop_all()
            self._exit()

    async def _drain(self) -> None:
        proxy = self._gateway.proxy
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(proxy.idle(), self._gateway.settings.drain)
        proxy.stop_all()
        self._exit()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are :func:`serve`'s business."""
        yield


def serve(
    settings: GatewaySettings,
    layout: Layout,
    config_file: Path | None = None,
    *,
    log_file: Path | None = None,
    announce: Callable[[GatewayAddress], None] | None = None,
) -> None:
    """Run until SIGTERM or SIGINT; blocks, in the main thread.

    Args:
        settings: the ``gateway:`` section.
        layout: the registry to follow.
        config_file: models.yaml; None finds it as mt-submit does.
        log_file: where the JSON lines go; standard error by default.
        announce: called once, when connections are taken.

    Raises:
        AlreadyRunningError: this registry has a gateway on this host.
        CannotStartError: the address cannot be used.
        ConfigError: models.yaml cannot be used.
        OSError: the registry or the log cannot be written.
    """
    # A gateway that only starts reads the newest configuration anyway.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from modeltainer.config.load import load

    log = JsonLog(log_file, max_bytes=settings.log_max_bytes, kept=settings.log_kept)
    lock = take_lock(layout)
    if lock is None:
        raise AlreadyRunningError(_already_running(state.read(layout)))
    token = f"mto-{secrets.token_urlsafe(32)}"
    try:
        gateway = None
        if settings.workers > 1:
            load(config_file)  # each worker will; its faults are told here, once
        else:
            gateway = gateway_of(settings, layout, config_file, log, token)
        layout.create()
        _raise_file_limit()
        core_files.forbid()
        listener = bind(settings, layout)
        listener.listen(2048)
        address = _address(listener, token)
        try:
            state.write(layout, address)
            log.info("started", pid=os.getpid(), address=address.socket or address.url)
            companions = []
            if settings.reconcile:
                companions.append(reconciler(layout, config_file, log))
            if settings.batches.enabled:
                companions.append(batches(layout, config_file, log))

            def tell() -> None:
                if announce is not None:
                    announce(address)

            if gateway is None:
                from modeltainer.gateway.supervisor import Supervisor

                supervisor = Supervisor(
                    settings, layout, config_file, log_file, log, token, listener
                )
                supervisor.run(tell, companions)
            else:
                run(gateway, [listener], tell, companions)
        finally:
            state.remove(layout, address)
            listener.close()
            if address.socket is not None:
                with contextlib.suppress(OSError):
                    Path(address.socket).unlink()
            log.info("ended", pid=os.getpid())
    finally:
        os.close(lock)


def gateway_of(
    settings: GatewaySettings,
    layout: Layout,
    config_file: Path | None,
    log: JsonLog,
    owner_token: str,
    *,
    peers: Peers | None = None,
    limiter: AnyLimiter | None = None,
) -> Gateway:
    """The gateway of this process; arguments as of :func:`serve` and :func:`build`.

    Raises:
        ConfigError: models.yaml cannot be used.
    """
    from modeltainer.config.load import find, load, user_folder

    gateway = build(
        settings,
        layout,
        lambda: load(config_file),
        log=log,
        owner_token=owner_token,
        config_files=(config_file or find(), user_folder(os.environ) / "site.yaml"),
        peers=peers,
        limiter=limiter,
    )
    _route_server_log(log)
    return gateway


def run(
    gateway: Gateway,
    listeners: list[socket.socket],
    announce: Callable[[], None],
    companions: Sequence[CompanionProcess] = (),
    *,
    channel: socket.socket | None = None,
) -> None:
    """Run the server, and its companions beside it, on uvloop until it ends.

    Args:
        announce: called when it listens.
        channel: as for :class:`GatewayServer`.
    """
    import uvloop

    async def main() -> None:
        server = GatewayServer(gateway, channel)
        loop = asyncio.get_running_loop()
        reloads: set[asyncio.Task[bool]] = set()

        def reload() -> None:
            task = loop.create_task(gateway.reload())
            reloads.add(task)
            task.add_done_callback(reloads.discard)

        # What is there now stays; garbage in cycles is rare after it, and looking for it costs 8 %.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)
        loop.add_signal_handler(signal.SIGTERM, server.end)
        loop.add_signal_handler(signal.SIGINT, server.end)
        loop.add_signal_handler(signal.SIGHUP, reload)
        announce()
        kept = [loop.create_task(one.run()) for one in companions]
        await server.serve(sockets=listeners)
        for task in kept:
            task.cancel()
        await asyncio.gather(*kept, return_exceptions=True)

    loop = uvloop.new_event_loop()
    gateway.log.start()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
        gateway.log.stop()


def _address(listener: socket.socket, token: str) -> GatewayAddress:
    name = listener.getsockname()
    unix = name if isinstance(name, str) else None
    url = "http://localhost"
    if unix is None:
        host = f"[{name[0]}]" if ":" in name[0] else name[0]
        if name[0] in {"0.0.0.0", "::"}:  # noqa: S104 (comparing, not binding)
            host = socket.gethostname()  # listening everywhere, but no client can dial "everywhere"
        url = f"http://{host}:{name[1]}"
    return GatewayAddress(
        host=socket.gethostname(),
        pid=os.getpid(),
        start_ticks=start_ticks(os.getpid()) or 0,
        started_unix=time.time(),
        socket=unix,
        url=url,
        token=token,
    )


def _already_running(other: GatewayAddress | None) -> str:
    if other is None or not other.alive:
        return "this registry already has a gateway on this host that is just starting or ending"
    where = other.socket or other.url
    return (
        f"this registry already has a gateway on this host: pid {other.pid} on {where}; "
        "stop it first: mt-submit gateway stop"
    )


def _raise_file_limit() -> None:
    """Each stream takes two descriptors; the usual soft limit of 1024 is soon reached."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _route_server_log(log: JsonLog) -> None:
    for name in ("uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers = [ServerLogHandler(log)]
        logger.propagate = False
