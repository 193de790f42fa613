"""Requests for a model that is declared, or may be started, but that nothing serves yet."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

from modeltainer.gateway.endpoint_set import EndpointSet
from modeltainer.gateway.errors import GatewayError
from modeltainer.gateway.log import JsonLog
from modeltainer.gateway.settings import ColdStartSettings
from modeltainer.gateway.start_marks import StartMarks
from modeltainer.registry import deployments
from modeltainer.registry.deployments import Deployment
from modeltainer.registry.layout import Layout


class ColdStart:
    """Has one replica started however many ask, and holds their requests for a while."""

    def __init__(
        self, settings: ColdStartSettings, layout: Layout, endpoints: EndpointSet, log: JsonLog
    ) -> None:
        self._settings, self._layout, self._log = settings, layout, log
        self._endpoints = endpoints
        self._declaring = asyncio.Lock()
        self._held = 0
        self._marks = StartMarks(layout)

    async def admit(self, model: str) -> bool:
        """Whether a request for a model that nothing serves may be held for it.

        Raises:
            GatewayError: as many models as may be started on demand are up already.
        """
        async with self._declaring:  # so that many requests declare once
            try:
                return await asyncio.to_thread(self._declared, model)
            except OSError as error:
                self._log.warning("cold_start", model=model, message=str(error))
                return False

    def _declared(self, model: str) -> bool:
        deployment = deployments.read(self._layout, model)
        if deployment is not None and deployment.minimum:
            return True
        if deployment is None and not self._settings.enabled:
            return False
        # Another's mark says nothing of this model: it may be about to be taken back.
        if not (self._marks.mine(model) or self._is_wanted(model)):
            self._marks.put(model)
            if self._others(model) >= self._settings.max_jobs:
                self._marks.drop(model)
                raise GatewayError(
                    503,
                    f"{model} is not running, and {self._settings.max_jobs} models that were "
                    "started on demand are (gateway.cold_start.max_jobs); one of them has to be "
                    "idle first",
                    "too_many_models",
                    param="model",
                    retry_after_s=60,
                )
        if deployment is None:
            made = Deployment(
                model=model,
                revision="",
                minimum=0,
                maximum=1,
                idle_release_s=self._settings.idle_release,
                gpu_hours_per_day=self._settings.gpu_hours,
                created_unix=time.time(),
            )
            deployments.declare(self._layout, made)
            self._log.info("cold_start", model=model)
        return True

    def _is_wanted(self, model: str) -> bool:
        return deployments.read_history(self._layout, model).wanted > 0

    def _others(self, model: str) -> int:
        """Models that are up on demand, or about to be: the reconciler has not seen them yet."""
        marked, declared = self._marks.models(), deployments.read_all(self._layout)
        kept = {name for name, one in declared.items() if one.minimum}
        others = {*marked, *declared} - kept - {model}
        return sum(name in marked or self._is_wanted(name) for name in others)

    async def hold(
        self, model: str, ping: Callable[[], Awaitable[None]] | None = None, every_s: float = 0.0
    ) -> bool:
        """Wait until something serves the model; False when it takes too long, or too many wait.
        ``ping`` is called ``every_s`` seconds meanwhile."""
        if self._held >= self._settings.max_held:
            return False
        self._held += 1
        begun = time.monotonic()
        deadline, next_ping = begun + self._settings.wait, begun + every_s
        try:
            while not self._endpoints.table.candidates(model):
                now = time.monotonic()
                left = deadline - now
                if left <= 0:
                    return False
                if ping is not None and now >= next_ping:
                    await ping()
                    next_ping = now + every_s
                    continue  # it may have come up meanwhile
                step = left if ping is None else min(left, next_ping - now)
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._endpoints.changed.wait(), step)
            return True
        finally:
            self._held -= 1
