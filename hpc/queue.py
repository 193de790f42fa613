"""Where all of the user's jobs stand, from one ``squeue``.

``squeue --me`` exists since Slurm 20.02; the ``-o`` letters used here have meant the same in every
version since (squeue(1)), unlike ``--json``, whose fields changed type in 23.x and again in 24.x.
``-t all`` also shows jobs that have ended for as long as the controller keeps them (slurm.conf:
MinJobAge, 300 s by default), so that a job that is gone has a reason. ``--array`` gives every array
task its own line. The start estimate comes in the same answer: no second query.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from modeltainer.hpc.commands import run
from modeltainer.hpc.hostlist import expand

_SEPARATOR = "\x1f"
_FIELDS = ("%i", "%A", "%T", "%r", "%N", "%S", "%e", "%V", "%P", "%j")
SQUEUE = (
    "squeue",
    "--me",
    "--array",
    "--states=all",
    "--noheader",
    f"--format={_SEPARATOR.join(_FIELDS)}",
)
"""Job id, raw id, state, reason, nodes, (expected) start, end, submitted, partition, name; times
are Unix seconds, for SLURM_TIME_FORMAT=%s is set for every command."""

WAITING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED"}) | {
    "RESV_DEL_HOLD",
    "SPECIAL_EXIT",
}
"""States in which the job's script does not run yet, or not any more and will again. (In
CONFIGURING nodes are given but still boot.)"""
ALIVE = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT"}) | {
    "RESIZING",
    "EXPEDITING",
    "POWER_UP_NODE",
}
"""States in which the job holds its nodes. Everything else has ended: COMPLETED, CANCELLED, FAILED,
TIMEOUT, PREEMPTED, NODE_FAIL, BOOT_FAIL, DEADLINE, OUT_OF_MEMORY, REVOKED, LAUNCH_FAILED, …"""

_REASONS = {
    "Resources": "waiting for resources: it is next in line, the nodes it needs are busy",
    "Priority": "waiting its turn: jobs with a higher priority are ahead of it",
    "None": "just submitted; the scheduler has not looked at it yet",
    "Dependency": "waits for another job that it depends on",
    "DependencyNeverSatisfied": "depends on a job that failed: it will never start",
    "BeginTime": "its begin time has not come yet",
    "JobHeldUser": "held by you: release it with scontrol release",
    "JobHeldAdmin": "held by an administrator: ask them",
    "Licenses": "waits for a licence",
    "NodeDown": "a node that it needs is down",
    "BadConstraints": "no node can ever meet its constraints: change resources.constraint",
    "PartitionDown": "the partition is down: no job starts there for now",
    "PartitionInactive": "the partition is inactive: no job starts there for now",
    "PartitionTimeLimit": "asks for more time than its partition allows: it will not start; "
    "use a shorter --time or another partition",
    "PartitionNodeLimit": "asks for nodes that its partition does not have: it will not start",
    "PartitionConfig": "asks for more than its partition allows: it will not start",
    "AccountNotAllowed": "this account may not use the partition: it will not start",
    "QOSNotAllowed": "this QOS may not be used in the partition: it will not start",
    "InvalidAccount": "the account is not valid: it will not start",
    "InvalidQOS": "the QOS is not valid: it will not start",
    "JobArrayTaskLimit": "its job array runs as many tasks at once as it may",
    "Reservation": "waits for its reservation to begin",
    "ReservationDeleted": "its reservation is gone",
    "Cleaning": "an earlier run of it is still being cleaned up",
    "Prolog": "the node is being prepared (prolog)",
    "JobLaunchFailure": "could not be launched on its node; see the log",
    "NonZeroExitCode": "ended with an error; see the log",
    "NodeFail": "its node failed",
    "TimeLimit": "reached its time limit",
    "OutOfMemory": "used more memory than it had asked for",
    "RaisedSignal": "was ended by a signal",
    "BurstBufferResources": "waits for burst buffer space",
    "FrontEndDown": "no front end node is available",
    "SystemFailure": "Slurm, a file system or the network failed",
    "MaxMemPerLimit": "asks for more memory per CPU or node than is allowed: it will not start",
    "MaxRequeueExceeded": "was requeued too often and is held",
    "NodeNotAvail": "a node that it needs is not available",
    "FedJobLock": "waits for another cluster of the federation",
    "DeadLine": "could not end before its deadline",
    "JobHoldMaxRequeue": "was requeued too often and is held",
}
_TRES = {
    "Cpu": "CPU",
    "CPU": "CPU",
    "GRES": "GPU",
    "Gres": "GPU",
    "Mem": "memory",
    "Memory": "memory",
    "Node": "node",
    "Jobs": "job",
    "Job": "job",
    "Submit": "submitted job",
    "SubmitJobs": "submitted job",
    "Wall": "run time",
    "WallDuration": "run time",
    "Billing": "billing",
    "BB": "burst buffer",
    "License": "licence",
    "Energy": "energy",
}


@dataclass(frozen=True)
class JobStatus:
    """One job (or array task) as squeue shows it. Times are Unix seconds."""

    job_id: str
    """As submitit writes it: ``123``, or ``123_4`` for a task of a job array."""
    state: str
    """Slurm's, in upper case: ``PENDING``, ``RUNNING``, ``COMPLETED``, …"""
    reason: str = ""
    """Slurm's word for it (``Resources``)."""
    nodes: tuple[str, ...] = ()
    start_estimate_unix: float | None = None
    """When the scheduler expects a pending job to start; None where it does not say."""
    end_unix: float | None = None
    submit_unix: float | None = None
    partition: str = ""
    name: str = ""
    raw_id: str = ""
    """``SLURM_JOB_ID`` in the job; differs from ``job_id`` for array tasks."""

    @property
    def reason_text(self) -> str:
        """What the reason means, in words; for an ended job, how it ended."""
        if self.state in WAITING:
            return explain_reason(self.reason)
        if self.state in ALIVE:
            return "" if self.state == "RUNNING" else _STATES.get(self.state, self.state.lower())
        told = _STATES.get(self.state, f"ended as {self.state}")
        # Other endings keep the reason of their last wait, which says nothing of their end.
        known = self.state in _CAUSED and self.reason != "None"
        detail = explain_reason(self.reason) if known else ""
        return told if detail in {"", told} else f"{told}: {detail}"


