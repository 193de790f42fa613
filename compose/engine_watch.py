"""What the registry should say of one engine, from what the last probes found. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from modeltainer.registry.records import State

LOST_AFTER = 3
"""Failed probes in a row until an engine that answered counts as gone: one slow answer under load
is no death."""


@dataclass(frozen=True)
class Watch:
    """One engine as the registrar knows it."""

    state: State = State.STARTING
    misses: int = 0


def after_probe(watch: Watch, *, reachable: bool, answers: bool) -> Watch:
    """The engine after one more probe.

    Args:
        reachable: it accepts connections and proves its identity.
        answers: it also gave one token; asked only of an engine that is not ready yet.
    """
    if watch.state is State.READY:
        if reachable:
            return replace(watch, misses=0)
        misses = watch.misses + 1
        return Watch(State.STARTING if misses >= LOST_AFTER else State.READY, misses)
    if reachable and answers:
        return Watch(State.READY)
    return Watch(State.LOADING if reachable else State.STARTING)
