"""A run's folder: rows are appended as they come, so that nothing that ended early is lost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from modeltainer.bench.record import (
    SCHEMA_VERSION,
    Record,
    jsonl,
    read_jsonl,
    write_csv,
    write_json,
    write_parquet,
)

ROWS = "requests.jsonl"
SUMMARY = "summary.json"
UNFINISHED = "unfinished"
"""How a run is marked from its start to its end, and for good where it never came to one."""


class StoreError(Exception):
    """A run's folder cannot be read; the message says why."""


class Store:
    """Writes one run. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        """Make the folder; an old run in it is not overwritten.

        Raises:
            FileExistsError: it has a run's rows already.
            OSError: it cannot be made.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._file = (folder / ROWS).open("xb", buffering=0)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def add(self, record: Record) -> None:
        """Append a row.

        Raises:
            OSError: no space, or the folder is gone.
        """
        self._file.write(jsonl([record]))

    def begin(self, summary: dict[str, Any]) -> None:
        """Write what is known before the first row, marked, so that a crash leaves a run.

        Raises:
            OSError: no space.
        """
        self._points: list[dict[str, Any]] = []
        marked = {"ended_early": UNFINISHED, "limit_rate": None, "limit_note": ""}
        self._begun = {
            "schema_version": SCHEMA_VERSION,
            **summary,
            **marked,
            "points": self._points,
        }
        write_json(self.folder / SUMMARY, self._begun)

    def add_point(self, entry: dict[str, Any]) -> None:
        """Write a point's figures too, once they are whole.

        Raises:
            OSError: no space.
        """
        self._points.append(entry)
        write_json(self.folder / SUMMARY, self._begun)

    def finish(self, summary: dict[str, Any], records: Sequence[Record]) -> list[str]:
        """Write the summary, then the rows in the other forms; gives the names of the files.

        Raises:
            OSError: no space; what is written is whole.
        """
        write_json(self.folder / SUMMARY, {"schema_version": SCHEMA_VERSION, **summary})
        write_csv(self.folder / "requests.csv", records)
        names = [ROWS, "requests.csv", SUMMARY]
        if write_parquet(self.folder / "requests.parquet", records):
            names.append("requests.parquet")
        return names


def load(folder: Path) -> tuple[dict[str, Any], list[Record]]:
    """The summary and the rows of a run.

    Raises:
        StoreError: no run there, or of another version.
    """
    try:
        summary = json.loads((folder / SUMMARY).read_bytes())
        records = read_jsonl(folder / ROWS)
    except FileNotFoundError as error:
        raise StoreError(f"{folder} has no run of mt-submit bench: no {error.filename}") from None
    except (ValueError, msgspec.MsgspecError) as error:
        raise StoreError(f"{folder}: damaged: {error}") from None
    if summary.get("schema_version") != SCHEMA_VERSION:
        raise StoreError(
            f"{folder} has schema version {summary.get('schema_version')}, "
            f"this mt-submit reads {SCHEMA_VERSION}"
        )
    return summary, records
