"""Requests for a model that is declared, or may be started, but that nothing serves yet."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from modeltainer.gateway.endpoint_set import EndpointSet
from modeltainer.gateway.errors import GatewayError
from modeltainer.gateway.log import JsonLog
from modeltainer.gateway.settings import ColdStartSettings
from modeltainer.gateway.standing import Standing, starts_in
from modeltainer.gateway.start_marks import StartMarks
from modeltainer.registry import deployments
from modeltainer.registry.days import day_end, day_of
from modeltainer.registry.deployments import Deployment, History
from modeltainer.registry.layout import Layout

OUTLOOK_S = 10.0
"""An estimate that is older than this, and than the last ping, may be of an earlier start."""


class ColdStart:
    """Has one replica started however many ask, and holds their requests for a while."""

    def __init__(
        self,
        settings: ColdStartSettings,
        layout: Layout,
        endpoints: EndpointSet,
        standing: Standing,
        log: JsonLog,
    ) -> None:
        self._settings, self._layout, self._log = settings, layout, log
        self._endpoints, self._standing = endpoints, standing
        self._declaring = asyncio.Lock()
        self._held = 0
        self._marks = StartMarks(layout)

    async def admit(self, model: str) -> bool:
        """Whether a request for a model that nothing serves may be held for it.

        Raises:
            GatewayError: as many models as may be started on demand are up already, or their GPU
                hours of today are used up.
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
            self._check_gpu_hours(deployment, deployment)
            return True
        if deployment is None and not self._settings.enabled:
            return False
        wished = self._wished(model, deployment)
        self._check_gpu_hours(wished, deployment)
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
        if wished != deployment:
            deployments.declare(self._layout, wished)
        if deployment is None:
            self._log.info("cold_start", model=model)
        return True

    def _wished(self, model: str, deployment: Deployment | None) -> Deployment:
        """What a model is to be declared as; what others have declared stays as it is, and so does
        what starts or runs: other settings, of another gateway's too, hold from its next start."""
        settings = self._settings
        known = deployment or Deployment(
            model=model,
            revision="",
            minimum=0,
            idle_release_s=settings.idle_release,
            created_unix=time.time(),
            on_demand=True,
        )
        if not known.on_demand or (deployment is not None and self._is_starting(model)):
            return known
        return replace(
            known,
            gpu_hours_per_day=settings.gpu_hours,
            shared_gpu_hours_per_day=settings.total_gpu_hours,
        )

    def _check_gpu_hours(self, wished: Deployment, deployment: Deployment | None) -> None:
        now, model = time.time(), wished.model
        today, known = day_of(now), self._history(model)
        own, shared = known.spent_day == today, known.shared_spent_day == today
        if wished != deployment:  # the reconciler has judged others, and this one by other limits
            own = own and deployment is not None and not _has_grown(deployment, wished)
            shared = self._all_have_used(wished.shared_gpu_hours_per_day, today)
        if own:
            whose = "its GPU hours of today"
        elif shared:
            whose = (
                "today's GPU hours of all models that are started on demand "
                "(gateway.cold_start.total_gpu_hours)"
            )
        else:
            return
        raise GatewayError(
            503,
            f"{model} is not running, and {whose} are used up; it goes on tomorrow (UTC)",
            "gpu_hours_used_up",
            param="model",
            retry_after_s=math.ceil(day_end(now) - now),
        )

    def _all_have_used(self, hours: float | None, day: str) -> bool:
        """Whether all models on demand together were found to have used as much."""
        return hours is not None and any(
            (one.shared_gpu_hours_per_day or 0.0) >= hours
            and self._history(model).shared_spent_day == day
            for model, one in deployments.read_all(self._layout).items()
            if one.on_demand
        )

    def _history(self, model: str) -> History:
        return deployments.read_history(self._layout, model)

    def _is_wanted(self, model: str) -> bool:
        return self._history(model).wanted > 0

    def _is_starting(self, model: str) -> bool:
        """Whether it is up, or is about to be, by the limits that it was declared with."""
        known = self._history(model)
        if day_of(time.time()) in (known.spent_day, known.shared_spent_day):
            return False
        return known.wanted > 0 or model in self._marks.models()

    def _others(self, model: str) -> int:
        """Models that are up on demand, or about to be: the reconciler has not seen them yet."""
        marked, declared = self._marks.models(), deployments.read_all(self._layout)
        kept = {name for name, one in declared.items() if one.minimum}
        others = {*marked, *declared} - kept - {model}
        return sum(name in marked or self._is_wanted(name) for name in others)

    def _outlook(self, model: str, every_s: float) -> str:
        """What is known by now of a model's start; nobody waits for the scheduler, which was asked
        at the last ping, ``every_s`` ago."""
        self._standing.refresh()
        left = starts_in(model, self._standing.seen_within(every_s + OUTLOOK_S), time.time())
        if left is None:
            return "ping"
        return f"waiting for {model}: starts in about {math.ceil(left)} s"

    async def hold(
        self,
        model: str,
        ping: Callable[[str], Awaitable[None]] | None = None,
        every_s: float = 0.0,
    ) -> bool:
        """Wait until something serves the model; False when it takes too long, or too many wait.
        ``ping`` is called every ``every_s`` seconds meanwhile, with what is to be said."""
        if self._held >= self._settings.max_held:
            return False
        self._held += 1
        if ping is not None:
            self._standing.refresh()  # for the first one
        begun = time.monotonic()
        deadline, next_ping = begun + self._settings.wait, begun + every_s
        try:
            while not self._endpoints.table.candidates(model):
                now = time.monotonic()
                left = deadline - now
                if left <= 0:
                    return False
                if ping is not None and now >= next_ping:
                    await ping(self._outlook(model, every_s))
                    next_ping = now + every_s
                    continue  # it may have come up meanwhile
                step = left if ping is None else min(left, next_ping - now)
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._endpoints.changed.wait(), step)
            return True
        finally:
            self._held -= 1


def _has_grown(deployment: Deployment, wished: Deployment) -> bool:
    """Whether a model may use more GPU hours of its own than it was declared with."""
    before, now = deployment.gpu_hours_per_day, wished.gpu_hours_per_day
    return now is None or (before is not None and now > before)