_STATES = {
    "COMPLETED": "ended by itself",
    "CANCELLED": "cancelled",
    "FAILED": "failed",
    "TIMEOUT": "reached its time limit",
    "PREEMPTED": "preempted by a job with a higher priority",
    "NODE_FAIL": "its node failed",
    "BOOT_FAIL": "its node could not boot",
    "OUT_OF_MEMORY": "used more memory than it had asked for",
    "DEADLINE": "could not end before its deadline",
    "COMPLETING": "ending",
    "SUSPENDED": "suspended by the scheduler",
    "STOPPED": "stopped by the scheduler",
    "LAUNCH_FAILED": "could not be launched on its node",
    "RECONFIG_FAIL": "its node could not be reconfigured",
    "REVOKED": "runs on another cluster of the federation",
}


_CAUSED = frozenset({"FAILED", "NODE_FAIL", "BOOT_FAIL", "LAUNCH_FAILED", "RECONFIG_FAIL"})


def poll_jobs() -> dict[str, JobStatus]:
    """All jobs of this user that the controller still knows, by job id. One query.

    Raises:
        SlurmError: no answer; nothing is known then, and no job may be taken for gone.
    """
    return parse_squeue(run(SQUEUE))


def parse_squeue(text: str) -> dict[str, JobStatus]:
    """Read the answer of :data:`SQUEUE`. Lines of another shape are left out."""
    return {job.job_id: job for line in text.split("\n") for job in _parse_line(line)}


def _parse_line(line: str) -> Iterator[JobStatus]:
    # The name is last, and may hold anything, even the separator.
    fields = line.split(_SEPARATOR, len(_FIELDS) - 1)
    if len(fields) != len(_FIELDS):
        return
    job_id, raw, state, reason, nodes, start, end, submitted, partition, name = fields
    state = state.strip().upper().split(" ")[0]
    if not state:
        return
    for one in _job_ids(job_id.strip()):
        yield JobStatus(
            job_id=one,
            state=state,
            reason=reason.strip(),
            nodes=expand(nodes.strip()),
            start_estimate_unix=_unix(start) if state in WAITING else None,
            end_unix=_unix(end),
            submit_unix=_unix(submitted),
            partition=partition.strip(),
            name=name,
            raw_id=raw.strip(),
        )


