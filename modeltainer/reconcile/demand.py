"""What clients ask for, from the gateways to the reconciler: one file per gateway host.

``gateway/demand-<host>.json`` is written by the gateway there. It holds spans, no times of day, and
a counter by which a reader tells on its own clock whether the gateway is alive.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from modeltainer.reconcile.scale import Load
from modeltainer.registry.atomic import read_bounded, write_whole
from modeltainer.registry.layout import Layout

PERIOD_S = 5.0
SILENT_S = 30.0
"""A gateway whose counter stands still for so long is not believed any more."""
MAX_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Demand:
    """One gateway's file."""

    counter: int = 0
    watched_s: float = 0.0
    """How long this gateway has been up."""
    in_flight: dict[str, int] = field(default_factory=dict)
    """Requests under way by model, those held for a cold start among them."""
    idle_s: dict[str, float] = field(default_factory=dict)
    """Since the last request, by model; models that were never asked for are not there."""
    first_token_s: dict[str, float] = field(default_factory=dict)
    """How long streams wait for their first token now, by model (the 90th percentile)."""
    launches: dict[str, int] = field(default_factory=dict)
    """Requests under way by launch."""


@dataclass(frozen=True)
class Demands:
    """What the gateways that are alive say, all together."""

    live: tuple[Demand, ...] = ()

    def loads(self, models: Iterable[str]) -> dict[str, Load]:
        """The load of each of these models; empty where no gateway is alive."""
        return {model: self._load(model) for model in models} if self.live else {}

    def in_flight(self, launch_id: str) -> int:
        """Requests that one launch has under way."""
        return sum(one.launches.get(launch_id, 0) for one in self.live)

    def _load(self, model: str) -> Load:
        return Load(
            in_flight=sum(one.in_flight.get(model, 0) for one in self.live),
            idle_s=min(
                (one.idle_s[model] for one in self.live if model in one.idle_s), default=None
            ),
            first_token_s=max(
                (one.first_token_s[model] for one in self.live if model in one.first_token_s),
                default=None,
            ),
            watched_s=min(one.watched_s for one in self.live),
        )


def write(layout: Layout, host: str, demand: Demand) -> None:
    """Publish.

    Raises:
        OSError: the registry cannot be written.
    """
    write_whole(_path(layout, host), msgspec.json.encode(demand) + b"\n")


def remove(layout: Layout, host: str) -> None:
    """The gateway of this host ends."""
    with contextlib.suppress(OSError):
        _path(layout, host).unlink()


def _path(layout: Layout, host: str) -> Path:
    return layout.gateway / f"demand-{re.sub(r'[^A-Za-z0-9.-]', '-', host)[:100]}.json"


class DemandReader:
    """Follows the files of all gateways."""

    def __init__(self, layout: Layout, clock: Callable[[], float] = time.monotonic) -> None:
        self._layout, self._clock = layout, clock
        self._moved: dict[str, _Pulse] = {}

    def read(self) -> Demands:
        """What they say now."""
        now = self._clock()
        found = (self._read(name, now) for name in self._names())
        return Demands(tuple(one for one in found if one is not None))

    def _names(self) -> list[str]:
        try:
            listed = os.listdir(self._layout.gateway)
        except OSError:
            return []
        return sorted(
            name for name in listed if name.startswith("demand-") and name.endswith(".json")
        )

    def _read(self, name: str, now: float) -> Demand | None:
        try:
            data, stat = read_bounded(self._layout.gateway / name, MAX_BYTES)
            demand = msgspec.json.decode(data, type=Demand)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return None
        if stat.st_uid != os.getuid():
            return None
        pulse = self._moved.get(name)
        if pulse is None or pulse.counter != demand.counter:
            # The first sight of a file proves nothing: its gateway may be long dead.
            pulse = self._moved[name] = _Pulse(demand.counter, now, proven=pulse is not None)
        return demand if pulse.proven and now - pulse.moved_at <= SILENT_S else None


@dataclass(frozen=True)
class _Pulse:
    counter: int
    moved_at: float
    proven: bool
