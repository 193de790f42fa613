"""Endpoint files: the agent's writer, and the reader that judges leases by its own clock."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from modeltainer.registry.atomic import Version, read_changed, version, write_whole
from modeltainer.registry.layout import Layout
from modeltainer.registry.records import (
    MAX_RECORD_BYTES,
    BadRecordError,
    Endpoint,
    State,
    decode,
    encode,
)

LEASE_PERIODS = 4
"""A lease that has not moved for this many of its own periods has run out: one renewal lost to a
slow filesystem is no death, a dead agent is out in about 20 s at the default period of 5 s."""


class EndpointWriter:
    """The one writer of one endpoint file; the agent owns it."""

    def __init__(self, layout: Layout, endpoint: Endpoint) -> None:
        self._path = layout.endpoint(endpoint.job_id, endpoint.launch_id)
        self.endpoint = endpoint

    def write(self, **changes: Any) -> Endpoint:
        """Apply changes, count the lease up by one and publish.

        Raises:
            OSError: the registry cannot be written now; the last published file stays.
        """
        updated = replace(self.endpoint, **changes, counter=self.endpoint.counter + 1)
        write_whole(self._path, encode(updated))
        self.endpoint = updated
        return updated

    def remove(self) -> None:
        """Take the endpoint out of the registry; missing is fine."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()


@dataclass(frozen=True)
class Sighting:
    """An endpoint as one reader sees it."""

    endpoint: Endpoint
    uid: int
    """Owner of the file, from the filesystem and not from the file's own words."""
    alive: bool
    """The lease moved within its time, or was first seen less than that ago."""
    confirmed: bool
    """The lease was seen to move: its writer runs now. A fresh reader starts without."""


@dataclass
class _Lease:
    identity: tuple[str, float]
    counter: int
    moved_at: float
    confirmed: bool
    shown: Sighting | None = None
    """The last one, given again while nothing has changed."""


class EndpointReader:
    """Follows the endpoint files of one registry.

    Keeps, per file, when its counter last moved on this host's monotonic clock. Survives
    half-written, foreign, oversized, vanished and stale-handle files: each is left out and named
    in :attr:`problems` until it is mended; a file that cannot be read for a moment keeps its last
    good content until its lease runs out.
    """

    def __init__(
        self,
        layout: Layout,
        owners: Iterable[int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``owners``: uids whose files are believed; default is this process's own."""
        self._layout = layout
        self._owners = frozenset({os.getuid()} if owners is None else owners)
        self._clock = clock
        self._leases: dict[str, _Lease] = {}
        self._last: dict[str, tuple[Endpoint, int, Version]] = {}
        self.problems: dict[str, str] = {}
        self.listed = True
        """The folder itself could be read at the last poll."""

    def poll(self) -> list[Sighting]:
        """Read the folder once; sightings ordered by file name. Never raises for bad content."""
        now = self._clock()
        problems: dict[str, str] = {}
        folder = str(self._layout.endpoints)
        self.listed = True
        try:
            names = sorted(
                name
                for name in os.listdir(folder)
                if name.endswith(".json") and not name.startswith(".")
            )
        except OSError as error:
            problems[folder] = error.strerror or str(error)
            self.listed = False
            # Out of reach for now: go on with what is known.
            names = [] if isinstance(error, FileNotFoundError) else sorted(self._last)
        sightings = []
        for name in names:
            try:
                endpoint, uid = self._read(folder, name)
            except FileNotFoundError:
                continue
            except (OSError, BadRecordError) as error:
                problems[name] = str(error)
                if isinstance(error, BadRecordError) or name not in self._last:
                    continue
                endpoint, uid = self._last[name][:2]
            sightings.append(self._judge(name, endpoint, uid, now))
        seen = set(names)
        for gone in [name for name in self._last if name not in seen]:
            self._last.pop(gone)
            self._leases.pop(gone, None)
        self.problems = problems
        return sightings

    def _read(self, folder: str, name: str) -> tuple[Endpoint, int]:
        last = self._last.get(name)
        data, stat = read_changed(
            f"{folder}/{name}", MAX_RECORD_BYTES, last[2] if last is not None else None
        )
        if stat.st_uid not in self._owners:
            raise BadRecordError(f"owned by uid {stat.st_uid}, which is not trusted here")
        if data is None and last is not None:
            return last[:2]
        assert data is not None
        endpoint = decode(data, Endpoint)
        if name != f"{endpoint.key}.json":
            raise BadRecordError(f"says it is {endpoint.key}")
        self._last[name] = (endpoint, stat.st_uid, version(stat))
        return endpoint, stat.st_uid

    def _judge(self, name: str, endpoint: Endpoint, uid: int, now: float) -> Sighting:
        lease = self._leases.get(name)
        if lease is not None and lease.shown is not None and lease.shown.endpoint is endpoint:
            identity = lease.identity
        else:
            identity = (endpoint.launch_id, endpoint.started_unix)
        if lease is None or lease.identity != identity:
            lease = self._leases[name] = _Lease(identity, endpoint.counter, now, confirmed=False)
        elif endpoint.counter != lease.counter:
            lease.counter, lease.moved_at, lease.confirmed = endpoint.counter, now, True
        ended = endpoint.state is State.ENDED
        alive = not ended and now - lease.moved_at <= LEASE_PERIODS * endpoint.period_s
        shown = lease.shown
        if (
            shown is None
            or shown.endpoint is not endpoint
            or shown.uid != uid
            or shown.alive is not alive
            or shown.confirmed is not lease.confirmed
        ):
            shown = lease.shown = Sighting(endpoint, uid, alive=alive, confirmed=lease.confirmed)
        return shown
