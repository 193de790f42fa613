"""How many replicas are right, from what clients do. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from modeltainer.registry.deployments import Deployment

UP_S = 20.0
"""More requests than the replicas are meant to carry, for so long: one step up."""
DOWN_S = 300.0
"""One replica fewer would carry it with room to spare, for so long: one down."""
ROOM = 0.7
"""Of its targets, what a replica may carry, and clients may wait, for another to be let go."""


@dataclass(frozen=True)
class Load:
    """What the gateways say of one model."""

    in_flight: int = 0
    """Requests under way, those that wait for a first replica among them."""
    idle_s: float | None = None
    """Since the last request ended or came; None: none since the gateway runs."""
    first_token_s: float | None = None
    """How long streams wait for their first token; None: there were none of late."""
    watched_s: float = 0.0
    """For how long the gateway has been counting."""


@dataclass(frozen=True)
class Pressure:
    """Since when (monotonic seconds) the load has been too much, or too little."""

    above_since: float | None = None
    below_since: float | None = None


def scale(
    deployment: Deployment,
    wanted: int,
    load: Load | None,
    pressure: Pressure,
    now: float,
    *,
    ready: int,
) -> tuple[int, Pressure]:
    """The number of replicas to have, and what to remember for the next look.

    Args:
        wanted: what the last look found right.
        load: None when no gateway says; then nothing is changed within the declared bounds.
        now: monotonic seconds.
        ready: replicas that serve.
    """
    low, high = deployment.minimum, max(deployment.minimum, deployment.maximum)
    wanted = min(max(wanted, low), high)
    if load is None:
        return wanted, Pressure()
    if low == 0 and not load.in_flight:
        quiet_s = load.watched_s if load.idle_s is None else load.idle_s
        if quiet_s >= deployment.idle_release_s:
            return 0, Pressure()
        if load.idle_s is None:
            return wanted, Pressure()
    wanted = max(wanted, 1)
    crowded = load.in_flight > wanted * deployment.target_in_flight
    slow = _is_slow(deployment, load, ready, wanted)
    above = crowded or slow
    below = (
        load.in_flight <= (wanted - 1) * deployment.target_in_flight * ROOM
        and (load.first_token_s or 0.0) <= deployment.target_first_token_s * ROOM
    )
    pressure = Pressure(
        _since(above, pressure.above_since, now), _since(below, pressure.below_since, now)
    )
    if pressure.above_since is not None and now - pressure.above_since >= UP_S:
        needed = math.ceil(load.in_flight / deployment.target_in_flight) if crowded else wanted + 1
        return min(max(wanted, needed), high), replace(pressure, above_since=now)
    if pressure.below_since is not None and now - pressure.below_since >= DOWN_S:
        return max(wanted - 1, low, 1), replace(pressure, below_since=now)
    return wanted, pressure


def _is_slow(deployment: Deployment, load: Load, ready: int, wanted: int) -> bool:
    """First tokens come late, and one more replica may help: what was wanted before is there, and
    no request has a replica to itself (that one's wait is its own prompt's)."""
    late = (load.first_token_s or 0.0) > deployment.target_first_token_s
    return late and wanted <= ready < load.in_flight


def _since(true: bool, known: float | None, now: float) -> float | None:
    if not true:
        return None
    return now if known is None else known
