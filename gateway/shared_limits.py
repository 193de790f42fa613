"""Keys' limits whose state several workers share, exactly: memory that all of them map.

Each key has a record of fixed size: its limits, its buckets, and how many requests each worker has
under way for it. A worker locks the record (fcntl(2), a lock that the kernel takes back from a
process that dies), reads it, decides as :mod:`.limits` does, and writes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
from collections.abc import Callable, Iterator

from modeltainer.gateway.limits import (
    AnyLimiter,
    KeyLimits,
    Levels,
    Limits,
    Refusal,
    Reservation,
    is_full,
)
from modeltainer.gateway.settings import MAX_WORKERS
from modeltainer.registry.keys import KeyRecord

KEYS = 4096
"""Keys whose limits can be counted at once. One that has used nothing for a minute, and has nothing
under way, makes room for another; while there is none that does, a further one is refused."""
SEEK_EVERY_S = 1.0
"""Between two looks for a key that makes room, where there was none."""
_NAME = 16
_NOBODY = bytes(_NAME)
_NAMES = KEYS * _NAME
"""All names stand together before the records, so that one is found with a single search."""
_HEAD = struct.Struct("=2q4d")
_COUNTS = struct.Struct(f"={MAX_WORKERS}i")
_NOTHING = bytes(_COUNTS.size)
_RECORD = _HEAD.size + _COUNTS.size
_BYTES = _NAMES + KEYS * _RECORD


def create() -> int:
    """The descriptor of empty memory, to be handed to the workers."""
    descriptor = os.memfd_create("limits", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, _BYTES)
    return descriptor


def forget_worker(descriptor: int, worker: int) -> None:
    """A worker has died: what it had under way is over."""
    with mmap.mmap(descriptor, _BYTES) as memory:
        for place in range(KEYS):
            if memory[place * _NAME] == 0:
                continue
            at = _record(place)
            with _locked(descriptor, at):
                counts = list(_COUNTS.unpack_from(memory, at + _HEAD.size))
                counts[worker] = 0
                _COUNTS.pack_into(memory, at + _HEAD.size, *counts)


class SharedLimiter(AnyLimiter):
    """One worker's view of the limits of all keys."""

    def __init__(
        self, descriptor: int, worker: int, full: Callable[[], None] = lambda: None
    ) -> None:
        """
        Args:
            worker: its number, below :data:`MAX_WORKERS`.
            full: called, once a minute at most, when a key finds no place.
        """
        self._descriptor, self._worker, self._full = descriptor, worker, full
        self._memory = mmap.mmap(descriptor, _BYTES)
        self._known: dict[str, SharedKeyLimits] = {}
        self._told_at = self._full_at = float("-inf")
        """When it was last said that there is no room, and found so."""
        self._next = 0
        """Where the next look for a key that makes room begins: behind the last that did."""

    def of(self, key: KeyRecord, now: float) -> Limits | None:
        if not key.limited:
            return None
        found = self._known.get(key.id)
        if found is None:
            found = SharedKeyLimits(key, self._memory, self._descriptor, self._place, self._worker)
            self._known[key.id] = found
        return found

    def _place(self, key: KeyRecord, now: float) -> int | None:
        """Where a key's record is, made if need be; None when all places are taken."""
        place = self._find(_name(key))
        if place is None and now - self._full_at >= SEEK_EVERY_S:
            place = self._make(key, now)
            if place is None:
                self._full_at = now
        if place is None and now - self._told_at >= 60:
            self._told_at = now
            self._full()
        return place

    def _find(self, name: bytes) -> int | None:
        """Whoever uses the place has to look again, under its lock, whether the name is there."""
        names = self._memory[: KEYS * _NAME]
        at = names.find(name)
        while at >= 0 and at % _NAME:
            at = names.find(name, at + 1)
        return None if at < 0 else at // _NAME

    def _make(self, key: KeyRecord, now: float) -> int | None:
        # Names change under this lock only, so that no key has two places.
        with _locked(self._descriptor, 0, _NAMES):
            place = self._find(_name(key))
            if place is not None:
                return place
            place = self._find(_NOBODY)
            if place is not None:
                self._take(place, key, now)
                return place
            for step in range(KEYS):
                place = (self._next + step) % KEYS
                # A lock for each would take most of the time.
                if self._is_idle(place, now) and self._take(place, key, now):
                    self._next = place + 1
                    return place
        return None

    def _take(self, place: int, key: KeyRecord, now: float) -> bool:
        """Put a key's record in a place where there is none, or one that tells nothing."""
        with _locked(self._descriptor, at := _record(place)):
            if not self._is_idle(place, now):
                return False
            levels = KeyLimits(key, now).levels
            _HEAD.pack_into(self._memory, at, key.rpm or 0, key.tpm or 0, *levels)
            self._memory[place * _NAME : (place + 1) * _NAME] = _name(key)
            return True

    def _is_idle(self, place: int, now: float) -> bool:
        """Nothing is under way for the key there, and it has as much left as a new one."""
        at = _record(place)
        if self._memory[at + _HEAD.size : at + _RECORD] != _NOTHING:
            return False
        rpm, tpm, *levels = _HEAD.unpack_from(self._memory, at)
        return is_full(rpm, tpm, Levels(*levels), now)


