"""A file of log lines: opened again when it was moved, and moved itself when it is large."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from itertools import pairwise
from pathlib import Path

LOOK_S = 1.0
"""Between two looks at the path: on a shared filesystem each is a trip."""
AGAIN_S = 3600.0
"""Before it is tried again to move a file that could not be moved."""


class LogFile:
    """Several processes may append to one, each with its own object. Only what writes to it calls
    it: a look may take as long as a write."""

    def __init__(self, path: Path, max_bytes: int, kept: int) -> None:
        """
        Args:
            path: where it is, or is made.
            max_bytes: from this size on it becomes ``path.1``, and what was that ``path.2``; 0:
                never.
            kept: how many of those there may be, at least 1.

        Raises:
            OSError: it cannot be opened.
        """
        self._path, self._max_bytes, self._kept = path, max_bytes, kept
        self._descriptor = self._open()
        seen = os.fstat(self._descriptor)
        self._id = _identity(seen)
        self._followed = stat.S_ISREG(seen.st_mode)
        """A pipe or a terminal stays what it is."""
        self._look_at = self._rotate_at = 0.0

    def descriptor(self) -> int:
        """What to write to now. Where the path cannot be looked at or opened, that is the file as
        before, wherever it is."""
        now = time.monotonic()
        if self._followed and now >= self._look_at:
            self._look_at = now + LOOK_S
            with contextlib.suppress(OSError):
                self._look()
        return self._descriptor

    def _look(self) -> None:
        size = self._size()
        full = size is not None and 0 < self._max_bytes <= size
        if full and time.monotonic() >= self._rotate_at:
            self._rotate()
            size = self._size()
        if size is None:
            descriptor = self._open()
            os.close(self._descriptor)
            self._descriptor, self._id = descriptor, _identity(os.fstat(descriptor))

    def _size(self) -> int | None:
        """None: at the path is another file, or none."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_size if _identity(found) == self._id else None

    def _rotate(self) -> None:
        """Move it away, unless another process does or has done so."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        except OSError:
            pass  # a filesystem without locks: two at the same moment lose an old file
        try:
            if self._size() is None:
                return
            path = self._path.resolve()  # of a link, what it leads to
            # The oldest has a name, too, until it is certain that it makes room.
            names = [path, *(Path(f"{path}.{one}") for one in range(1, self._kept + 2))]
            moved = []
            with contextlib.suppress(OSError):
                for newer, older in reversed(list(pairwise(names))):
                    with contextlib.suppress(FileNotFoundError):
                        newer.rename(older)
                        moved.append((newer, older))
            if self._size() is None:
                names[-1].unlink(missing_ok=True)
                return
            # A mount of the file alone, say; or the path finds it under any name (/dev/stderr).
            self._rotate_at = time.monotonic() + AGAIN_S
            for newer, older in reversed(moved):
                older.rename(newer)
        finally:
            with contextlib.suppress(OSError):
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _identity(seen: os.stat_result) -> tuple[int, int]:
    return seen.st_dev, seen.st_ino
