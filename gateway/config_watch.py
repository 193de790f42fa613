"""Sees that models.yaml was edited.

Files are read again and again rather than watched: inotify tells nothing of what another host
writes on a shared filesystem, and opening a file is what makes NFS look for news (close-to-open
consistency, nfs(5)).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

Content = tuple[bytes | None, ...]
"""Of each file; None for one that cannot be read."""


class Settled:
    """Tells a finished edit from one that is being written. Pure."""

    def __init__(self, known: Content) -> None:
        self._known = self._last = known

    def look(self, content: Content) -> bool:
        """Whether the files have changed, and then stayed the same for one look."""
        still, self._last = content == self._last, content
        if not still or content == self._known:
            return False
        self._known = content
        return True


async def watch(
    files: Sequence[Path], reload: Callable[[], Awaitable[object]], *, every_s: float
) -> None:
    """Call ``reload`` after each edit, until cancelled."""
    settled = Settled(await asyncio.to_thread(_read, files))
    while True:
        await asyncio.sleep(every_s)
        if settled.look(await asyncio.to_thread(_read, files)):
            await reload()


def _read(files: Sequence[Path]) -> Content:
    return tuple(_content(file) for file in files)


def _content(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except OSError:
        return None
