"""Every figure of summary.json comes again out of the rows, in whichever form they are kept."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from statistics import mean, median
from typing import Any

import pytest

from modeltainer.bench.metrics import Slo, paired, summarise
from modeltainer.bench.record import Record, jsonl, read_jsonl
from modeltainer.bench.report import write_report
from modeltainer.bench.store import load
from modeltainer.bench.unfinished import unfinished
from tests.bench.engine import serving
from tests.bench.shell import KEY, QUICK, bench, summary


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep in pairs, one of whose sides fails in part of its answers."""
    folder = tmp_path_factory.mktemp("run")
    with serving(ttft=0.03, gap=0.005, tokens=1000, key=KEY) as url:
        done = bench(
            *("mixed", "--url", url, "--against", "no-usage", "--concurrency", "2,2,3"),
            *("--requests", "14", "--workers", "8", "--slo", "ttft=45ms,tpot=1s", *QUICK),
            folder=folder,
        )
    assert done.returncode == 0, done.stderr
    return folder


def from_csv(file: Path) -> list[Record]:
    """As anybody would read it, with the types of the columns that the reference names."""
    read: dict[str, Callable[[str], Any]] = {
        "str": str,
        "int": int,
        "float": float,
        "bool": {"True": True, "False": False}.__getitem__,
        "list[int]": lambda text: [int(one) for one in text.split()],
    }
    kinds = {one.name: str(one.type) for one in fields(Record)}

    def value(name: str, text: str) -> Any:
        kind, optional, _ = kinds[name].partition(" | None")
        return None if optional and not text else read[kind](text)

    with file.open(newline="") as lines:
        return [
            Record(**{name: value(name, text) for name, text in row.items()})
            for row in csv.DictReader(lines)
        ]


def as_json(document: Any) -> Any:
    return json.loads(json.dumps(document))


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_every_figure_comes_again_from_the_rows(run: Path, form: str) -> None:
    file = run / f"requests.{form}"
    rows = read_jsonl(file) if form == "jsonl" else from_csv(file)
    found = summary(run)
    slo = Slo(**found["slo"])
    assert {row.point for row in rows} == {point["point"] for point in found["points"]}
    for point in found["points"]:
        own = [row for row in rows if row.point == point["point"]]
        for name, side in point["targets"].items():
            again = summarise([row for row in own if row.target == name], slo)
            assert {**as_json(again), "model": side["model"], "url": side["url"]} == side
        assert as_json(paired(own)) == point["paired"]


def test_the_formulas_of_the_reference_give_the_same(run: Path) -> None:
    """Written down again, plainly, over the rows as they are in the file."""
    rows = [json.loads(line) for line in (run / "requests.jsonl").read_text().splitlines()]
    for point in summary(run)["points"]:
        for name, side in point["targets"].items():
            window = side["window"]
            own = [
                row
                for row in rows
                if (row["point"], row["target"]) == (point["point"], name)
                and not row["warmup"]
                and window["start_s"] <= row["intended_s"] <= window["end_s"]
            ]
            assert side["requests"] == len(own) > 0
            ttft = [row["first_token_s"] - row["intended_s"] for row in own]
            assert side["ttft_s"]["p50"] == pytest.approx(median(ttft))
            assert side["ttft_s"]["mean"] == pytest.approx(mean(ttft))
            e2e = [row["last_token_s"] - row["intended_s"] for row in own]
            assert side["e2e_s"]["max"] == pytest.approx(max(e2e))
            tpot = [
                (row["last_token_s"] - row["first_token_s"])
                / (row["output_tokens"] - (row["first_chunk_tokens"] or 1))
                for row in own
            ]
            assert side["tpot_s"]["p50"] == pytest.approx(median(tpot))
            assert side["goodput"]["met"] == sum(one <= 0.045 for one in ttft)
            assert side["output_tokens_mean"] == 4


def test_equal_loads_are_points_of_their_own(run: Path) -> None:
    found = summary(run)["points"]
    assert [one["point"] for one in found] == ["concurrency=2", "concurrency=2#2", "concurrency=3"]
    assert [one["concurrency"] for one in found] == [2, 2, 3]


def test_more_workers_than_users_leave_no_request_unasked(run: Path) -> None:
    for point in summary(run)["points"]:
        assert point["client_processes"] == len(point["workers"]) == point["concurrency"]
        for side in point["targets"].values():
            assert side["requests_measured"] == 14


def test_a_guess_of_tokens_is_called_one(run: Path) -> None:
    for point in summary(run)["points"]:
        [warning] = point["warnings"]
        assert re.search(r"answers of no-usage are a guess \(chunks: \d+\)", warning)
        assert list(point["targets"]["a"]["token_sources"]) == ["usage_each_event"]
        assert list(point["targets"]["b"]["token_sources"]) == ["chunks"]


def test_a_run_that_was_cut_off_is_reported_from_its_rows(run: Path, tmp_path: Path) -> None:
    """As a crash in the midst of the last point leaves it, and a power cut its last line."""
    pytest.importorskip("matplotlib")
    whole, rows = load(run)
    kept = rows[:-9]
    (tmp_path / "requests.jsonl").write_bytes(jsonl(kept) + jsonl(rows[-1:])[:50])
    begun = {**whole, "ended_early": "unfinished", "points": []}
    (tmp_path / "summary.json").write_text(json.dumps(begun))
    page = write_report(tmp_path).read_text()
    assert "The run ended early: unfinished." in page
    assert "the run ended before this point did" in page
    assert all(f"<td>{point['point']} b</td>" in page for point in whole["points"])
    assert "are a guess (chunks" in page
    assert (tmp_path / "throughput-latency.png").exists()
    again = unfinished(kept, [], Slo(**whole["slo"]))
    assert [one["valid"] for one in again] == [False] * 3
    before, after = whole["points"][0], as_json(again[0])
    assert after["concurrency"] == before["concurrency"]
    assert after["paired"] == before["paired"]
    for name, side in after["targets"].items():
        assert {**side, "url": ""} == {**before["targets"][name], "url": ""}
