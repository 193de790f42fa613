"""The input of a batch: OpenAI's batch format, or just prompts.

One JSON object a line: ``{"custom_id", "method", "url", "body"}`` (OpenAI's batch input), or short
``{"prompt": …}`` or ``{"messages": […]}``, whose other fields go into the request's body. A parquet
file's columns are read as such fields.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

ROWS_AT_A_TIME = 1024
PANDAS_INDEX = re.compile(r"__index_level_\d+__")
"""Columns that pandas adds for the row labels of a frame that was filtered or sorted."""
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")


class BadBatchError(ValueError):
    """The input cannot be used; the message names the line, if it is one line's fault."""

    def __init__(
        self, message: str, *, line: int | None = None, code: str = "invalid_input"
    ) -> None:
        super().__init__(message if line is None else f"line {line}: {message}")
        self.line, self.code = line, code


@dataclass(frozen=True)
class BatchRow:
    """One request of a batch."""

    custom_id: str
    url: str
    body: Mapping[str, Any]


def read_rows(path: Path, model: str | None) -> list[BatchRow]:
    """All rows, checked before anything is sent.

    Args:
        model: for rows whose body names none.

    Raises:
        BadBatchError: a line is no row, an id comes twice, or a row has no model.
        OSError: the file cannot be read.
    """
    rows: list[BatchRow] = []
    seen: dict[str, int] = {}
    for number, data in _records(path):
        row = _row(data, number, model)
        first = seen.setdefault(row.custom_id, number)
        if first != number:
            raise BadBatchError(
                f"custom_id {row.custom_id!r} is that of line {first}, too",
                line=number,
                code="duplicate_custom_id",
            )
        rows.append(row)
    if not rows:
        raise BadBatchError("there are no rows", code="empty_file")
    return rows


def _records(path: Path) -> Iterator[tuple[int, Any]]:
    if path.suffix == ".parquet":
        yield from _parquet(path)
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield number, json.loads(line, parse_constant=_no_number)
                except (ValueError, RecursionError) as error:
                    raise BadBatchError(
                        f"not JSON: {error}", line=number, code="invalid_json_line"
                    ) from error


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise BadBatchError(
            "reading parquet needs pyarrow; run: pip install 'modeltainer[parquet]'"
        ) from error
    number = 0
    with path.open("rb") as file:
        try:
            source = parquet.ParquetFile(file)
            columns = [one for one in source.schema_arrow.names if not PANDAS_INDEX.fullmatch(one)]
            for batch in source.iter_batches(ROWS_AT_A_TIME, columns=columns):
                for record in batch.to_pylist():
                    number += 1
                    yield number, _without_nulls(record, number)
        # A damaged page is an OSError of pyarrow's, without a number; one of the file has one.
        except (pyarrow.ArrowException, OSError) as error:
            if getattr(error, "errno", None) is not None:
                raise
            raise BadBatchError(f"not a parquet file, or a damaged one: {error}") from error


def _without_nulls(value: Any, number: int) -> Any:
    """A parquet value as JSON has it, without the fields that only other rows have.

    Raises:
        BadBatchError: a date, bytes or another value that JSON has no form for.
    """
    if isinstance(value, dict):
        return {name: _without_nulls(one, number) for name, one in value.items() if one is not None}
    if isinstance(value, list):
        return [_without_nulls(one, number) for one in value]
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise BadBatchError(f"JSON has no form for {value!r}", line=number)


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON number")


def _row(data: Any, number: int, model: str | None) -> BatchRow:
    if not isinstance(data, dict):
        raise BadBatchError("must be a JSON object", line=number)
    if "body" in data:
        body, url = data["body"], data.get("url", PATHS[0])
        if not isinstance(body, dict):
            raise BadBatchError("body must be a JSON object", line=number)
    else:
        body = {name: value for name, value in data.items() if name != "custom_id"}
        kinds = {"messages": PATHS[0], "prompt": PATHS[1], "input": PATHS[2]}
        url = next((kinds[name] for name in kinds if name in body), None)
        if url is None:
            raise BadBatchError("needs body, messages, prompt or input", line=number)
    if url not in PATHS:
        raise BadBatchError(
            f"url must be one of {', '.join(PATHS)}, not {url!r}", line=number, code="invalid_url"
        )
    if data.get("method", "POST") != "POST":
        raise BadBatchError("method must be POST", line=number)
    if model is not None:
        body = {"model": model, **body}
    if not isinstance(body.get("model"), str):
        raise BadBatchError("names no model", line=number, code="missing_model")
    if body.get("stream"):
        raise BadBatchError("a batch is not streamed; leave stream out", line=number)
    return BatchRow(str(data.get("custom_id", f"row-{number}")), url, body)
