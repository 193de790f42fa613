"""What is known of a launch, from its three witnesses, as one row.

The launch folder says what was wanted and which job it became, Slurm's queue says where the job
is, and the agent's endpoint file says what the engine does. :func:`merge` is pure.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec

from modeltainer.registry.launches import Launch
from modeltainer.registry.records import Cause, Endpoint, State

Residence = Literal["pending", "running", "gone", "unknown"]
"""Of the job, as the scheduler tells it: ``unknown`` when the scheduler did not answer, which never
means that the job is gone."""


@dataclass(frozen=True)
class JobSight:
    """One job as the scheduler (or the process table, on a bare machine) shows it."""

    residence: Residence
    reason: str = ""
    """Why it is pending, in words; or how it ended, where the scheduler still knows."""
    node: str | None = None
    start_estimate_unix: float | None = None
    ends_unix: float | None = None


@dataclass(frozen=True)
class Row:
    """One launch, for ``mt-submit ls`` and the API. Times in seconds."""

    launch_id: str
    model: str
    replica: int
    state: State
    executor: str
    job_id: str | None = None
    partition: str | None = None
    gres: str | None = None
    gpus: float = 0
    """GPUs or slices of all its nodes together; a GPU that is shared counts by its part."""
    node: str | None = None
    nodes: int = 1
    """How many serve it together; ``node`` is the one that answers."""
    age_s: float = 0.0
    """Since submission."""
    time_left_s: float | None = None
    url: str | None = None
    """The engine's own address once it is ready; clients use the gateway's."""
    requests: int | None = None
    """In flight, where a gateway runs and says so."""
    reason: str = ""
    start_estimate_unix: float | None = None
    queue_s: float | None = None
    pulling_s: float | None = None
    staging_s: float | None = None
    loading_s: float | None = None
    weights_s: float | None = None
    """Part of loading, where the engine tells, as the next two."""
    compile_s: float | None = None
    warm_up_s: float | None = None
    serving_s: float | None = None
    cause: Cause | None = None

    @property
    def failed(self) -> bool:
        """It ended, and not because it was asked to."""
        return self.cause is not None and self.cause.failed

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, the fields of this class and ``failed``."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return {**plain, "failed": self.failed}


def merge(
    launch: Launch,
    endpoint: Endpoint | None,
    job: JobSight,
    now: float | None = None,
) -> Row:
    """One row from what the folder, the agent and the scheduler say.

    The agent's word counts while its job lives; a job that is gone has ended whatever the agent's
    last word was, and a scheduler that does not answer changes nothing.
    """
    now = time.time() if now is None else now
    spec, submission = launch.spec, launch.submission
    row = Row(
        launch_id=spec.launch_id,
        model=spec.model,
        replica=spec.replica,
        state=State.SUBMITTED,
        executor=submission.executor if submission else "slurm",
        job_id=submission.job_id if submission else None,
        partition=submission.partition if submission else None,
        gres=submission.gres if submission else None,
        gpus=spec.gpu_count,
        node=job.node,
        age_s=max(0.0, now - submission.submitted_unix) if submission else 0.0,
        reason=job.reason,
        start_estimate_unix=job.start_estimate_unix,
        time_left_s=None if job.ends_unix is None else max(0.0, job.ends_unix - now),
    )
    if submission is None and endpoint is not None:
        # The record of the submission was lost; the agent is there all the same.
        row = replace(row, job_id=endpoint.job_id)
        return _with_agent(row, endpoint, endpoint.started_unix, now)
    if submission is None:
        return replace(
            row, reason="not submitted yet, or its mt-submit was killed while submitting"
        )
    if endpoint is None:
        return _without_agent(row, job)
    row = _with_agent(row, endpoint, submission.submitted_unix, now)
    if job.residence == "gone" and endpoint.state is not State.ENDED:
        cause = Cause(
            "job-gone",
            f"the job is gone; the agent's last word was {endpoint.state.value!r}"
            + (f" ({job.reason})" if job.reason else ""),
            "the node failed, or the job was killed too fast to say why: see mt-submit logs",
        )
        ended = replace(row, state=State.ENDED, cause=cause, reason=cause.message)
        return replace(ended, url=None, time_left_s=None)
    return row


def _without_agent(row: Row, job: JobSight) -> Row:
    if job.residence == "pending":
        return replace(row, state=State.QUEUED)
    if job.residence == "running":
        return replace(
            row, state=State.STARTING, reason=job.reason or "the agent has not spoken yet"
        )
    if job.residence == "unknown":
        return row
    cause = Cause(
        "never-started",
        "the job ended before the agent could write to the registry"
        + (f" ({job.reason})" if job.reason else ""),
        "see mt-submit logs --agent; is the registry's folder the same on the compute nodes "
        "(mt-submit doctor)?",
    )
    return replace(row, state=State.ENDED, cause=cause, reason=cause.message)


def _with_agent(row: Row, endpoint: Endpoint, submitted_unix: float, now: float) -> Row:
    until = endpoint.ended_unix or now
    return replace(
        row,
        state=endpoint.state,
        node=endpoint.node,
        nodes=endpoint.nodes,
        gres=endpoint.gres or row.gres,
        url=endpoint.url if endpoint.state in {State.READY, State.DRAINING} else None,
        time_left_s=_time_left(row, endpoint, now),
        queue_s=max(0.0, endpoint.started_unix - submitted_unix),
        pulling_s=endpoint.clocks.pulling_s,
        staging_s=endpoint.clocks.staging_s,
        loading_s=endpoint.clocks.loading_s,
        weights_s=endpoint.clocks.weights_s,
        compile_s=endpoint.clocks.compile_s,
        warm_up_s=endpoint.clocks.warm_up_s,
        serving_s=max(0.0, until - endpoint.ready_unix) if endpoint.ready_unix else None,
        cause=endpoint.cause,
        reason=endpoint.cause.message if endpoint.cause else "",
        start_estimate_unix=None,
    )


def _time_left(row: Row, endpoint: Endpoint, now: float) -> float | None:
    if endpoint.state is State.ENDED:
        return None
    return row.time_left_s if endpoint.ends_unix is None else max(0.0, endpoint.ends_unix - now)


def with_requests(rows: list[Row], in_flight: Mapping[str, int]) -> list[Row]:
    """Rows with the gateway's count of running requests per launch id filled in."""
    return [replace(row, requests=in_flight.get(row.launch_id, row.requests)) for row in rows]
