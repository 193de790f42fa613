"""What a request is for, and whether its key may have that now."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence

from modeltainer.gateway.affinity import choose_arm, prefix_key, session_key, user_key
from modeltainer.gateway.body import Body
from modeltainer.gateway.endpoint_set import EndpointSet
from modeltainer.gateway.errors import GatewayError
from modeltainer.gateway.exchange import Exchange
from modeltainer.gateway.limits import BYTES_PER_TOKEN, AnyLimiter, Refusal
from modeltainer.gateway.routing import unknown_model
from modeltainer.gateway.settings import GatewaySettings
from modeltainer.registry.keys import KeyRecord

MAX_USER = 128
"""Characters of ``user`` that are kept."""


class Admission:
    """Lets requests in. One per gateway."""

    def __init__(
        self, settings: GatewaySettings, endpoints: EndpointSet, limiter: AnyLimiter
    ) -> None:
        self._settings, self._endpoints, self._limiter = settings, endpoints, limiter

    def model(self, exchange: Exchange, key: KeyRecord, body: Body) -> str:
        """Find the model of a request, and what else it says of itself.

        Raises:
            GatewayError: there is no such model, or not for this key.
        """
        exchange.stream = body.stream
        user = body.head.user
        exchange.user = user[:MAX_USER] if isinstance(user, str) else None
        exchange.affinity = session_key(exchange.fields.session, body)
        model = exchange.model = self._model(exchange, key, body)
        if exchange.affinity is None and self._settings.routing == "prefix":
            exchange.affinity = prefix_key(body)
        return model

    def _model(self, exchange: Exchange, key: KeyRecord, body: Body) -> str:
        """The model for a request; where the name is split, by weight among those that are up."""
        table, name = self._endpoints.table, body.model
        behind = table.models_of(name)
        if not behind:
            raise GatewayError(
                404, unknown_model(name, self._names_for(key)), "model_not_found", param="model"
            )
        allowed: Sequence[str] = behind
        if key.models:
            allowed = [one for one in behind if key.allows_by(name, one)]
        if not allowed:
            exchange.model = behind[0]
            raise GatewayError(
                403,
                f"The API key {key.name!r} may not use the model {name!r}",
                "model_not_allowed",
                param="model",
            )
        if name not in table.splits:
            return allowed[0]
        exchange.asked = name
        up = [one for one in allowed if table.candidates(one)] or allowed
        member = exchange.affinity or user_key(body) or os.urandom(8)
        arms = {one: table.splits[name][one] for one in up}
        return choose_arm(arms, name.encode() + member)

    def reserve(self, exchange: Exchange, key: KeyRecord, body: Body) -> None:
        """Reserve what a request may need of its key's limits.

        Raises:
            GatewayError: 429: it has no more; 503: there is no room to count it.
        """
        now = time.monotonic()
        limits = self._limiter.of(key, now)
        if limits is None:
            return
        if exchange.route.form == "json":
            exchange.prompt_estimate = body.prompt_bytes // BYTES_PER_TOKEN
        wanted = exchange.prompt_estimate + body.max_tokens if exchange.route.uses_tokens else None
        found = limits.reserve(wanted, now)
        if isinstance(found, Refusal):
            exchange.refused_by = found.limit
            if found.limit == "keys":
                raise GatewayError(
                    503,
                    f"the gateway counts the limits of {found.allowed} keys, and no more at once; "
                    "try again later",
                    "gateway_busy",
                    retry_after_s=max(1, math.ceil(found.retry_after_s)),
                )
            unit = "at once" if found.limit == "concurrent" else "a minute"
            what = "tokens" if found.limit == "tokens" else "requests"
            raise GatewayError(
                429,
                f"The API key {key.name!r} may use {found.allowed} {what} {unit}; try again later",
                "rate_limit_exceeded",
                retry_after_s=max(1, math.ceil(found.retry_after_s)),
            )
        exchange.limits, exchange.reservation = limits, found

    def _names_for(self, key: KeyRecord) -> list[str]:
        table = self._endpoints.table
        return [
            name
            for name in table.names
            if any(key.allows_by(name, model) for model in table.models_of(name))
        ]
