"""Keys' limits whose state several workers share, exactly: memory that all of them map.

Each key has a record of fixed size: its buckets, and how many requests each worker has under way
for it. A worker locks the record (fcntl(2), a lock that the kernel takes back from a process that
dies), reads it, decides as :mod:`.limits` does, and writes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
import zlib
from collections.abc import Iterator

from modeltainer.gateway.limits import (
    AnyLimiter,
    KeyLimits,
    Levels,
    Limiter,
    Limits,
    Refusal,
    Reservation,
)
from modeltainer.gateway.settings import MAX_WORKERS
from modeltainer.registry.keys import KeyRecord

KEYS = 4096
"""Keys with limits that one gateway can hold; those beyond have limits of each worker."""
_HEAD = struct.Struct("=16s4d")
_COUNTS = struct.Struct(f"={MAX_WORKERS}i")
_RECORD = _HEAD.size + _COUNTS.size
_BYTES = KEYS * _RECORD


def create() -> int:
    """The descriptor of empty memory, to be handed to the workers."""
    descriptor = os.memfd_create("limits", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, _BYTES)
    return descriptor


def forget_worker(descriptor: int, worker: int) -> None:
    """A worker has died: what it had under way is over."""
    with mmap.mmap(descriptor, _BYTES) as memory:
        for slot in range(KEYS):
            at = slot * _RECORD
            if memory[at] == 0:
                continue
            with _locked(descriptor, at):
                counts = list(_COUNTS.unpack_from(memory, at + _HEAD.size))
                counts[worker] = 0
                _COUNTS.pack_into(memory, at + _HEAD.size, *counts)


class SharedLimiter(AnyLimiter):
    """One worker's view of the limits of all keys."""

    def __init__(self, descriptor: int, worker: int) -> None:
        """``worker``: its number, below :data:`MAX_WORKERS`."""
        self._descriptor, self._worker = descriptor, worker
        self._memory = mmap.mmap(descriptor, _BYTES)
        self._known: dict[str, Limits] = {}
        self._beyond = Limiter()

    def of(self, key: KeyRecord, now: float) -> Limits | None:
        if not key.limited:
            return None
        found = self._known.get(key.id)
        if found is None:
            found = self._known[key.id] = self._find(key, now)
        return found

    def _find(self, key: KeyRecord, now: float) -> Limits:
        name = key.id.encode()[:16].ljust(16, b"\0")
        first = zlib.crc32(name) % KEYS
        for step in range(KEYS):
            at = (first + step) % KEYS * _RECORD
            with _locked(self._descriptor, at):
                there = _HEAD.unpack_from(self._memory, at)[0]
                if there == bytes(16):
                    _HEAD.pack_into(self._memory, at, name, *KeyLimits(key, now).levels)
                    there = name
            if there == name:
                return SharedKeyLimits(key, self._memory, self._descriptor, at, self._worker)
        beyond = self._beyond.of(key, now)
        assert beyond is not None
        return beyond


class SharedKeyLimits(Limits):
    """One key's limits, in the shared memory."""

    def __init__(
        self, key: KeyRecord, memory: mmap.mmap, descriptor: int, at: int, worker: int
    ) -> None:
        self._key, self._memory, self._descriptor = key, memory, descriptor
        self._at, self._worker = at, worker

    def reserve(self, tokens: int, now: float) -> Reservation | Refusal:
        with self._state(now) as limits:
            return limits.reserve(tokens, now)

    def settle(self, reservation: Reservation, tokens: int, now: float) -> None:
        with self._state(now) as limits:
            limits.settle(reservation, tokens, now)

    @contextlib.contextmanager
    def _state(self, now: float) -> Iterator[KeyLimits]:
        at = self._at
        with _locked(self._descriptor, at):
            name, *levels = _HEAD.unpack_from(self._memory, at)
            counts = list(_COUNTS.unpack_from(self._memory, at + _HEAD.size))
            limits = KeyLimits(self._key, now)
            limits.levels = Levels(*levels)
            limits.running = before = sum(counts)
            yield limits
            counts[self._worker] += limits.running - before
            _HEAD.pack_into(self._memory, at, name, *limits.levels)
            _COUNTS.pack_into(self._memory, at + _HEAD.size, *counts)


@contextlib.contextmanager
def _locked(descriptor: int, at: int) -> Iterator[None]:
    fcntl.lockf(descriptor, fcntl.LOCK_EX, _RECORD, at)
    try:
        yield
    finally:
        fcntl.lockf(descriptor, fcntl.LOCK_UN, _RECORD, at)
