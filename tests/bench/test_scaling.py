"""What more replicas bring: from runs' summaries to the table and the picture."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from modeltainer.bench.report.scaling import Scaled, ScalingError, efficiency, scaled
from modeltainer.bench.store import Store

pytest.importorskip("matplotlib")


def run(replicas: int | None, *points: tuple[int, float, bool], model: str = "m") -> dict[str, Any]:
    """A summary: users, tokens per second and validity of each point."""
    listed = None if replicas is None else {"id": model, "replicas": replicas}
    return {
        "servers": [{"model": model, "url": "http://gateway", "listed": listed}],
        "points": [
            {
                "point": f"concurrency={users}",
                "concurrency": users,
                "rate": None,
                "valid": valid,
                "targets": {"a": {"output_tokens_per_s": tokens, "ttft_s": {"p50": users / 100}}},
            }
            for users, tokens, valid in points
        ],
    }


def test_the_best_valid_point_of_each_counts() -> None:
    runs = [
        run(4, (16, 300.0, True), (32, 320.0, True)),
        run(1, (4, 90.0, True), (8, 100.0, True), (16, 130.0, False)),
        run(1, (8, 95.0, True)),
    ]
    found = scaled(runs)
    assert found == [Scaled(1, 8, 100.0, 0.08), Scaled(4, 32, 320.0, 0.32)]
    assert efficiency(found[1], found[0]) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("runs", "why"),
    [
        ([run(1, (1, 9.0, True)), run(1, (2, 9.0, True))], "different numbers of replicas"),
        ([run(None, (1, 9.0, True)), run(2, (2, 9.0, True))], "measure through the gateway"),
        ([run(1, (1, 9.0, True)), run(2, (2, 9.0, False))], "2 replicas has no valid point"),
        ([run(1, (1, 9.0, True)), run(2, (2, 0.0, True))], "2 replicas has no valid point"),
        ([run(1, (1, 9.0, True)), run(2, (2, 9.0, True), model="n")], "several models: m, n"),
    ],
)
def test_runs_that_show_nothing(runs: list[dict[str, Any]], why: str) -> None:
    with pytest.raises(ScalingError, match=why):
        scaled(runs)


def command(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "modeltainer.cli.main", "bench", "scaling", *words]
    return subprocess.run(program, capture_output=True, text=True, cwd=folder, check=False)


def test_table_and_picture(tmp_path: Path) -> None:
    for name, summary in (
        ("one", run(1, (8, 100.0, True))),
        ("two", run(2, (16, 190.0, True))),
    ):
        with Store(tmp_path / name) as store:
            store.finish(summary, [])
    done = command("one", "two", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[1][:5] == ["1", "8", "100", "100", "100%"]
    assert rows[2][:5] == ["2", "16", "190", "95", "95%"]
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")

    alone = command("one", folder=tmp_path)
    assert alone.returncode == 1
    assert "different numbers of replicas" in alone.stderr
    (tmp_path / "empty").mkdir()
    assert "has no run" in command("one", "empty", folder=tmp_path).stderr
    unwritable = command("one", "two", "--output", "nowhere/x.png", folder=tmp_path)
    assert unwritable.returncode == 1
    assert "cannot be written" in unwritable.stderr
