"""One launch of a deployment, as the reconciler sees it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from modeltainer.registry.records import Cause, Clocks


class Phase(str, Enum):
    """Where a launch is, seen from what has to be done about it."""

    UNSUBMITTED = "unsubmitted"
    """Its folder is there, and no job is known: its submitter was cut off."""
    QUEUED = "queued"
    STARTING = "starting"
    """Its job runs, it does not answer yet."""
    READY = "ready"
    SILENT = "silent"
    """Its job is said to run, but its agent's lease stands still."""
    LEAVING = "leaving"
    """It was asked to end, or ends by itself."""
    ENDED = "ended"


@dataclass(frozen=True)
class Replica:
    """Times in seconds."""

    launch_id: str
    model: str
    revision: str
    number: int
    phase: Phase
    useful_s: float | None = None
    """Until it begins to drain for its walltime; None: no end is known."""
    lifetime_s: float | None = None
    """Useful time that a launch of this kind has in all."""
    queue_s: float | None = None
    load_s: float | None = None
    """From the job's start to ready."""
    start: Clocks | None = None
    """The parts of it."""
    serving_s: float = 0.0
    running_s: float = 0.0
    """Since its job started, to its end; 0 while it waits."""
    ended_s: float = 0.0
    """Since its end."""
    unsubmitted_s: float = 0.0
    """For how long it is known to have no job."""
    silent_s: float = 0.0
    confirmed: bool = True
    """Its agent's lease was seen to move: a reconciler that has just begun takes a dead agent's
    last word for a living one's."""
    in_flight: int = 0
    """Requests that gateways have there."""
    gpus: float = 0
    """Of all its nodes; a GPU that is shared counts by its part."""
    spare: bool = False
    """Beyond the minimum, in a partition where it may be preempted."""
    on_demand: bool = False
    """Its GPU hours count in the total of all models on demand, whatever is declared since."""
    submitted_unix: float = 0.0
    cause: Cause | None = None
    asked: bool = False
    """It was the reconciler that asked it to end."""
