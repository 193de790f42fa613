"""How long jobs have run by Slurm's own books, where a site keeps them (sacct(1))."""

from __future__ import annotations

import re
from collections.abc import Collection

from modeltainer.hpc.commands import SlurmError, run

_MOST = 400
"""Job ids in one query: the command line stays short."""


def elapsed_s(job_ids: Collection[str]) -> dict[str, float]:
    """Seconds that each of these jobs has run, by job id; empty without accounting or Slurm.

    One query for up to 400 jobs. Jobs that the books do not know are not in the answer.
    """
    found: dict[str, float] = {}
    wanted = sorted(job_ids)
    for start in range(0, len(wanted), _MOST):
        some = ",".join(wanted[start : start + _MOST])
        # Without --starttime older releases look at today only (sacct(1), DEFAULT TIME WINDOW).
        argv = ["sacct", "--allocations", "--noheader", "--parsable2", f"--jobs={some}"]
        try:
            found |= parse(run([*argv, "--starttime=1970-01-01", "--format=JobID,ElapsedRaw"]))
        except SlurmError:
            return found
    return found


def parse(text: str) -> dict[str, float]:
    """``JobID|ElapsedRaw`` lines (``123_4`` is a task of an array); of a job id that was used
    again, the longest run."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        job_id, _, seconds = line.strip().partition("|")
        if re.fullmatch(r"\d+(_\d+)?", job_id) and seconds.isdigit():
            found[job_id] = max(found.get(job_id, 0.0), float(seconds))
    return found
