"""Ctrl-C at any moment: what a terminal does, to the whole process group."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modeltainer.bench import calibrate, sweep
from modeltainer.bench.client import target
from modeltainer.bench.point import PointPlan, PointResult
from modeltainer.bench.record import read_jsonl
from modeltainer.bench.report import write_report
from modeltainer.bench.run import OnRecord, WorkerError
from modeltainer.bench.workload import Workload
from tests.bench.engine import serving
from tests.bench.shell import KEY, command, environ, summary
from tests.bench.test_pure import record


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(ttft=0.02, gap=0.01, tokens=1000, key=KEY) as made:
        yield made


def children(parent: int) -> dict[int, str]:
    """Command lines of a process's children."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            after_name = (folder / "stat").read_text().rpartition(")")[2].split()
            line = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if int(after_name[1]) == parent:
            found[int(folder.name)] = line.decode().replace("\0", " ")
    return found


def until(true: Callable[[], bool], within: float = 60.0) -> None:
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_ctrl_c_during_the_calibration_ends_the_run(url: str, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(
            *("plain", "--url", url, "--concurrency", "2,3,4", "--requests", "4"),
            *("--prompt-tokens", "16", "--output-tokens", "4"),
            folder=tmp_path / "run",
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environ(),
        start_new_session=True,
    )

    def calibrates() -> bool:
        assert process.poll() is None
        return any("modeltainer.bench.mock" in line for line in children(process.pid).values())

    until(calibrates)
    helpers = list(children(process.pid))
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said[1]
    found = summary(tmp_path / "run")
    assert found["ended_early"] == "interrupted"
    [point] = found["points"]
    assert (point["point"], point["ended_early"]) == ("concurrency=2", "interrupted")
    assert not point["valid"]
    assert point["targets"]["a"]["requests_measured"] == 4
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in helpers))


def plan(**more: Any) -> sweep.RunPlan:
    return sweep.RunPlan((target("http://x", "m"),), Workload(), concurrency=(1, 2), **more)


def measured(point: PointPlan, on_record: OnRecord | None = None) -> PointResult:
    rows = [record(n / 10, 0.05, point=point.label) for n in range(20)]
    for row in rows:
        if on_record is not None:
            on_record(row)
    return PointResult(point, rows)


@pytest.mark.parametrize("moment", ["point_begins", "row", "point_ends"])
def test_ctrl_c_between_points_keeps_what_there_is(
    monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    monkeypatch.setattr(sweep, "run_point", measured)
    announcer = sweep.Announcer()
    asked = []

    def interrupt(told: Any) -> None:
        asked.append(told)
        if len(asked) == (30 if moment == "row" else 2):
            raise KeyboardInterrupt

    monkeypatch.setattr(announcer, moment, interrupt)
    state = sweep.run(plan(calibration=False), announcer)
    assert state.ended_early == "interrupted"
    second = {"point_begins": [], "row": ["unfinished"], "point_ends": [""]}[moment]
    assert [point["ended_early"] for point in state.points] == ["", *second]
    if moment == "row":
        assert state.points[1]["targets"]["a"]["requests_measured"] == 10
        assert not state.points[1]["valid"]


@pytest.mark.parametrize(
    ("ended", "raised"), [("interrupted", KeyboardInterrupt), ("", WorkerError)]
)
def test_half_a_calibration_is_none(
    monkeypatch: pytest.MonkeyPatch, ended: str, raised: type[BaseException]
) -> None:
    def end(point: PointPlan, on_record: OnRecord | None = None) -> PointResult:
        return PointResult(point, [], ended_early=ended)

    monkeypatch.setattr(calibrate, "run_point", end)
    with pytest.raises(raised):
        calibrate.calibrate(1, 0.02)


def test_a_calibration_that_fails_is_a_problem_of_its_point(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> calibrate.Floor:
        raise WorkerError("the calibration got no answers")

    def with_gaps(point: PointPlan, on_record: OnRecord | None = None) -> PointResult:
        rows = [record(n / 10, 0.05, chunk_gaps_us=[20_000]) for n in range(20)]
        return PointResult(point, rows)

    monkeypatch.setattr(sweep, "run_point", with_gaps)
    monkeypatch.setattr(sweep, "calibrate", fail)
    state = sweep.run(plan(), sweep.Announcer())
    assert [point["valid"] for point in state.points] == [False, False]
    assert "the calibration failed" in state.points[0]["problems"][0]
    assert state.points[0]["floor"] is None


def test_clients_do_not_go_on_without_their_parent(tmp_path: Path) -> None:
    asked = tmp_path / "asked.jsonl"
    with serving(ttft=0.02, gap=0.001, tokens=2, record=str(asked)) as url:
        endless = f"load({url!r}, 'plain', tokens=2, requests=1_000_000)"
        process = subprocess.Popen(
            [sys.executable, "-c", f"from tests.bench.load import load; {endless}"]
        )
        until(lambda: asked.exists() and asked.read_bytes().count(b"\n") > 5)
        clients = list(children(process.pid))
        process.kill()
        process.wait(60)
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in clients))


def test_a_run_that_is_killed_leaves_its_points(tmp_path: Path) -> None:
    """SIGKILL, as by an administrator or for want of memory."""
    with serving(ttft=0.02, gap=0.01, tokens=1000, key=KEY) as url:
        words = ("plain", "--url", url, "--concurrency", "1,2", "--requests", "100000")
        short = ("--duration", "2s", "--no-calibration", "--prompt-tokens", "16")
        process = subprocess.Popen(
            command(*words, *short, "--output-tokens", "4", folder=tmp_path / "run"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environ(),
        )
        rows = tmp_path / "run" / "requests.jsonl"
        until(lambda: rows.exists() and rows.read_bytes().count(b"concurrency=2") > 4)
        process.kill()
        process.communicate(timeout=60)
    found = summary(tmp_path / "run")
    assert found["ended_early"] == "unfinished"
    assert [point["point"] for point in found["points"]] == ["concurrency=1"]
    assert found["points"][0]["ended_early"] == ""
    pytest.importorskip("matplotlib")
    page = write_report(tmp_path / "run").read_text()
    assert page.count("the run ended before this point did") == 1
    assert "<td>concurrency=2</td>" in page


def test_rows_are_whole_after_ctrl_c(url: str, tmp_path: Path) -> None:
    """The client processes ignore it: their parent says what is to be done."""
    process = subprocess.Popen(
        command(
            *("plain", "--url", url, "--concurrency", "2", "--requests", "100000"),
            *("--no-calibration", "--prompt-tokens", "16", "--output-tokens", "4"),
            folder=tmp_path,
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environ(),
        start_new_session=True,
    )
    rows = tmp_path / "requests.jsonl"
    until(lambda: rows.exists() and rows.read_bytes().count(b"\n") > 10)
    assert summary(tmp_path)["ended_early"] == "unfinished"
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said[1]
    assert summary(tmp_path)["ended_early"] == "interrupted"
    assert {row.failure for row in read_jsonl(rows)} == {"", "interrupted"}
