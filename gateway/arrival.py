"""A model that came up a moment ago: looked for once more before its request is refused.

The registry is read about once a second, so `mt-submit up --wait` may know of an engine before the
gateway does; who then asks for the model at once must not be told that it is down.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from modeltainer.gateway.endpoint_set import EndpointSet

WITHIN_S = 2.0
"""For the look and the engine's first answer; a shared filesystem that hangs costs no more."""


class Arrival:
    """Has the registry read again on behalf of a request that nothing can serve."""

    def __init__(self, endpoints: EndpointSet, look_soon: Callable[[], None]) -> None:
        self._endpoints, self._look_soon = endpoints, look_soon

    async def wait(self, model: str) -> bool:
        """Whether the model is served after all: told when it is, or when a look that began after
        this call has shown no endpoint of it that is new."""
        asked = time.monotonic()
        self._look_soon()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._arrived(model, asked), WITHIN_S)
        return bool(self._endpoints.table.candidates(model))

    async def _arrived(self, model: str, asked: float) -> None:
        endpoints = self._endpoints
        while endpoints.snapshot is None or endpoints.snapshot.began < asked:
            await endpoints.looked.wait()
        while endpoints.is_new(model) and not endpoints.table.candidates(model):
            await endpoints.changed.wait()
