"""Connections to one endpoint: a few kept for the next request, none kept too long."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from ssl import SSLContext

from modeltainer.gateway.upstream import ConnectError, UpstreamConnection, UpstreamError, connect

KEEP_IDLE_S = 4.0
"""vLLM's server (uvicorn) closes idle connections after 5 s; ours must be given up sooner."""

Connect = Callable[[str, int, float], Awaitable[UpstreamConnection]]


class PoolTimeoutError(UpstreamError):
    """All of an endpoint's connections stayed taken; the engine itself is not at fault."""

    code = "gateway_busy"


class Pool:
    """At most ``limit`` connections to one host and port; waiters are served in order."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        limit: int,
        connect_timeout: float,
        pool_timeout: float,
        keep_idle: float = KEEP_IDLE_S,
        tls: SSLContext | None = None,
    ) -> None:
        """Timeouts in seconds; ``tls`` as for :func:`connect`."""
        self._host, self._port = host, port
        self._limit = limit
        self._connect_timeout, self._pool_timeout = connect_timeout, pool_timeout
        self._keep_idle = keep_idle
        self._tls = tls
        self._idle: list[UpstreamConnection] = []
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._reaper: asyncio.TimerHandle | None = None
        self._closed = False
        self.taken = 0
        """Connections in use now."""

    @property
    def idle(self) -> int:
        """Connections kept for the next request."""
        return len(self._idle)

    async def acquire(self, *, fresh: bool = False) -> UpstreamConnection:
        """A connection, kept or new; ``fresh`` always makes a new one. Give it back with
        :meth:`release`.

        Raises:
            PoolTimeoutError: none became free in time.
            ConnectError: a new one could not be made.
        """
        if self.taken >= self._limit:
            await self._turn()  # the place of whoever released is ours
        else:
            self.taken += 1
        try:
            if not fresh:
                kept = self._kept()
                if kept is not None:
                    return kept
            return await connect(self._host, self._port, self._connect_timeout, self._tls)
        except BaseException:
            self._give_place()
            raise

    def release(self, connection: UpstreamConnection) -> None:
        """Give a connection back; it is kept when it can carry another request, else closed."""
        if connection.reusable and not self._closed:
            connection.rest()
            self._idle.append(connection)
            self._schedule_reaping()
        else:
            connection.close()
        self._give_place()

    def close(self) -> None:
        """Keep no connections from now on; those in use go on until they are released."""
        self._closed = True
        for connection in self._idle:
            connection.close()
        self._idle.clear()
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None

    def drop_idle(self) -> None:
        """Close what is kept: the endpoint may be another server by now."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def take_kept(self) -> UpstreamConnection | None:
        """As :meth:`acquire`, without waiting: None when none is kept, or all may be taken."""
        if self.taken >= self._limit:
            return None
        kept = self._kept()
        if kept is not None:
            self.taken += 1
        return kept

    def _kept(self) -> UpstreamConnection | None:
        oldest = time.monotonic() - self._keep_idle
        while self._idle:
            connection = self._idle.pop()
            if connection.open and connection.idle_since > oldest:
                return connection
            connection.close()
        return None

    async def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiters.append(waiter)
        timer = loop.call_later(self._pool_timeout, self._too_late, waiter)
        try:
            await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._give_place()  # granted, but the one who waited is gone
            raise
        finally:
            timer.cancel()

    def _too_late(self, waiter: asyncio.Future[None]) -> None:
        if not waiter.done():
            waiter.set_exception(
                PoolTimeoutError("all connections to the engine are in use; try again shortly")
            )

    def _give_place(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self.taken -= 1

    def _schedule_reaping(self) -> None:
        if self._reaper is None:
            loop = asyncio.get_running_loop()
            self._reaper = loop.call_later(self._keep_idle, self._reap)

    def _reap(self) -> None:
        self._reaper = None
        oldest = time.monotonic() - self._keep_idle
        kept = []
        for connection in self._idle:
            if connection.open and connection.idle_since > oldest:
                kept.append(connection)
            else:
                connection.close()
        self._idle = kept
        if kept:
            self._schedule_reaping()


__all__ = ["KEEP_IDLE_S", "ConnectError", "Pool", "PoolTimeoutError"]
