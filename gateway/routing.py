"""Which endpoint gets a request. Pure: from what is known to a choice."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field


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
        return [*sorted(self.configured | set(self.by_model)), *sorted(self.aliases)]


def table(targets: Iterable[Target], models: Mapping[str, Collection[str]]) -> Table:
    """Build a table.

    Args:
        targets: endpoints that may be given requests.
        models: name to aliases, from models.yaml. Its word on an alias goes before an endpoint's,
            and a model's own name before any alias.
    """
    by_model: dict[str, list[Target]] = {}
    aliases: dict[str, str] = {}
    for target in targets:
        by_model.setdefault(target.model, []).append(target)
        for alias in target.aliases:
            aliases.setdefault(alias, target.model)
    for model, names in models.items():
        aliases.update(dict.fromkeys(names, model))
    known = set(by_model) | set(models)
    return Table(
        by_model={model: tuple(found) for model, found in by_model.items()},
        aliases={alias: model for alias, model in aliases.items() if alias not in known},
        configured=frozenset(models),
    )


def choose(
    candidates: Iterable[Target],
    *,
    outstanding: Mapping[str, int],
    last_turn: Mapping[str, int],
    failed: Collection[str],
) -> Target | None:
    """The endpoint with the least outstanding requests; of equals, the one whose turn was longest
    ago (so a rewritten endpoint file changes nothing). None when all have failed.

    Args:
        outstanding: requests in flight, by endpoint key.
        last_turn: a growing number noted when the endpoint was last chosen, by key.
        failed: keys that this request has tried in vain.
    """
    left = [one for one in candidates if one.key not in failed]
    if not left:
        return None
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
