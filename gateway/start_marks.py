"""Models that are being started because clients asked: a file for each, seen by every process.

A process marks its model and then looks who else has: of two that do so at once, neither misses the
other. Locks are not to be trusted on shared filesystems.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time

import msgspec

from modeltainer.registry.atomic import read_bounded, write_whole
from modeltainer.registry.deployments import file_name
from modeltainer.registry.layout import Layout
from modeltainer.registry.records import MAX_RECORD_BYTES

MARK_S = 60.0
"""So long a mark counts; by then the model's job shows."""


class Mark(msgspec.Struct, frozen=True):
    """One model that one process has let in."""

    model: str
    unix: float
    """When."""


class StartMarks:
    """What one process marks, and what all have marked."""

    def __init__(self, layout: Layout) -> None:
        self._folder = layout.starting
        self._me = secrets.token_hex(4)
        self._mine: dict[str, float] = {}

    def put(self, model: str) -> None:
        """Mark a model, from now.

        Raises:
            OSError: the registry cannot be written.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mark = msgspec.json.encode(Mark(model, time.time()))
        write_whole(self._folder / self._name(model), mark)
        self._mine[model] = time.monotonic()

    def drop(self, model: str) -> None:
        """Take this process's mark back.

        Raises:
            OSError: the registry cannot be written.
        """
        self._mine.pop(model, None)
        (self._folder / self._name(model)).unlink(missing_ok=True)

    def mine(self, model: str) -> bool:
        """Whether this process has marked it, and the mark counts."""
        return time.monotonic() - self._mine.get(model, float("-inf")) < MARK_S

    def models(self) -> set[str]:
        """All that are marked; marks that no longer count are removed.

        Raises:
            OSError: the folder is out of reach.
        """
        try:
            names = [name for name in os.listdir(self._folder) if name.endswith(".json")]
        except FileNotFoundError:
            return set()
        now, found = time.time(), set()
        for name in names:
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                data, _ = read_bounded(self._folder / name, MAX_RECORD_BYTES)
                mark = msgspec.json.decode(data, type=Mark)
                if abs(now - mark.unix) < MARK_S:
                    found.add(mark.model)
                else:
                    (self._folder / name).unlink()
        return found

    def _name(self, model: str) -> str:
        return f"{self._me}-{file_name(model)}"
