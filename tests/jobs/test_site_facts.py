"""How much of its walltime a job has left, whatever the clock of its node says."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeltainer.jobs.site_facts import job_facts
from modeltainer.spec import Placement
from tests.launch_spec import launch_spec

HOUR = 3600.0
START = 1_800_000_000.0
SPEC = launch_spec(placement=Placement(partition="p", gres=None, walltime_s=3600))
TIMES = {"SLURM_JOB_START_TIME": str(int(START)), "SLURM_JOB_END_TIME": str(int(START + HOUR))}
JOB = {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n1"}


def left_s(
    environ: dict[str, str], now_unix: float, told: float | None = None
) -> tuple[float | None, int]:
    asked: list[str] = []

    def ask(job_id: str) -> float | None:
        asked.append(job_id)
        return told

    facts = job_facts(SPEC, environ, now_unix, ask)
    assert set(asked) <= {"7"}
    return facts.left_s, len(asked)


@pytest.mark.parametrize(
    ("clock_s", "told", "left"),
    [
        (2, None, (HOUR - 2, 0)),
        (-600, None, (HOUR, 0)),  # behind: the job cannot have more than its walltime
        (600, 3590.0, (3590.0, 1)),  # ahead: Slurm knows
        (600, 3000.0, (3000.0, 1)),  # not ahead, the prolog took ten minutes
        (600, None, (3000.0, 1)),  # Slurm does not say: rather too early than too late
        (600, 9000.0, (HOUR, 1)),
    ],
)
def test_what_is_left(clock_s: float, told: float | None, left: tuple[float, int]) -> None:
    assert left_s({**JOB, **TIMES}, START + clock_s, told) == left


def test_before_slurm_22_05_the_placements_walltime_counts_from_now() -> None:
    assert left_s(JOB, START + 12345) == (HOUR, 0)


def test_no_walltime_on_a_bare_machine() -> None:
    assert job_facts(SPEC, {}, START).left_s is None


def test_the_end_that_others_read_is_by_the_controllers_clock() -> None:
    facts = job_facts(SPEC, {**JOB, **TIMES}, START - 600)
    assert facts.ends_unix == START + HOUR


@given(st.floats(-7200, 7200), st.none() | st.floats(0, 7200))
def test_never_more_than_the_whole(clock_s: float, told: float | None) -> None:
    found, _ = left_s({**JOB, **TIMES}, START + clock_s, told)
    assert found is not None
    assert found <= HOUR


def test_slurm_is_asked_by_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_text('#!/bin/sh\ncase "$*" in *--jobs=7*TimeLeft*) echo "   50:00" ;; esac\n')
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert job_facts(SPEC, {**JOB, **TIMES}, START + 900).left_s == 3000.0
    squeue.write_text("#!/bin/sh\nexit 1\n")
    assert job_facts(SPEC, {**JOB, **TIMES}, START + 900).left_s == 2700.0
