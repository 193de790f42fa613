"""At a request's end: into the metrics, and into the usage file."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque

from modeltainer.gateway.exchange import Exchange
from modeltainer.gateway.log import JsonLog, cut
from modeltainer.gateway.metrics import OTHER, Metrics
from modeltainer.registry.layout import Layout
from modeltainer.registry.usage import UsageRecord, append

WRITE_EVERY_S = 1.0
MAX_WAITING = 100_000
"""Records that wait for a filesystem which cannot be written; then the oldest are lost."""


class Accounting:
    """Counts requests; a task writes the usage records about once a second."""

    def __init__(
        self, layout: Layout, metrics: Metrics, log: JsonLog, *, name: str, write: bool
    ) -> None:
        """``name``: of this writer, for its usage files."""
        self._layout, self._metrics, self._log, self._write = layout, metrics, log, write
        self._waiting: deque[UsageRecord] = deque(maxlen=MAX_WAITING)
        self._name = name
        self._task: asyncio.Task[None] | None = None
        self.problem = ""
        """Why records cannot be written; empty when they can."""

    def count(self, exchange: Exchange, status: int) -> None:
        """A request is over."""
        metrics, route = self._metrics, exchange.route.label
        model = exchange.model or OTHER
        seconds = time.monotonic() - exchange.started
        metrics.requests.add(route, model, str(status))
        metrics.seconds.of(route, model).observe(seconds)
        if exchange.asked is not None:
            metrics.splits.add(exchange.asked, model)
        if exchange.progress.error and exchange.progress.status == 200:
            metrics.broken.add(model, exchange.progress.error)
        if exchange.refused_by:
            metrics.limited.add(exchange.refused_by)
        if exchange.endpoint is None or exchange.model is None:
            return
        if exchange.first_byte_s is not None and exchange.progress.is_stream:
            metrics.first_token.of(route, model).observe(exchange.first_byte_s)
        meter = exchange.meter
        prompt = completion = None
        if not exchange.route.uses_tokens:
            prompt = completion = 0
        elif meter is not None:
            prompt, completion = meter.tokens.prompt, meter.tokens.completion
            if prompt:
                metrics.tokens.add(model, "prompt", amount=prompt)
            if completion:
                metrics.tokens.add(model, "completion", amount=completion)
            if status == 200 and prompt is None:
                metrics.uncounted.add(model)
        if not self._write:
            return
        self._waiting.append(
            UsageRecord(
                unix=cut(time.time(), 1e3),
                key_id=exchange.key.id if exchange.key else "none",
                key_name=exchange.key.name if exchange.key else "",
                model=exchange.model,
                route=route,
                status=status,
                seconds=cut(seconds, 1e4),
                prompt_tokens=prompt,
                completion_tokens=completion,
                events=meter.events if meter is not None else 0,
                whole=not exchange.progress.error and exchange.interrupted is None,
                user=exchange.user,
                request_id=exchange.request_id,
            )
        )

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Write what is left."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self.flush()

    async def flush(self) -> None:
        """Write what waits, in a thread."""
        records, self._waiting = list(self._waiting), deque(maxlen=MAX_WAITING)
        if not records:
            return
        try:
            await asyncio.to_thread(append, self._layout, self._name, records)
            self.problem = ""
        except OSError as error:
            if not self.problem:
                self._log.warning("usage_not_written", error=str(error))
            self.problem = str(error)
            self._waiting = deque([*records, *self._waiting], MAX_WAITING)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            await asyncio.shield(self.flush())
