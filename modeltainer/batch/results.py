"""The output of a batch: one line a finished row, so that a run can end and go on at any moment.

Lines are OpenAI's batch output: ``{"id", "custom_id", "response": {"status_code", "request_id",
"body"}, "error"}``. Rows that failed for good are in a second file beside it, and are tried again
by the next run.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from types import TracebackType
from typing import Any


class Results:
    """The files of one run. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        """Open for appending; what an earlier run has finished is in :attr:`done`.

        A last line that a crash cut off is taken back: its row is done again.

        Raises:
            OSError: a file cannot be read or written.
            ValueError: the output is there and is not a batch's.
        """
        self.path = path
        self.failures_path = path.with_name(f"{path.stem}.failed.jsonl")
        self.done: set[str] = set()
        self.failed = 0
        self._file = path.open("a+b")
        try:
            self._take_back_a_cut_line()
            self._read()
        except BaseException:
            self._file.close()
            raise
        self.failures_path.unlink(missing_ok=True)

    def __enter__(self) -> Results:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def add(self, custom_id: str, status: int, request_id: str, body: Any) -> None:
        """Write one answer; on disk when this returns.

        Raises:
            OSError: the disk is full; nothing half is left that the next run would take for whole.
        """
        response = {"status_code": status, "request_id": request_id, "body": body}
        self._write(self._file.fileno(), _line(custom_id, response, None))
        self.done.add(custom_id)

    def fail(
        self, custom_id: str, status: int | None, message: str, code: str | None = None
    ) -> None:
        """Write one failure, into the file of failures; by default its status is its code."""
        error = {"code": code or str(status or "connection"), "message": message}
        response = None if status is None else {"status_code": status}
        with self.failures_path.open("ab") as file:
            self._write(file.fileno(), _line(custom_id, response, error))
        self.failed += 1

    def _write(self, descriptor: int, line: bytes) -> None:
        written = 0
        while written < len(line):
            written += os.write(descriptor, line[written:])
        os.fsync(descriptor)

    def _take_back_a_cut_line(self) -> None:
        size = self._file.seek(0, os.SEEK_END)
        if size == 0:
            return
        self._file.seek(size - 1)
        if self._file.read(1) == b"\n":
            return
        self._file.seek(0)
        kept = self._file.read().rfind(b"\n") + 1
        self._file.truncate(kept)

    def _read(self) -> None:
        self._file.seek(0)
        for number, line in enumerate(self._file, start=1):
            try:
                self.done.add(json.loads(line)["custom_id"])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{self.path}:{number}: not a batch's output; give another --output"
                ) from error


def _line(custom_id: str, response: Any, error: Any) -> bytes:
    record = {
        "id": f"batch_req_{secrets.token_hex(8)}",
        "custom_id": custom_id,
        "response": response,
        "error": error,
    }
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"
