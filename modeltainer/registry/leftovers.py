"""What killed processes leave in the registry: half-made launch folders, endpoint files of launches
that are gone, and temporary files.

None of it is believed by anybody; it is removed so that the folders do not fill up. Something is
left over when it has stood still for a while on this host's own clock: whoever writes a launch
folder takes seconds, and an agent that lives renews its file.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from modeltainer.registry.atomic import Version, version
from modeltainer.registry.endpoints import Sighting
from modeltainer.registry.layout import LAUNCH_ID, Layout
from modeltainer.registry.records import Endpoint, State

STILL_S = 120.0


class Leftovers:
    """Looks again and again, and says what is left over."""

    def __init__(self, layout: Layout, clock: Callable[[], float] = time.monotonic) -> None:
        self._layout, self._clock = layout, clock
        self._since: dict[Path, tuple[Version, float]] = {}

    def look(self, sightings: list[Sighting]) -> list[Path]:
        """What can be removed.

        Args:
            sightings: the endpoint files as they are now.

        Raises:
            OSError: a folder is out of reach.
        """
        now = self._clock()
        since: dict[Path, tuple[Version, float]] = {}
        gone = [one.endpoint for one in sightings if self._is_gone(one.endpoint.launch_id)]
        # An agent that has said its last word writes no more; others may only be slow.
        found = [self._file(one) for one in gone if one.state is State.ENDED]
        still = [self._file(one) for one in gone if one.state is not State.ENDED]
        for path in [*still, *self._half_made()]:
            try:
                seen = version(path.lstat())
            except FileNotFoundError:
                continue
            known = self._since.get(path)
            since[path] = known if known is not None and known[0] == seen else (seen, now)
            if now - since[path][1] >= STILL_S:
                found.append(path)
        self._since = since
        return found

    def _file(self, endpoint: Endpoint) -> Path:
        return self._layout.endpoints / f"{endpoint.key}.json"

    def _half_made(self) -> Iterator[Path]:
        for name in _names(self._layout.launches):
            if LAUNCH_ID.fullmatch(name) and not self._layout.spec(name).exists():
                yield self._layout.launches / name
        for folder in (self._layout.endpoints, self._layout.deployments, self._layout.reconcile):
            for name in _names(folder):
                if name.startswith(".") and name.endswith(".tmp"):
                    yield folder / name

    def _is_gone(self, launch_id: str) -> bool:
        return LAUNCH_ID.fullmatch(launch_id) is not None and not os.path.lexists(
            self._layout.launch(launch_id)
        )


def remove(path: Path) -> None:
    """Remove a file or a folder; what is gone by now, or cannot be removed, stays as it is."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
