"""Where jobs are, asked politely: one batched query for all of them, reused between polls.

Slurm's controller serves the whole site, so the answers to :meth:`Scheduler.look` are kept for a
while; local jobs are looked up in the process table, which costs nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from modeltainer.registry.records import Submission
from modeltainer.view import JobSight, Residence

if TYPE_CHECKING:
    from modeltainer.hpc.queue import JobStatus

SETTLED_INTERVAL_S = 15.0
"""How often the queue is asked when every job's agent has spoken: only to see jobs vanish."""


class Scheduler:
    """A view of the user's jobs, Slurm's and local ones alike."""

    def __init__(
        self,
        min_interval_s: float = 2.0,
        max_interval_s: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """The interval between two queries starts at the minimum and doubles while nothing
        changes, up to the maximum."""
        self._minimum, self._maximum = min_interval_s, max_interval_s
        self._interval = min_interval_s
        self._clock = clock
        self._asked_at: float | None = None
        self._answer: dict[str, JobSight] | None = None
        self._known: frozenset[str] = frozenset()
        """Jobs that were there to be seen when the queue last answered."""
        self._asked_for: frozenset[str] = frozenset()

    def look(
        self, submissions: Sequence[Submission], settled: Iterable[str] = ()
    ) -> dict[str, JobSight]:
        """Sight of each submission's job, by job id.

        Args:
            settled: jobs whose agent has written to the registry; they are asked about rarely.
        """
        slurm = [one for one in submissions if one.executor in {"slurm", "sbatch"}]
        sights = {one.job_id: local_sight(one) for one in submissions if one.executor == "local"}
        # Docker's services are seen by their endpoint files only.
        sights |= {
            one.job_id: JobSight("unknown") for one in submissions if one.executor == "compose"
        }
        if slurm:
            jobs = frozenset(one.job_id for one in slurm)
            self._refresh(jobs, all_settled=jobs <= frozenset(settled))
            for job_id in jobs:
                sights[job_id] = self._sight(job_id)
        return sights

    def _sight(self, job_id: str) -> JobSight:
        if self._answer is None or job_id not in self._known:
            return JobSight("unknown")
        return self._answer.get(job_id, JobSight("gone"))

    def _refresh(self, jobs: frozenset[str], *, all_settled: bool) -> None:
        from modeltainer.hpc.commands import SlurmError
        from modeltainer.hpc.queue import poll_jobs

        now = self._clock()
        interval = max(self._interval, SETTLED_INTERVAL_S) if all_settled else self._interval
        new = not jobs <= self._asked_for
        if self._asked_at is not None and not new and now - self._asked_at < interval:
            return
        self._asked_at, self._asked_for = now, jobs
        try:
            answer = {job.job_id: job_sight(job) for job in poll_jobs().values()}
        except SlurmError:
            # No answer is not 'job gone': what was known stays, what is new is unknown.
            self._interval = min(self._interval * 2, self._maximum)
            return
        changed = new or _gist(answer, jobs) != _gist(self._answer or {}, jobs)
        self._interval = self._minimum if changed else min(self._interval * 2, self._maximum)
        self._answer, self._known = answer, jobs


def _gist(answer: Mapping[str, JobSight], jobs: Collection[str]) -> dict[str, tuple[str, str]]:
    """What has to change for Slurm to be asked more often: other jobs, and estimates that creep,
    are not that."""
    return {job: (answer[job].residence, answer[job].reason) for job in jobs if job in answer}


def job_sight(job: JobStatus) -> JobSight:
    """A Slurm job as launches see it: pending, running or gone, and why, in words."""
    from modeltainer.hpc.estimate import start_estimate
    from modeltainer.hpc.queue import ALIVE, WAITING

    if job.state in WAITING:
        estimate = start_estimate(job, time.time())
        return JobSight("pending", reason=job.reason_text, start_estimate_unix=estimate)
    residence: Residence = "running" if job.state in ALIVE else "gone"
    return JobSight(
        residence,
        reason=job.reason_text,
        node=job.nodes[0] if job.nodes else None,
        ends_unix=job.end_unix if residence == "running" else None,
    )


def local_sight(submission: Submission) -> JobSight:
    """A job of the local executor: its process, told from a stranger's by its start time. From
    another host nothing can be said of it."""
    here = os.uname().nodename
    if submission.host is not None and submission.host != here:
        return JobSight("unknown", reason=f"runs on {submission.host}", node=submission.host)
    ticks = start_ticks(int(submission.job_id))
    if ticks is None or ticks != submission.local_start_ticks:
        return JobSight("gone")
    return JobSight("running", node=here)


def start_ticks(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot (proc(5), /proc/PID/stat field 22); None
    when there is no such process, or only its unreaped remains."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, UnicodeDecodeError):
        return None
    return None if fields[0] in {"Z", "X"} else int(fields[19])
