"""The engine's private folder on the node: the container's /tmp, with what only it may read.

It is held by flock for as long as the agent lives. One that nobody holds is of an agent that was
killed outright, and is removed by the next agent of the same user there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "modeltainer-engine."
"""Of nothing else: what has this name is removed."""


class Scratch:
    """Made at once; :meth:`close` removes it."""

    def __init__(self, base: Path) -> None:
        """
        Raises:
            OSError: no folder can be made there.
        """
        sweep(base)
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
            self._held = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._held, fcntl.LOCK_EX)
            if self.path.exists():
                return
            os.close(self._held)  # another agent's sweep came before the lock

    def close(self) -> None:
        """Remove it; what cannot be removed is left to the next one's sweep."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._held)


def sweep(base: Path) -> None:
    """Remove this user's folders that nobody holds."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(base):
            if entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False):
                _remove_if_left(Path(entry.path))


def _remove_if_left(folder: Path) -> None:
    with contextlib.suppress(OSError):
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            mine = os.fstat(held).st_uid == os.getuid()
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if mine:
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(held)
