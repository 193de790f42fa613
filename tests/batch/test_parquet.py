"""Batches from parquet: the same rows as from JSONL, and one clear message where there are none."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from modeltainer.batch.rows import BadBatchError, BatchRow, read_rows
from modeltainer.cli import exit_codes
from tests.batch.test_batch import answers, echo, server


def written(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "in.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def batch(path: Path, *words: str, pythonpath: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "modeltainer.cli.main", "batch", "run", path.name, *words],
        cwd=path.parent,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [pythonpath, str(Path.cwd())])),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_run_from_parquet(tmp_path: Path) -> None:
    path = written(tmp_path, [{"custom_id": f"r{n}", "prompt": str(n)} for n in range(3000)])
    with server(lambda body, count: echo(body)) as url:
        done = batch(path, "--model", "m", "--url", url, "--concurrency", "64")
    assert done.returncode == 0, done.stderr
    assert "3000 of 3000 rows" in done.stderr
    assert answers(tmp_path / "in.answers.jsonl") == {f"r{n}": str(n) for n in range(3000)}


def test_rows_are_those_of_the_same_jsonl(tmp_path: Path) -> None:
    """Parquet has all columns in all rows, also within messages and bodies: no value, no field."""
    tool = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    rows: list[dict[str, Any]] = [
        {"prompt": "p", "max_tokens": 3, "temperature": 0.5, "stop": ["a", "b"], "echo": True},
        {"custom_id": "x", "messages": [{"role": "user", "content": "ü"}]},
        {"messages": [{"role": "assistant", "tool_calls": [tool]}]},
        {"body": {"model": "own", "input": "a"}, "url": "/v1/embeddings", "method": "POST"},
        {"body": {"messages": [{"role": "user", "content": "b", "name": "n"}], "seed": 1}},
    ]
    lines = tmp_path / "in.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = sorted({name for row in rows for name in row})  # from_pylist takes the first row's
    path = written(tmp_path, [{name: row.get(name) for name in names} for row in rows])
    assert read_rows(path, "m") == read_rows(lines, "m")


def test_the_labels_of_a_pandas_frame_are_not_sent(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"prompt": ["a", "b", "c"], "seed": [1, None, 3]})
    path = tmp_path / "in.parquet"
    frame.iloc[[2, 0, 1]].to_parquet(path)
    assert "__index_level_0__" in parquet.read_schema(path).names
    assert read_rows(path, "m") == [
        BatchRow("row-1", "/v1/completions", {"model": "m", "prompt": "c", "seed": 3}),
        BatchRow("row-2", "/v1/completions", {"model": "m", "prompt": "a", "seed": 1}),
        BatchRow("row-3", "/v1/completions", {"model": "m", "prompt": "b"}),
    ]


@pytest.mark.parametrize("value", [datetime.date(2026, 1, 2), b"bytes", float("nan")])
def test_a_value_that_json_does_not_have_is_told_before_anything_is_sent(
    tmp_path: Path, value: object
) -> None:
    path = written(
        tmp_path,
        [{"prompt": "a", "extra": None}, {"prompt": "b", "extra": {"when": [value]}}],
    )
    with pytest.raises(BadBatchError, match=r"line 2: JSON has no form for .+"):
        read_rows(path, "m")


def damaged(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "cut":
        data = data[: len(data) // 2]
    elif how == "page":
        data[4:300] = b"\xff" * 296
    elif how == "footer":
        data[-200:-8] = b"\xff" * 192
    else:
        data = bytearray(b'{"prompt": "a"}\n')
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["cut", "page", "footer", "jsonl"])
def test_a_damaged_file_is_told_in_one_message(tmp_path: Path, how: str) -> None:
    path = written(tmp_path, [{"prompt": f"{n * 7919:x}"} for n in range(1000)])
    damaged(path, how)
    done = batch(path, "--model", "m", "--url", "http://127.0.0.1:1")
    assert done.returncode == exit_codes.USAGE, done.stderr
    assert "in.parquet: not a parquet file, or a damaged one: " in done.stderr
    assert " [invalid_input]\nhint: nothing was sent" in done.stderr
    assert "Traceback" not in done.stderr
    assert [one.name for one in tmp_path.iterdir()] == ["in.parquet"]


def test_without_pyarrow_it_says_what_to_install(tmp_path: Path) -> None:
    path = written(tmp_path, [{"prompt": "a"}])
    missing = tmp_path / "missing" / "pyarrow.py"
    missing.parent.mkdir()
    missing.write_text("raise ImportError\n")
    done = batch(
        path, "--model", "m", "--url", "http://127.0.0.1:1", pythonpath=str(missing.parent)
    )
    assert done.returncode == exit_codes.USAGE, done.stderr
    assert "reading parquet needs pyarrow; run: pip install 'modeltainer[parquet]'" in done.stderr
