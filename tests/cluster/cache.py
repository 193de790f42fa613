"""What is built once and kept: root file systems, Python environments, images and models.

An entry is a folder named by a hash of its recipe. It is built under another name and renamed
when whole, under a lock, so that neither a crash nor a second builder leaves or takes a part.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_dir() -> Path:
    """``$MODELTAINER_CLUSTER_CACHE``, else ``~/.cache/modeltainer-cluster``."""
    chosen = os.environ.get("MODELTAINER_CLUSTER_CACHE")
    folder = Path(chosen) if chosen else Path.home() / ".cache" / "modeltainer-cluster"
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def recipe_key(*parts: object) -> str:
    """A short hash of everything that decides what a build yields."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def cached(name: str, key: str, build: Callable[[Path], None]) -> Path:
    """The folder ``name-key`` of the cache; ``build(folder)`` fills it if it is not there yet."""
    entry = cache_dir() / f"{name}-{key}"
    if entry.is_dir():
        return entry
    with locked(cache_dir() / f".{name}-{key}.lock"):
        if entry.is_dir():
            return entry
        part = cache_dir() / f".{name}-{key}.part"
        if part.exists():
            shutil.rmtree(part)
        part.mkdir()
        began = time.monotonic()
        print(f"building {entry.name} …", file=sys.stderr, flush=True)
        build(part)
        part.rename(entry)
        seconds = time.monotonic() - began
        print(f"built {entry.name} in {seconds:.0f} s", file=sys.stderr, flush=True)
    return entry


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of this file, waiting for it."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
