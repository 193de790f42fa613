"""What jobs have cost, from their agents' files and from Slurm's books."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeltainer.hpc.accounting import parse
from modeltainer.registry import runs
from modeltainer.registry.layout import Layout
from modeltainer.registry.records import RunRecord

DAY = 86400


def run(job: str, started: float, seen: float, gpus: int = 1, model: str = "m") -> RunRecord:
    return RunRecord(job, "m-r0-abcdef", model, "alice", gpus, started, seen)


def test_files_there_and_back(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    assert runs.read(layout) == []
    early, late = run("1", 0, 100), run("2", 200, 300)
    runs.write(layout, early)
    runs.write(layout, late)
    (layout.runs / "3.m-r0-abcdef.json").write_text("{")
    assert runs.read(layout) == [early, late]
    assert runs.read(layout, since_unix=150) == [late]


def test_gpu_seconds_by_model() -> None:
    jobs = [
        run("1", 0, 100, gpus=2),
        run("2", 50, 80, gpus=1),
        run("3", 0, 10, model="other"),
        run("4", 0, 1000, gpus=0, model="cpu"),
    ]
    found = runs.gpu_time(jobs, {}, 0)
    assert {name: (one.jobs, one.gpu_s) for name, one in found.items()} == {
        "m": ({"1", "2"}, 230),
        "other": ({"3"}, 10),
    }


def test_slurms_word_goes_over_the_agents() -> None:
    """An agent that was killed outright said its last word up to a minute before."""
    found = runs.gpu_time([run("1", 0, 60, gpus=4)], {"1": 90.0}, 0)
    assert found["m"].gpu_s == 360


@given(
    st.lists(
        st.tuples(st.floats(0, 5 * DAY), st.floats(0, 5 * DAY), st.integers(1, 8)), max_size=8
    ),
    st.floats(0, 5 * DAY),
)
def test_days_add_up_to_the_whole(jobs: list[tuple[float, float, int]], since: float) -> None:
    records = [
        run(str(number), started, started + length, gpus)
        for number, (started, length, gpus) in enumerate(jobs)
    ]
    whole = runs.gpu_time(records, {}, since)
    days = runs.gpu_time(records, {}, since, by_day=True)
    assert sum(one.gpu_s for one in days.values()) == pytest.approx(
        sum(one.gpu_s for one in whole.values())
    )
    assert all(one.gpu_s <= DAY * 8 * len(records) for one in days.values())


def test_sacct_lines() -> None:
    """As sacct(1) describes --parsable2; real ones are in tests/acceptance/test_books.py."""
    lines = "4711|3600\n4712|0\n4713_1|5\n4713_[2-9]|0\n|\n4711|20\nnonsense\n"
    assert parse(lines) == {"4711": 3600.0, "4712": 0.0, "4713_1": 5.0}
