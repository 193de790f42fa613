"""Ending jobs, politely and only our own.

Slurm: a plain ``scancel`` sends SIGCONT and SIGTERM to every step, so to the agent under srun, and
SIGKILL to what is left after KillWait (slurm.conf(5), 30 s by default). ``--batch`` and ``--full``
are for scripts that catch signals themselves; ours does not. A pending job is simply removed.
Every process of the step is meant, the engine among them: whoever wants running requests to finish
writes a request to drain and nudges first.

Local: submitit's controller passes SIGTERM on to the agent (submitit.local.local.Controller).
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import signal
from collections.abc import Sequence

from modeltainer.hpc.commands import SlurmError, run
from modeltainer.hpc.options import EARLY_SIGNAL
from modeltainer.hpc.queue import poll_jobs
from modeltainer.registry.records import Submission
from modeltainer.scheduler import start_ticks

_GONE = re.compile(
    r"invalid job id|already complet|no such job|job/step already|not active|job has already",
    re.IGNORECASE,
)


def cancel(submissions: Sequence[Submission]) -> None:
    """End these jobs; those already gone are fine. Slurm is asked once, whatever their number.

    Raises:
        SlurmError: Slurm gave no answer, or refused a job that still is there. Local jobs have
            been signalled even so.
    """
    for one in submissions:
        if one.executor == "local":
            cancel_local(int(one.job_id), one.local_start_ticks)
    jobs = [one.job_id for one in submissions if one.executor in {"slurm", "sbatch"}]
    if jobs:
        _scancel(jobs)


def nudge(submissions: Sequence[Submission]) -> None:
    """Have the agents of these jobs look at once for what is asked of them; they look every few
    seconds by themselves, so nothing is lost when this fails."""
    jobs = [one.job_id for one in submissions if one.executor != "local"]
    if jobs:
        with contextlib.suppress(SlurmError):
            run(["scancel", f"--signal={EARLY_SIGNAL}", *jobs])


def cancel_named(name: str) -> None:
    """End every job of this user with this name: for a submission that was cut off before its
    answer came.

    Raises:
        SlurmError: no answer.
    """
    _scancel([f"--user={getpass.getuser()}", f"--name={name}"])


def cancel_task(name: str, task: int) -> None:
    """End one task of the job array with this name, whose job id was never written down.

    Raises:
        SlurmError: no answer.
    """
    found = [
        job.job_id
        for job in poll_jobs().values()
        if job.name == name and job.job_id.endswith(f"_{task}")
    ]
    if found:
        _scancel(found)


def cancel_local(pid: int, ticks: int | None) -> None:
    """SIGTERM to a local job's controller, unless its pid is another process's by now."""
    if ticks is None or start_ticks(pid) != ticks:
        return
    try:
        os.kill(pid, signal.SIGTERM)
    except (ProcessLookupError, PermissionError):
        return


def _scancel(arguments: Sequence[str]) -> None:
    try:
        run(["scancel", *arguments])
    except SlurmError as error:
        if error.unreachable:
            raise
        left = [line for line in error.stderr.splitlines() if line and not _GONE.search(line)]
        if left or not error.stderr:
            raise
