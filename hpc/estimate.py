"""When will a job start? Slurm says so, of pending jobs and of ones to come."""

from __future__ import annotations

import re

from modeltainer.hpc.commands import SlurmError, run
from modeltainer.hpc.options import slurm_options
from modeltainer.hpc.queue import WAITING, JobStatus
from modeltainer.spec import LaunchSpec


def start_estimate(job: JobStatus, now_unix: float) -> float | None:
    """When Slurm expects a pending job to start (Unix seconds); None when it does not say.

    The estimate moves as others' jobs end early or better ones arrive (squeue(1), ``--start``), and
    one that has passed says nothing. No query of its own: ``squeue`` gives it with the rest.
    """
    start = job.start_estimate_unix
    return start if job.state in WAITING and start is not None and start >= now_unix else None


def start_of_another(spec: LaunchSpec) -> float | None:
    """When a job like this one would start if it were submitted now (Unix seconds); None when Slurm
    does not say. One query, ``sbatch --test-only``, which submits nothing (sbatch(1))."""
    plain = [
        f"--{option.name}" + ("" if option.value is None else f"={option.value}")
        for option in slurm_options(spec, "/dev/null")
        if option.name not in {"job-name", "output", "open-mode"}
    ]
    try:
        said = run(["sbatch", "--test-only", *plain, "--wrap=true"], messages=True)
    except SlurmError:
        return None
    return parse_test_only(said)


def parse_test_only(said: str) -> float | None:
    """The start in ``sbatch: Job 5 to start at 1795496651 a using 1 processors on …``."""
    found = re.search(r"\bto start at (\d{9,11})\b", said)
    return float(found[1]) if found else None
