"""Batches that clients have ordered at a gateway: what was asked, and how far it is.

A batch is a folder below ``open/`` until nothing about it will change, then below ``ended/``. The
order and the wish to cancel it are written by gateways; the state by the one process that carries
batches out (:mod:`.service`).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from modeltainer.registry.atomic import read_bounded, write_whole
from modeltainer.registry.layout import Layout

BATCH_ID = re.compile(r"batch_[a-z0-9]{24}")
_MAX_BYTES = 256 * 1024

Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired",
                 "cancelling", "cancelled"]  # fmt: skip


@dataclass(frozen=True)
class Order:
    """What a client asked for, as ``order.json`` tells; never changed."""

    id: str
    key_id: str
    """Its rows are sent as if by this key."""
    endpoint: str
    """The path that all rows ask."""
    input_file_id: str
    completion_window: str
    created_unix: float
    expires_unix: float
    metadata: Mapping[str, str] | None = None
    schema: int = 1


@dataclass(frozen=True)
class Flaw:
    """Why an input file cannot be used."""

    code: str
    message: str
    line: int | None = None


@dataclass(frozen=True)
class BatchState:
    """How far a batch is, as ``state.json`` tells."""

    status: Status = "validating"
    outcome: Status | None = None
    """What it becomes when ``finalizing`` is done."""
    total: int = 0
    """Rows."""
    completed: int = 0
    """Rows with an answer."""
    failed: int = 0
    flaws: tuple[Flaw, ...] = ()
    begun_unix: float | None = None
    finalizing_unix: float | None = None
    ended_unix: float | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    schema: int = 1


@dataclass(frozen=True)
class Batch:
    """One batch, as it is now."""

    order: Order
    state: BatchState = field(default_factory=BatchState)
    cancel_unix: float | None = None
    """When it was asked to stop."""

    @property
    def status(self) -> Status:
        """In OpenAI's words."""
        if self.cancel_unix is not None and self.state.status in ("validating", "in_progress"):
            return "cancelling"
        return self.state.status


class BatchBook:
    """The batches of one registry. All methods may raise OSError."""

    def __init__(self, layout: Layout) -> None:
        self._root = layout.batches
        self._open, self._ended = layout.open_batches, layout.ended_batches

    def place(self, order: Order) -> None:
        """Write a new order."""
        for folder in (self._root, self._open, self._ended):
            folder.mkdir(mode=0o700, exist_ok=True)
        staging = self._open / f".{order.id}"
        staging.mkdir(mode=0o700)
        write_whole(staging / "order.json", msgspec.json.encode(order) + b"\n")
        staging.rename(self.folder(order.id))

    def folder(self, batch_id: str) -> Path:
        """Where an open batch is worked on.

        Raises:
            ValueError: not a batch id, so it must not become a path.
        """
        if not BATCH_ID.fullmatch(batch_id):
            raise ValueError(f"{batch_id!r} is not a batch id")
        return self._open / batch_id

    def find(self, batch_id: str, key_id: str) -> Batch | None:
        """A batch of this key; None when it has none of that id."""
        if not BATCH_ID.fullmatch(batch_id):
            return None
        # An open one may end between the two looks, never the other way round.
        found = _read(self._open / batch_id) or _read(self._ended / batch_id)
        return found if found is not None and found.order.key_id == key_id else None

    def of_key(self, key_id: str) -> list[Batch]:
        """All batches of this key, the newest first."""
        found = {one.order.id: one for folder in (self._open, self._ended) for one in _all(folder)}
        own = [one for one in found.values() if one.order.key_id == key_id]
        return sorted(own, key=lambda one: (-one.order.created_unix, one.order.id))

    def all_open(self) -> list[Batch]:
        """Batches that are not over, the oldest first."""
        return sorted(_all(self._open), key=lambda one: (one.order.created_unix, one.order.id))

    def anything_open(self) -> bool:
        """Whether there is work; cheap."""
        with contextlib.suppress(FileNotFoundError):
            return any(BATCH_ID.fullmatch(name) for name in os.listdir(self._open))
        return False

    def cancel(self, batch_id: str) -> None:
        """Ask that an open batch stops; nothing when it is over."""
        with contextlib.suppress(FileNotFoundError):
            (self.folder(batch_id) / "cancel").touch(mode=0o600, exist_ok=True)

    def write(self, batch_id: str, state: BatchState) -> None:
        """Publish how far an open batch is."""
        write_whole(self.folder(batch_id) / "state.json", msgspec.json.encode(state) + b"\n")

    def end(self, batch_id: str) -> None:
        """Nothing about an open batch will change any more."""
        self.folder(batch_id).rename(self._ended / batch_id)


def _all(folder: Path) -> list[Batch]:
    try:
        names = [name for name in os.listdir(folder) if BATCH_ID.fullmatch(name)]
    except FileNotFoundError:
        return []
    return [one for one in (_read(folder / name) for name in names) if one is not None]


def _read(folder: Path) -> Batch | None:
    """What a folder holds; None when it is not there, also when it was moved meanwhile: what had
    not been read by then would seem not to be."""
    try:
        order, _ = read_bounded(folder / "order.json", _MAX_BYTES)
        state = BatchState()
        with contextlib.suppress(FileNotFoundError):
            data, _ = read_bounded(folder / "state.json", _MAX_BYTES)
            state = msgspec.json.decode(data, type=BatchState)
        cancel_unix = None
        with contextlib.suppress(FileNotFoundError):
            cancel_unix = (folder / "cancel").stat().st_mtime
        found = Batch(msgspec.json.decode(order, type=Order), state, cancel_unix)
        return found if folder.is_dir() else None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
