"""Requests for a model that is declared, or may be started, but that nothing serves yet."""

from __future__ import annotations

import asyncio
import time

from modeltainer.gateway.endpoint_set import EndpointSet
from modeltainer.gateway.errors import GatewayError
from modeltainer.gateway.log import JsonLog
from modeltainer.gateway.settings import ColdStartSettings
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
        self._started: dict[str, float] = {}
        """Models let in lately: their jobs may not show yet."""

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
        if not self._is_under_way(model) and self._others(model) >= self._settings.max_jobs:
            raise GatewayError(
                503,
                f"{model} is not running, and {self._settings.max_jobs} models that were started "
                "on demand are (gateway.cold_start.max_jobs); one of them has to be idle first",
                "too_many_models",
                param="model",
                retry_after_s=60,
            )
        self._started[model] = time.monotonic()
        if deployment is None:
            made = Deployment(
                model=model,
                revision="",
                minimum=0,
                maximum=1,
                idle_release_s=self._settings.idle_release,
                created_unix=time.time(),
            )
            deployments.declare(self._layout, made)
            self._log.info("cold_start", model=model)
        return True

    def _is_under_way(self, model: str) -> bool:
        return deployments.read_history(self._layout, model).wanted > 0 or self._is_new(model)

    def _is_new(self, model: str) -> bool:
        return time.monotonic() - self._started.get(model, float("-inf")) < 60

    def _others(self, model: str) -> int:
        declared = deployments.read_all(self._layout)
        return sum(
            one.minimum == 0 and name != model and self._is_under_way(name)
            for name, one in declared.items()
        )

    async def hold(self, model: str) -> bool:
        """Wait until something serves the model; False when it takes too long, or too many wait."""
        if self._held >= self._settings.max_held:
            return False
        self._held += 1
        deadline = time.monotonic() + self._settings.wait
        try:
            while not self._endpoints.table.candidates(model):
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                try:
                    await asyncio.wait_for(self._endpoints.changed.wait(), left)
                except asyncio.TimeoutError:
                    return False
            return True
        finally:
            self._held -= 1
