"""The life of one replica as a pure state machine; :mod:`modeltainer.jobs.agent` carries it out.

::

    starting -> [pulling] -> loading -> ready -> draining -> ended
         \\__________\\__________\\________\\________________/   (engine died, stop, load time-out)

Times are seconds on one monotonic clock, the agent's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from modeltainer.registry.records import State

PROPAGATION_S = 2.5
"""How long a draining endpoint keeps its engine even when idle: gateways read the registry about
once a second, and a request sent before they knew must still be answered."""

KILL_WAIT_MARGIN_S = 8.0
"""Kept free of the time Slurm leaves between SIGTERM and SIGKILL for the engine's own exit."""


class Ask(str, Enum):
    """Why the agent was asked to end, the most pressing first; that one counts."""

    STOP = "stopped"
    WALLTIME = "walltime"
    RELEASE = "released"
    """A stop that can wait for what runs, within the drain time."""
    DRAIN = "drained"
    """Others serve in its place: what runs may finish in peace."""


class Act(str, Enum):
    """What the agent must do after a step."""

    NOTHING = "nothing"
    PUBLISH_READY = "publish-ready"
    BEGIN_DRAIN = "begin-drain"
    TERMINATE = "terminate"
    FINISH = "finish"


@dataclass(frozen=True)
class Limits:
    """Time limits of one launch, in seconds."""

    load_timeout_s: float
    drain_s: float
    """After an early signal: how long running requests may go on."""
    kill_wait_s: float = 30.0
    """Between Slurm's SIGTERM and SIGKILL (slurm.conf KillWait)."""
    peaceful_drain_s: float = 600.0
    """After a request to drain: nothing presses but the GPU's hours."""

    def drain_after(self, ask: Ask) -> float:
        """A stop must be over before Slurm kills; a walltime was told early enough; and a replica
        that was asked to drain has until its walltime, which presses when it comes."""
        if ask is Ask.DRAIN:
            return max(self.drain_s, self.peaceful_drain_s)
        if ask is Ask.STOP:
            return max(0.0, min(self.drain_s, self.kill_wait_s - KILL_WAIT_MARGIN_S))
        return self.drain_s


@dataclass(frozen=True)
class Life:
    """Where the replica is."""

    state: State
    since: float
    """When this state began."""
    ask: Ask | None = None
    drain_deadline: float | None = None
    timed_out: bool = False
    """It was ended because it did not load in time."""


@dataclass(frozen=True)
class Facts:
    """What the agent sees at one moment."""

    now: float
    engine_exited: bool = False
    answered: bool = False
    """The engine gave its first token to our probe."""
    ask: Ask | None = None
    idle: bool = False
    """No request runs in the engine (unknown counts as busy)."""


def step(life: Life, facts: Facts, limits: Limits) -> tuple[Life, Act]:
    """One decision from where the replica is and what is seen. Total: never raises.

    ``ended`` is final. An engine that exited ends the life at once, whatever else is seen.
    """
    if life.state is State.ENDED:
        return life, Act.NOTHING
    ask = _stronger(life.ask, facts.ask)
    if facts.engine_exited:
        return _become(life, State.ENDED, facts.now, ask), Act.FINISH
    if life.state is State.DRAINING:
        return _drain(life, facts, limits, ask)
    if ask is not None:
        if life.state is not State.READY:  # nothing to finish: nobody was served yet
            ended = _become(life, State.DRAINING, facts.now, ask)
            return _with_deadline(ended, facts.now), Act.TERMINATE
        draining = _become(life, State.DRAINING, facts.now, ask)
        return _with_deadline(draining, facts.now + limits.drain_after(ask)), Act.BEGIN_DRAIN
    if life.state is State.LOADING:
        if facts.answered:
            return _become(life, State.READY, facts.now, None), Act.PUBLISH_READY
        if facts.now - life.since >= limits.load_timeout_s:
            late = _become(life, State.DRAINING, facts.now, None)
            late = Life(late.state, late.since, None, facts.now, timed_out=True)
            return late, Act.TERMINATE
    return life, Act.NOTHING


def _drain(life: Life, facts: Facts, limits: Limits, ask: Ask | None) -> tuple[Life, Act]:
    deadline = life.drain_deadline if life.drain_deadline is not None else facts.now
    if ask is not None and ask is not life.ask and life.drain_deadline is not None:
        deadline = min(deadline, facts.now + limits.drain_after(ask))
    life = Life(life.state, life.since, ask, deadline, life.timed_out)
    quiet = facts.idle and facts.now - life.since >= PROPAGATION_S
    return life, Act.TERMINATE if quiet or facts.now >= deadline else Act.NOTHING


def _stronger(known: Ask | None, new: Ask | None) -> Ask | None:
    """The more pressing of the two."""
    return next((ask for ask in Ask if ask in (known, new)), None)


def _become(life: Life, state: State, now: float, ask: Ask | None) -> Life:
    return Life(state, now, ask, life.drain_deadline, life.timed_out)


def _with_deadline(life: Life, deadline: float) -> Life:
    return Life(life.state, life.since, life.ask, deadline, life.timed_out)
