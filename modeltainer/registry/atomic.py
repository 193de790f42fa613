"""Whole-file writes that a crash or a reader on another host never sees in halves."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat as stat_module
from pathlib import Path


def write_whole(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace ``path`` by ``data``: temporary file in the same folder, fsync, rename, fsync folder.

    The temporary name starts with a dot, so that readers, which list ``*.json``, pass it over.

    Raises:
        OSError: the folder is missing, read-only or full; the old file is untouched then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Make a rename durable; filesystems that cannot sync a folder are left to their own ways."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_bounded(path: Path, limit: int) -> tuple[bytes, os.stat_result]:
    """Content and stat of one regular file, from one open descriptor; never follows a symlink.

    At most ``limit`` + 1 bytes are read, so a caller sees that a file is oversized.

    Raises:
        OSError: missing, vanished (ESTALE), unreadable, a symlink, or not a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        stat = os.fstat(file.fileno())
        if not stat_module.S_ISREG(stat.st_mode):
            raise OSError(f"{path} is not a regular file")
        return file.read(limit + 1), stat