class SharedKeyLimits(Limits):
    """One key's limits, in the shared memory."""

    def __init__(
        self,
        key: KeyRecord,
        memory: mmap.mmap,
        descriptor: int,
        place: Callable[[KeyRecord, float], int | None],
        worker: int,
    ) -> None:
        """``place``: finds the key's record, and makes it; None: there is no room."""
        self._key, self._memory, self._descriptor = key, memory, descriptor
        self._place, self._worker = place, worker
        self._name = _name(key)
        self._at: int | None = None

    def reserve(self, tokens: int | None, now: float) -> Reservation | Refusal:
        while True:
            if self._at is not None:
                with contextlib.suppress(_MovedError), self._state(self._at, now) as limits:
                    return limits.reserve(tokens, now)
            self._at = self._place(self._key, now)
            if self._at is None:
                return Refusal("keys", KEYS, SEEK_EVERY_S)

    def settle(self, reservation: Reservation, tokens: int, now: float) -> None:
        assert self._at is not None
        with self._state(self._at, now) as limits:  # nobody takes its place while it is under way
            limits.settle(reservation, tokens, now)

    @contextlib.contextmanager
    def _state(self, place: int, now: float) -> Iterator[KeyLimits]:
        with _locked(self._descriptor, at := _record(place)):
            if self._memory[place * _NAME : (place + 1) * _NAME] != self._name:
                raise _MovedError
            rpm, tpm, *levels = _HEAD.unpack_from(self._memory, at)
            counts = list(_COUNTS.unpack_from(self._memory, at + _HEAD.size))
            limits = KeyLimits(self._key, now)
            limits.levels = Levels(*levels)
            limits.running = before = sum(counts)
            yield limits
            counts[self._worker] += limits.running - before
            _HEAD.pack_into(self._memory, at, rpm, tpm, *limits.levels)
            _COUNTS.pack_into(self._memory, at + _HEAD.size, *counts)


class _MovedError(Exception):
    """The record that was there has made room for another key's."""


def _name(key: KeyRecord) -> bytes:
    return key.id.encode()[:_NAME].ljust(_NAME, b"\0")


def _record(place: int) -> int:
    return _NAMES + place * _RECORD


@contextlib.contextmanager
def _locked(descriptor: int, at: int, length: int = _RECORD) -> Iterator[None]:
    fcntl.lockf(descriptor, fcntl.LOCK_EX, length, at)
    try:
        yield
    finally:
        fcntl.lockf(descriptor, fcntl.LOCK_UN, length, at)