def _job_ids(text: str) -> list[str]:
    """``7``, ``7_3``, or a range of pending tasks (``7_[1-3,5%2]``) as single tasks. Heterogeneous
    jobs (``7+1``) stay as they are."""
    found = re.fullmatch(r"(\d+)_\[([\d,:-]+)(?:%\d+)?\]", text)
    if not found:
        return [text] if re.fullmatch(r"\d+(?:[_+]\d+)?", text) else []
    tasks: list[int] = []
    for part in found[2].split(","):
        span = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part)
        if not span:
            continue
        first, last, step = int(span[1]), int(span[2] or span[1]), int(span[3] or 1)
        tasks += range(first, min(last, first + 100_000) + 1, max(1, step))
    return [f"{found[1]}_{task}" for task in tasks]


def _unix(text: str) -> float | None:
    """A time printed with SLURM_TIME_FORMAT=%s; None for ``N/A``, ``NONE``, ``Unknown``."""
    text = text.strip()
    return float(text) if text.isascii() and text.isdigit() and int(text) > 0 else None


def explain_reason(reason: str) -> str:
    """Slurm's pending reason (squeue(1), JOB REASON CODES) in words, with what it means.

    Unknown ones are shown as they are.
    """
    word = reason.strip()
    word = word[1:-1] if word.startswith("(") and word.endswith(")") else word
    if not word:
        return ""
    head = re.split(r"[,:(\s]", word, maxsplit=1)[0]
    if head in _REASONS:
        return _REASONS[head]
    if head in {"ReqNodeNotAvail", "Nodes"}:
        return _not_available(word)
    if re.search(r"account .*can't use this partition|account not (known|permitted)", word):
        return f"your account may not use this partition: it will not start ({word})"
    if word.startswith("launch failed"):
        return "could not be launched on its node and is held; ask for scontrol release, or stop it"
    return _limit(head) or f"waiting: {word}"


def _not_available(word: str) -> str:
    if word.startswith("Nodes required"):
        return "the nodes it needs are down, drained or reserved: it starts when one is back"
    named = re.search(r"UnavailableNodes:\s*([^\s)]+)", word)
    which = f" ({named[1].rstrip(',')})" if named and named[1] else ""
    return (
        f"the nodes it needs are not available{which}: down, drained or reserved, perhaps for a "
        "maintenance that begins before it could end; a shorter --time or a --time-min may let it "
        "start"
    )


def _limit(head: str) -> str | None:
    """The family of limits: QOSMaxJobsPerUserLimit, AssocGrpGRES, QOSGrpCpuLimit, …"""
    found = re.fullmatch(
        r"(?P<owner>QOS|Assoc|Association)(?P<kind>Grp|Max|Min|Resource|Usage|TimeLimit|Job)?"
        r"(?P<what>[A-Za-z/]*?)"
        r"(?P<per>Per(?:User|Account|Acct|Job|Node|PU|PA))?(?P<end>Limit|MinutesLimit)?",
        head,
    )
    if not found:
        return None
    owner = "the QOS" if found["owner"] == "QOS" else "the account"
    minutes = "Minutes" in head or "RunMin" in head
    what = next(
        (words for key, words in _TRES.items() if found["what"].startswith(key)), "resource"
    )
    if found["kind"] == "Min":
        return f"asks for less {what} than {owner} demands: it will not start; ask for more"
    if minutes:
        return (
            f"{owner} has used up its {what} minutes, or this job would: it starts when some are "
            "free again; a shorter --time may let it start"
        )
    if what == "run time":
        return f"asks for more time than {owner} allows: it will not start; use a shorter --time"
    per = found["per"] or ""
    if per in {"PerJob", "PerNode"}:
        return f"asks for more {what}s than {owner} allows one job: it will not start; ask for less"
    if per in {"PerUser", "PerPU"}:
        return (
            f"you have as many {what}s as {owner} allows a user: it starts when one of yours ends"
        )
    whose = "your group" if found["kind"] == "Grp" else "you or your group"
    return f"{whose} already uses as many {what}s as {owner} allows: it starts when some are free"
