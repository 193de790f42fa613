"""One row per request: every figure and plot is computed from these, now or later."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

import msgspec

from modeltainer.bench.client import Exchange

SCHEMA_VERSION = 1
ROWS_PER_GROUP = 65536
"""Of Parquet: what is held twice while the file is written."""


@dataclass(frozen=True)
class Record:
    """One request. Times in seconds from its point's start, on one clock for all workers."""

    point: str
    """Which point of the sweep: ``concurrency=4``, ``rate=2.5``, ``trace``; of two equal ones the
    second is ``concurrency=4#2``."""
    index: int
    target: str
    """``a`` or ``b`` (the other side of an A/B run)."""
    model: str
    worker: int
    intended_s: float
    """When it was to start; in a closed loop, when its user was free."""
    sent_s: float
    ended_s: float
    first_token_s: float | None
    last_token_s: float | None
    status: int
    """HTTP status, 0 when there was none."""
    failure: str
    """Empty when the answer came whole: ``connect``, ``timeout``, ``closed``, ``protocol``,
    ``http_503``, ``error_in_answer``, ``truncated``, ``client_limit``, ``interrupted``."""
    detail: str
    finish_reason: str | None
    prompt_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    first_chunk_tokens: int | None
    """Tokens in the first chunk; only known where the server counts in each event."""
    token_source: str
    """``usage_each_event``, ``usage``, ``chunks`` (a guess: one token a chunk) or ``none``."""
    streamed: bool
    chunks: int
    """Events that carried something generated; not tokens."""
    connects: int
    warmup: bool = False
    """Asked before the measurement; in no figure."""
    chunk_gaps_us: list[int] = field(default_factory=list)
    """Microseconds between arrivals of chunks."""

    @property
    def ok(self) -> bool:
        """The answer came whole."""
        return not self.failure


def from_exchange(
    exchange: Exchange,
    *,
    point: str,
    index: int,
    target: str,
    model: str,
    worker: int,
    origin: float,
    intended: float,
    warmup: bool = False,
) -> Record:
    """The row of an exchange; ``origin`` and ``intended`` in seconds of the client's clock."""
    answer = exchange.answer
    times = answer.chunk_times
    output, source = answer.output_tokens, "usage"
    if output is None:
        output, source = (len(times), "chunks") if times else (None, "none")
    elif answer.counts_each_event:
        source = "usage_each_event"
    return Record(
        point=point,
        index=index,
        target=target,
        model=model,
        worker=worker,
        intended_s=round(intended - origin, 6),
        sent_s=round(exchange.sent - origin, 6),
        ended_s=round(exchange.ended - origin, 6),
        first_token_s=round(times[0] - origin, 6) if times else None,
        last_token_s=round(times[-1] - origin, 6) if times else None,
        status=exchange.status,
        failure=exchange.failure,
        detail=exchange.detail,
        finish_reason=answer.finish_reason,
        prompt_tokens=answer.prompt_tokens,
        output_tokens=output,
        cached_tokens=answer.cached_tokens,
        first_chunk_tokens=answer.first_chunk_tokens,
        token_source=source,
        streamed=exchange.streamed,
        chunks=len(times),
        connects=exchange.connects,
        warmup=warmup,
        chunk_gaps_us=[round((b - a) * 1e6) for a, b in pairwise(times)],
    )


COLUMNS = tuple(one.name for one in fields(Record))
"""The gaps are the last."""
_values = attrgetter(*COLUMNS)


def read_jsonl(path: Path) -> list[Record]:
    """All rows of a file; a last line that was cut off (full disk, power) is left out.

    Raises:
        OSError: it cannot be read.
        msgspec.MsgspecError: a line before the last is no record.
    """
    decode = msgspec.json.Decoder(Record).decode
    data = path.read_bytes()
    lines = data.split(b"\n")
    last = lines.pop()
    if last:
        try:
            decode(last)
            lines.append(last)
        except msgspec.MsgspecError:
            pass
    return [decode(line) for line in lines if line]


def jsonl(records: Iterable[Record]) -> bytes:
    """Rows as lines of JSON."""
    encode = msgspec.json.encode
    return b"".join(encode(record) + b"\n" for record in records)


def write_csv(path: Path, records: Iterable[Record]) -> None:
    """Rows as CSV; the gaps are numbers with spaces between.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for record in records:
            *others, gaps = _values(record)
            writer.writerow((*others, " ".join(map(str, gaps))))


def write_parquet(path: Path, records: Sequence[Record]) -> bool:
    """Rows as Parquet; False where pyarrow is not installed.

    The columns' types are the fields', whatever the rows hold: a column without one value is still
    one of numbers, and the files of several runs can be read as one table.

    Raises:
        OSError: it cannot be written.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return False
    types = {
        str: pyarrow.string(),
        int: pyarrow.int64(),
        float: pyarrow.float64(),
        bool: pyarrow.bool_(),
        list[int]: pyarrow.list_(pyarrow.int64()),
    }
    hints = get_type_hints(Record)
    schema = pyarrow.schema(
        [
            pyarrow.field(name, next(types[one] for one in types if one in _choices(hints[name])))
            for name in COLUMNS
        ]
    )
    with path.open("wb") as file, pyarrow.parquet.ParquetWriter(file, schema) as writer:
        for start in range(0, len(records), ROWS_PER_GROUP):
            columns = zip(*map(_values, records[start : start + ROWS_PER_GROUP]), strict=True)
            arrays = [
                pyarrow.array(column, field.type)
                for column, field in zip(columns, schema, strict=True)
            ]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
    return True


def _choices(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if isinstance(hint, UnionType) else (hint,)


def write_json(path: Path, document: Any) -> None:
    """A small document, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    partial.replace(path)
