"""What several workers of one gateway know of each other: a file each, written about once a second.

They are in a folder of this host that only the gateway's user can enter. Of a worker that has ended
the file is kept: what it has counted stays counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from modeltainer.gateway.metrics import Snapshot
from modeltainer.registry.atomic import read_bounded

WRITE_EVERY_S = 1.0
MAX_BYTES = 64 * 1024 * 1024
ENDED = "ended-"


@dataclass(frozen=True)
class Report:
    """One worker's word."""

    metrics: Snapshot
    status: dict[str, Any]
    """As ``/admin/status`` has it."""


class Peers:
    """The other workers, as one of them sees them."""

    def __init__(self, folder: Path, worker: int, workers: int) -> None:
        self._folder, self.worker, self.workers = folder, worker, workers
        self._own = report_file(folder, worker, os.getpid())
        self._task: asyncio.Task[None] | None = None

    def start(self, report: Callable[[], Report]) -> None:
        """Write from now on."""
        self._task = asyncio.get_running_loop().create_task(self._run(report))

    async def stop(self, report: Callable[[], Report]) -> None:
        """Write for the last time."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._write(report())

    def others(self) -> tuple[list[Report], list[Snapshot]]:
        """What the other workers have last said; and the metrics of those that have ended."""
        alive: list[Report] = []
        ended: list[Snapshot] = []
        for name in sorted(os.listdir(self._folder)):
            if name == self._own.name or not name.endswith(".json"):
                continue
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                data, _ = read_bounded(self._folder / name, MAX_BYTES)
                report = msgspec.json.decode(data, type=Report)
                if name.startswith(ENDED):
                    ended.append(report.metrics)
                else:
                    alive.append(report)
        return alive, ended

    async def _run(self, report: Callable[[], Report]) -> None:
        while True:
            self._write(report())
            await asyncio.sleep(WRITE_EVERY_S)

    def _write(self, report: Report) -> None:
        # A folder of this host, mostly in memory: no fsync, and no thread.
        part = self._own.with_name(f".{self._own.name}.part")
        with contextlib.suppress(OSError):
            part.write_bytes(msgspec.json.encode(report))
            part.rename(self._own)


def report_file(folder: Path, worker: int, pid: int) -> Path:
    """Where a worker's report is."""
    return folder / f"worker-{worker}.{pid}.json"


def keep_ended(folder: Path, worker: int, pid: int) -> None:
    """A worker has ended: its counts stay, its gauges do not."""
    file = report_file(folder, worker, pid)
    with contextlib.suppress(OSError):
        file.rename(file.with_name(ENDED + file.name))


def one_status(own: dict[str, Any], others: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The status of all workers as one: what is counted is added up, the rest is ``own``'s."""
    found = {**own, "workers": 1 + len(others)}
    for other in others:
        found["in_flight"] += other["in_flight"]
        by_launch = dict(found["in_flight_by_launch"])
        for launch, count in other["in_flight_by_launch"].items():
            by_launch[launch] = by_launch.get(launch, 0) + count
        found["in_flight_by_launch"] = by_launch
        known = {one["endpoint"]: one for one in other["endpoints"]}
        found["endpoints"] = [
            _one_endpoint(one, known.get(one["endpoint"])) for one in found["endpoints"]
        ]
    return found


def _one_endpoint(own: dict[str, Any], other: dict[str, Any] | None) -> dict[str, Any]:
    if other is None:
        return own
    counts = {name: own[name] + other[name] for name in ("in_flight", "requests")}
    connections = {
        name: count + other["connections"][name] for name, count in own["connections"].items()
    }
    return {**own, **counts, "connections": connections}
