"""Which endpoint gets a request. Pure: from what is known to a choice."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from modeltainer.gateway.affinity import score

OVERLOAD = 1.25
"""An endpoint with more than so many times the mean of requests under way gets no more of those
that belong to it, or that only its job lasts for (Mirrokni et al. 2018, consistent hashing with
bounded loads)."""


@dataclass(frozen=True)
class Target:
    """One ready endpoint, with what it takes to talk to it."""

    key: str
    """Names the endpoint file: ``<job>.<launch_id>``."""
    launch_id: str
    model: str
    aliases: tuple[str, ...]
    host: str
    port: int
    served_name: str
    job_id: str
    node: str
    started_unix: float
    api_key: str = field(repr=False)
    nonce: str = field(repr=False)
    certificate: str | None = None
    """PEM of the only certificate that is trusted there; None: plain HTTP."""
    ends_unix: float | None = None
    """When its job ends."""

    @cached_property
    def preamble(self) -> bytes:
        """The header fields that each request to it begins with."""
        return (
            f"host: {self.address}\r\nauthorization: Bearer {self.api_key}\r\n"
            "accept-encoding: identity\r\n"
        ).encode("latin-1")

    @property
    def address(self) -> str:
        """``host:port``, as in a Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True)
class Table:
    """Names to endpoints, at one moment."""

    by_model: Mapping[str, tuple[Target, ...]] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Alias to model, from models.yaml and from the endpoints."""
    configured: frozenset[str] = frozenset()
    """Models of models.yaml, up or not."""
    splits: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Names whose requests are divided among models, by weight."""

    def model_named(self, name: str) -> str | None:
        """The model behind a name or alias, up or not; None when nobody knows it."""
        if name in self.by_model or name in self.configured:
            return name
        return self.aliases.get(name)

    def candidates(self, model: str) -> tuple[Target, ...]:
        """Endpoints of a model."""
        return self.by_model.get(model, ())

    @property
    def names(self) -> list[str]:
        """Every name a client may ask for, models first."""
        names = self.aliases.keys() | self.splits.keys()
        return [*sorted(self.configured | set(self.by_model)), *sorted(names)]

    def models_of(self, name: str) -> tuple[str, ...]:
        """The models behind a name, in the order of models.yaml; none when nobody knows it."""
        if name in self.splits:
            return tuple(self.splits[name])
        model = self.model_named(name)
        return () if model is None else (model,)


def table(
    targets: Iterable[Target],
    models: Mapping[str, Collection[str]],
    splits: Mapping[str, Mapping[str, int]] | None = None,
) -> Table:
    """Build a table.

    Args:
        targets: endpoints that may be given requests.
        models: name to aliases, from models.yaml. Its word on an alias goes before an endpoint's,
            and a model's own name before any alias.
        splits: name to models and their weights, from models.yaml; goes before an endpoint's alias.
    """
    by_model: dict[str, list[Target]] = {}
    aliases: dict[str, str] = {}
    for target in targets:
        by_model.setdefault(target.model, []).append(target)
        for alias in target.aliases:
            aliases.setdefault(alias, target.model)
    for model, names in models.items():
        aliases.update(dict.fromkeys(names, model))
    known = {*by_model, *models, *(splits or {})}
    return Table(
        by_model={model: tuple(found) for model, found in by_model.items()},
        aliases={alias: model for alias, model in aliases.items() if alias not in known},
        configured=frozenset(models),
        splits={
            name: {model: weight for model, weight in arms.items() if weight}
            for name, arms in (splits or {}).items()
            if name not in by_model
        },
    )


def lasting(candidates: Sequence[Target], until_unix: float) -> Sequence[Target]:
    """Those whose jobs last until then; all of them where none does: most requests are short."""
    left = [one for one in candidates if one.ends_unix is None or one.ends_unix >= until_unix]
    return left or candidates


def calm(candidates: Sequence[Target], outstanding: Mapping[str, int]) -> list[Target]:
    """Those that are not overloaded; of some candidates, at least one is not."""
    total = sum(outstanding.get(one.key, 0) for one in candidates)
    bound = math.ceil(OVERLOAD * (total + 1) / len(candidates))
    return [one for one in candidates if outstanding.get(one.key, 0) < bound]


def choose(
    candidates: Iterable[Target],
    *,
    outstanding: Mapping[str, int],
    last_turn: Mapping[str, int],
    affinity: bytes | None = None,
) -> Target | None:
    """The endpoint with the least outstanding requests; of equals, the one whose turn was longest
    ago (so a rewritten endpoint file changes nothing). None when there is none.

    Args:
        affinity: what the request belongs to; it goes where its like go, unless that endpoint is
            overloaded.
        outstanding: requests in flight, by endpoint key.
        last_turn: a growing number noted when the endpoint was last chosen, by key.
    """
    left = list(candidates)
    if not left:
        return None
    if affinity is not None:
        return max(calm(left, outstanding), key=lambda one: score(affinity, one.key))
    return min(left, key=lambda one: (outstanding.get(one.key, 0), last_turn.get(one.key, 0)))


def unknown_model(name: str, names: Collection[str]) -> str:
    """The message for a model that nobody knows, with the nearest names that there are."""
    shown = name if len(name) <= 200 else name[:200] + "…"
    near = difflib.get_close_matches(name[:200], names, n=3, cutoff=0.5)
    if near:
        hint = " or ".join(repr(one) for one in near)
        return f"The model {shown!r} does not exist; did you mean {hint}?"
    listed = ", ".join(list(names)[:20])
    return f"The model {shown!r} does not exist; " + (
        f"models here: {listed}" if listed else "no models are configured"
    )
