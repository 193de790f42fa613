"""When will a pending job start? Slurm's backfill scheduler says so in the queue's own answer."""

from __future__ import annotations

from modeltainer.hpc.queue import WAITING, JobStatus


def start_estimate(job: JobStatus, now_unix: float) -> float | None:
    """When Slurm expects a pending job to start (Unix seconds); None when it does not say.

    The estimate moves as others' jobs end early or better ones arrive (squeue(1), ``--start``), and
    one that has passed says nothing. No query of its own: ``squeue`` gives it with the rest.
    """
    start = job.start_estimate_unix
    return start if job.state in WAITING and start is not None and start >= now_unix else None
