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


Version = tuple[int, int, int]
"""Inode, modification time in nanoseconds, size in bytes."""


def read_bounded(path: Path, limit: int) -> tuple[bytes, os.stat_result]:
    """Content and stat of one regular file, from one open descriptor; never follows a symlink.

    At most ``limit`` + 1 bytes are read, so a caller sees that a file is oversized.

    Raises:
        OSError: missing, vanished (ESTALE), unreadable, a symlink, or not a regular file.
    """
    data, stat = read_changed(path, limit, None)
    assert data is not None
    return data, stat


def version(stat: os.stat_result) -> Version:
    """What differs between two contents that :func:`write_whole` has written: each is a file of its
    own, and an inode that is used again has another time."""
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def read_changed(
    path: Path | str, limit: int, known: Version | None
) -> tuple[bytes | None, os.stat_result]:
    """:func:`read_bounded`, but None in place of content whose version is ``known``.

    The file is opened all the same: on NFS that is what asks the server.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        stat = os.fstat(descriptor)
        if not stat_module.S_ISREG(stat.st_mode):
            raise OSError(f"{path} is not a regular file")
        if known == version(stat):
            return None, stat
        pieces = []
        while limit >= 0 and (piece := os.read(descriptor, limit + 1)):
            pieces.append(piece)
            limit -= len(piece)
        return b"".join(pieces), stat
    finally:
        os.close(descriptor)
