"""How long each job has held its GPUs: one small file a job, written by its agent, kept.

Launch folders go with the launch; what it has cost must be known longer. Slurm's own accounting
(:mod:`modeltainer.hpc.accounting`) knows better where a site has it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modeltainer.registry.atomic import read_bounded, write_whole
from modeltainer.registry.days import by_day as seconds_by_day
from modeltainer.registry.layout import Layout
from modeltainer.registry.records import (
    MAX_RECORD_BYTES,
    BadRecordError,
    RunRecord,
    decode,
    encode,
)

RENEW_S = 60.0
"""How often a running job's file is written: what an agent that is killed outright may lose."""


def write(layout: Layout, record: RunRecord) -> None:
    """Write one job's file.

    Raises:
        OSError: the registry cannot be written.
    """
    layout.runs.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_whole(layout.run(record.job_id, record.launch_id), encode(record))


def read(layout: Layout, since_unix: float = 0.0) -> list[RunRecord]:
    """Every job that ran after a time; damaged files are left out."""
    try:
        names = sorted(name for name in os.listdir(layout.runs) if name.endswith(".json"))
    except FileNotFoundError:
        return []
    found = []
    for name in names:
        record = _read(layout.runs / name)
        if record is not None and record.seen_unix >= since_unix:
            found.append(record)
    return found


def last_seen_unix(layout: Layout, job_id: str, launch_id: str) -> float | None:
    """When a job's agent last wrote its file, by the controller's clock; None without a file."""
    record = _read(layout.run(job_id, launch_id))
    return None if record is None else record.seen_unix


def _read(file: Path) -> RunRecord | None:
    try:
        return decode(read_bounded(file, MAX_RECORD_BYTES)[0], RunRecord)
    except (OSError, BadRecordError):
        return None


@dataclass
class GpuTime:
    """GPU seconds of some jobs; a slice counts as a GPU, a shared GPU by its part."""

    jobs: set[str] = field(default_factory=set)
    gpu_s: float = 0.0


def gpu_time(
    records: Iterable[RunRecord],
    elapsed_s: Mapping[str, float],
    since_unix: float,
    *,
    by_day: bool = False,
) -> dict[str, GpuTime]:
    """GPU seconds by model, or by day (UTC), of jobs that had GPUs.

    Args:
        elapsed_s: what Slurm says a job has run, by job id; its word goes over the agent's.
        since_unix: only what came after.
    """
    found: dict[str, GpuTime] = {}
    for one in records:
        if not one.gpus:
            continue
        end = max(one.seen_unix, one.started_unix)
        if one.job_id in elapsed_s:
            end = one.started_unix + elapsed_s[one.job_id]
        begin = max(one.started_unix, since_unix)
        if begin >= end:
            continue
        spans = seconds_by_day(begin, end) if by_day else {one.model: end - begin}
        for name, seconds in spans.items():
            total = found.setdefault(name, GpuTime())
            total.jobs.add(one.job_id)
            total.gpu_s += seconds * one.gpus
    return found
