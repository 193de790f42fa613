"""How much of its walltime a job has left, whatever the clock of its node says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeltainer.jobs.site_facts import LATE_S, JobFacts, job_facts
from modeltainer.spec import Placement
from tests.launch_spec import launch_spec

HOUR = 3600.0
START = 1_800_000_000.0
SPEC = launch_spec(placement=Placement(partition="p", gres=None, walltime_s=3600))
TIMES = {"SLURM_JOB_START_TIME": str(int(START)), "SLURM_JOB_END_TIME": str(int(START + HOUR))}
JOB = {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n1"}


def facts_at(environ: dict[str, str], clock_s: float) -> JobFacts:
    """As an agent finds them whose clock shows so many seconds after the job's start."""
    return job_facts(SPEC, environ, START + clock_s)


@pytest.mark.parametrize(
    ("clock_s", "left"),
    [
        (2, HOUR - 2),
        (59, HOUR - 59),
        (-600, HOUR),  # behind
        (600, HOUR),  # ahead, or the prolog was slow: Slurm's early signal will tell
    ],
)
def test_what_is_left(clock_s: float, left: float) -> None:
    assert facts_at({**JOB, **TIMES}, clock_s).left_s == left


def test_before_slurm_22_05_the_placements_walltime_counts_from_now() -> None:
    assert facts_at(JOB, 12345).left_s == HOUR


def test_no_walltime_on_a_bare_machine() -> None:
    assert facts_at({}, 0).left_s is None


def test_what_others_read_is_by_the_controllers_clock() -> None:
    facts = facts_at({**JOB, **TIMES}, -600)
    assert (facts.now_unix, facts.ends_unix) == (START, START + HOUR)


@given(st.floats(-7200, 7200))
def test_never_more_than_the_whole_and_never_nothing(clock_s: float) -> None:
    found = facts_at({**JOB, **TIMES}, clock_s).left_s
    assert found is not None
    assert HOUR - LATE_S <= found <= HOUR
