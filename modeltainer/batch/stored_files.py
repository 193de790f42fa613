"""Files that clients have uploaded and batches have written: one folder each, never changed.

A folder appears by rename and so is whole; it goes away by rename before its parts do.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from modeltainer.registry.atomic import fsync_folder, read_bounded, write_whole
from modeltainer.registry.layout import Layout

FILE_ID = re.compile(r"file-[a-z0-9]{24}")
_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
_MAX_BYTES = 64 * 1024


@dataclass(frozen=True)
class StoredFile:
    """One file, as its ``file.json`` tells."""

    id: str
    key_id: str
    """The key that may see it, and no other."""
    filename: str
    purpose: str
    """``batch`` or ``batch_output``."""
    bytes: int
    created_unix: float
    schema: int = 1


def new_id(prefix: str) -> str:
    """A fresh id of 24 random characters: who has not been told it cannot guess it."""
    return prefix + "".join(secrets.choice(_ALPHABET) for _ in range(24))


class FileStore:
    """The files of one registry. All methods may raise OSError."""

    def __init__(self, layout: Layout) -> None:
        self._folder = layout.files

    def content(self, file_id: str) -> Path:
        """Where the bytes of a file are.

        Raises:
            ValueError: not a file id, so it must not become a path.
        """
        return self._of(file_id) / "content"

    @contextlib.contextmanager
    def receiving(self) -> Iterator[Path]:
        """A path to write an upload to; what :meth:`add` has not taken is removed afterwards."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / f".{secrets.token_hex(12)}.part"
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def add(self, file_id: str, source: Path, *, key_id: str, name: str, purpose: str) -> None:
        """Take a file over by rename. Called again after a crash, it ends what it had begun."""
        folder = self._of(file_id)
        if folder.exists():
            return
        staging = folder.with_name(f".{file_id}.new")
        staging.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # an earlier call has moved it
            source.rename(staging / "content")
        record = StoredFile(
            id=file_id,
            key_id=key_id,
            filename=name,
            purpose=purpose,
            bytes=(staging / "content").stat().st_size,
            created_unix=time.time(),
        )
        write_whole(staging / "file.json", msgspec.json.encode(record) + b"\n")
        staging.rename(folder)
        fsync_folder(self._folder)

    def find(self, file_id: str, key_id: str) -> StoredFile | None:
        """A file of this key; None when it has none of that id."""
        if not FILE_ID.fullmatch(file_id):
            return None
        record = self._read(file_id)
        return record if record is not None and record.key_id == key_id else None

    def of_key(self, key_id: str) -> list[StoredFile]:
        """All files of this key, the newest first."""
        found = [one for one in self._all() if one.key_id == key_id]
        return sorted(found, key=lambda one: (-one.created_unix, one.id))

    def remove(self, file_id: str) -> None:
        """Delete a file."""
        aside = self._folder / f".{file_id}.{secrets.token_hex(4)}.old"
        with contextlib.suppress(FileNotFoundError):
            self._of(file_id).rename(aside)
            shutil.rmtree(aside)

    def bytes_used(self) -> int:
        """Of all files of all keys."""
        return sum(one.bytes for one in self._all())

    def _of(self, file_id: str) -> Path:
        if not FILE_ID.fullmatch(file_id):
            raise ValueError(f"{file_id!r} is not a file id")
        return self._folder / file_id

    def _all(self) -> Iterator[StoredFile]:
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self._folder):
                record = self._read(name) if FILE_ID.fullmatch(name) else None
                if record is not None:
                    yield record

    def _read(self, file_id: str) -> StoredFile | None:
        try:
            data, _ = read_bounded(self._of(file_id) / "file.json", _MAX_BYTES)
            return msgspec.json.decode(data, type=StoredFile)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return None
