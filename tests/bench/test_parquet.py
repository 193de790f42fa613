"""requests.parquet of a run: the rows of requests.jsonl, each column with its field's type."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from modeltainer.bench import record
from modeltainer.bench.record import COLUMNS, Record, jsonl, read_jsonl, write_parquet
from tests.bench.engine import serving

TYPES: dict[str, pyarrow.DataType] = {
    **dict.fromkeys(
        ["point", "target", "model", "failure", "detail", "finish_reason", "token_source"],
        pyarrow.string(),
    ),
    **dict.fromkeys(
        ["intended_s", "sent_s", "ended_s", "first_token_s", "last_token_s"], pyarrow.float64()
    ),
    **dict.fromkeys(["streamed", "warmup"], pyarrow.bool_()),
    "chunk_gaps_us": pyarrow.list_(pyarrow.int64()),
}
"""All others are whole numbers."""


def assert_types(path: Path) -> None:
    schema = parquet.read_schema(path)
    assert tuple(schema.names) == COLUMNS
    assert {field.name: field.type for field in schema} == {
        name: TYPES.get(name, pyarrow.int64()) for name in COLUMNS
    }


def bench(model: str, folder: Path, url: str, pythonpath: str = "") -> None:
    words = "--concurrency 1,3 --requests 12 --prompt-tokens 16 --output-tokens 4 --no-calibration"
    program = [sys.executable, "-m", "modeltainer.cli.main", "bench", model]
    done = subprocess.run(
        [*program, "--url", url, *words.split(), "--output", str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={
            **os.environ,
            "MODELTAINER_KEY": "sesame",
            "PYTHONPATH": os.pathsep.join(filter(None, [pythonpath, str(Path.cwd())])),
        },
    )
    assert (folder / "requests.csv").exists(), done.stderr


@pytest.mark.parametrize("model", ["plain", "bundled", "no-usage", "truncated", "whole"])
def test_the_rows_of_a_run_are_the_same_in_all_forms(model: str, tmp_path: Path) -> None:
    """Whole answers, guessed counts, and answers cut off: with values, with some, with none."""
    folder = tmp_path / "run"
    with serving(ttft=0.02, gap=0.002, tokens=8, key="sesame") as url:
        bench(model, folder, url)
    lines = [json.loads(line) for line in (folder / "requests.jsonl").read_text().splitlines()]
    assert len([line for line in lines if not line["warmup"]]) == 24

    assert_types(folder / "requests.parquet")
    rows = parquet.read_table(folder / "requests.parquet").to_pylist()
    key = lambda row: (row["point"], row["warmup"], row["index"], row["sent_s"])  # noqa: E731
    assert sorted(rows, key=key) == sorted(lines, key=key)

    with (folder / "requests.csv").open(newline="") as file:
        as_text = list(csv.DictReader(file))
    assert as_text == [{name: in_csv(value) for name, value in row.items()} for row in rows]


def in_csv(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "" if value is None else str(value)


def row(index: int, **changes: Any) -> Record:
    """A request that nothing answered, but for the changes."""
    names = {field.name for field in fields(Record)} - {"warmup", "chunk_gaps_us"}
    said = {"point": "rate=1", "index": index, "target": "a", "model": "m", "worker": 0}
    said |= {"intended_s": 0.5, "sent_s": 0.5, "ended_s": 1.0, "status": 0, "failure": "connect"}
    said |= {"detail": "", "token_source": "none", "streamed": False, "chunks": 0, "connects": 1}
    return Record(**{**dict.fromkeys(names), **said, **changes})


@pytest.mark.parametrize(
    "make",
    [
        lambda: [],
        lambda: [row(n) for n in range(3)],
        lambda: [row(0), row(1, first_token_s=0.25, prompt_tokens=7, chunk_gaps_us=[3, 4]), row(2)],
    ],
    ids=["no rows", "only nulls", "nulls at first"],
)
def test_types_do_not_depend_on_the_rows(make: Callable[[], list[Record]], tmp_path: Path) -> None:
    rows, path = make(), tmp_path / "requests.parquet"
    assert write_parquet(path, rows)
    assert_types(path)
    read = [Record(**one) for one in parquet.read_table(path).to_pylist()]
    (tmp_path / "requests.jsonl").write_bytes(jsonl(rows))
    assert read == rows == read_jsonl(tmp_path / "requests.jsonl")


def test_many_rows_are_several_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "ROWS_PER_GROUP", 4)
    rows = [row(n, first_token_s=None if n < 8 else n / 8) for n in range(10)]
    assert write_parquet(tmp_path / "p", rows)
    file = parquet.ParquetFile(tmp_path / "p")
    assert file.num_row_groups == 3
    assert [Record(**one) for one in file.read().to_pylist()] == rows


def test_without_pyarrow_a_run_has_the_other_forms(tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "pyarrow.py"
    missing.parent.mkdir()
    missing.write_text("raise ImportError\n")
    with serving(ttft=0.01, gap=0.001, tokens=4, key="sesame") as url:
        bench("plain", tmp_path / "run", url, pythonpath=str(missing.parent))
    names = {one.name for one in (tmp_path / "run").iterdir()}
    assert {"requests.jsonl", "requests.csv", "summary.json"} <= names
    assert "requests.parquet" not in names
