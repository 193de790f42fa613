"""Copies of images and weights on the node's own disk, each made once for all launches there.

``FOLDER/NAME-DIGEST/`` has one copy; ``FOLDER/NAME-DIGEST.lock`` is held (by flock, which is sound
on a node's own disk) together by launches that use it, and alone by who makes or removes it. A copy
appears by rename and so is whole. When room is needed, what was not used for the longest time goes
first.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import stat as stat_module
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from modeltainer.jobs.engines.base import cache_environment
from modeltainer.jobs.mounts import MEMORY, NETWORK, filesystem_of
from modeltainer.spec import LaunchSpec, NodeCache, Source
from modeltainer.weights.gguf_shape import parts
from modeltainer.weights.hub_cache import find_snapshot, hub_folders
from modeltainer.weights.safetensors import INDEX, BadSafetensorsError, weight_files

PIECE = 16 * 1024 * 1024
SPARE_BYTES = 2 * 1024**3
"""Left free on the disk for all else that runs on the node."""
_GIB = 1024**3
_LOOK_S = 0.2
_GONE_AFTER = 50
"""Looks (10 s) at which nobody made a copy that was not there, and yet it could not be made: those
who use one hold its lock, and something else (a site's cleaner) has taken it from them."""


class NotStagedError(Exception):
    """The files are used where they are; the message says why."""


class CancelledError(Exception):
    """The launch is to end before its files are copied."""


@dataclass(frozen=True)
class Original:
    """What is to be copied: a file, a folder, or all parts of one model."""

    path: Path
    files: tuple[tuple[str, int, int], ...]
    """Below ``root``: name, bytes, mtime in ns."""
    root: Path
    """``path`` if it is a folder, else the folder it is in."""

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(size for _, size, _ in self.files)

    @property
    def entry(self) -> str:
        """The copy's name: another one when anything in the original changes."""
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", self.path.name)[:60] or "files"
        identity = repr((str(self.path), self.files)).encode()
        return f"{name}-{hashlib.sha256(identity).hexdigest()[:16]}"


def original(path: Path) -> Original:
    """Look at what is to be copied; links lead to what is copied in their place.

    Raises:
        OSError: it is not there, or cannot be read.
    """
    if path.is_dir():
        names = [
            str(Path(folder, name).relative_to(path))
            for folder, _, found in os.walk(path, followlinks=True)
            for name in found
        ]
        root = path
    else:
        names = [part.name for part in parts(path)]
        root = path.parent
    stats = [(name, (root / name).stat()) for name in sorted(names)]
    files = tuple((name, one.st_size, one.st_mtime_ns) for name, one in stats)
    return Original(path, files, root)


class Stage:
    """The node's copies. Those that :meth:`copy` gave are kept until :meth:`close`."""

    def __init__(
        self,
        wished: NodeCache,
        say: Callable[[str], None],
        cancelled: Callable[[], bool] = lambda: False,
        kind_of: Callable[[Path], str] = filesystem_of,
    ) -> None:
        self._wished, self._say, self._cancelled = wished, say, cancelled
        self._kind_of = kind_of
        self._folder = Path(os.path.expandvars(wished.folder)).expanduser()
        limit_mib = wished.limit_mib
        self._limit = None if limit_mib is None else limit_mib * 1024 * 1024
        self._held: list[int] = []

    def copy(self, path: Path) -> Path:
        """The node's copy of a file or folder, made now if there is none.

        Raises:
            NotStagedError: it is used where it is.
            CancelledError: the launch is to end.
        """
        try:
            self._own_folder()
            if not self._pays(path):
                raise NotStagedError(f"it is on the node's own {self._kind_of(path)} already")
            found = original(path)
            return self._copy(found)
        except OSError as error:
            raise NotStagedError(str(error)) from error

    def close(self) -> None:
        """Others may now remove the copies that were used."""
        while self._held:
            os.close(self._held.pop())

    def _own_folder(self) -> None:
        if not self._folder.is_absolute() or "$" in str(self._folder):
            raise NotStagedError(f"{self._folder} is no folder on this node")
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = os.lstat(self._folder)
        if not stat_module.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise NotStagedError(f"{self._folder} is not a folder of this user")
        if found.st_mode & 0o022:
            raise NotStagedError(f"others may write to {self._folder}; run: chmod 700 there")
        kind = self._kind_of(self._folder)
        if kind in MEMORY and self._wished.when != "always":
            raise NotStagedError(f"{self._folder} is in memory ({kind}), which the job pays for")

    def _pays(self, path: Path) -> bool:
        return self._wished.when == "always" or self._kind_of(path) in NETWORK

    def _copy(self, found: Original) -> Path:
        """Both locks are tried in turn: who waits to make a copy must see that another has made it,
        since that one keeps its shared lock for as long as its job runs."""
        entry, part = self._of(found.entry)
        told, gone = False, 0
        while True:
            if (shared := self._lock(found.entry, fcntl.LOCK_SH)) is not None:
                if entry.is_dir():
                    os.utime(shared)  # used now
                    self._held.append(shared)
                    return entry if found.root == found.path else entry / found.path.name
                os.close(shared)
                gone += 1
                if gone > _GONE_AFTER:
                    raise NotStagedError("its copy was removed while another launch uses it")
            else:
                gone = 0
            if (alone := self._lock(found.entry, fcntl.LOCK_EX)) is not None:
                try:
                    if not entry.is_dir():
                        shutil.rmtree(part, ignore_errors=True)  # of one that was killed
                        self._make_room(found)
                        self._make(found, entry, part)
                finally:
                    os.close(alone)
                continue
            if self._cancelled():
                raise CancelledError
            if not told:
                told = True
                self._say(f"waiting for another launch on this node, which copies {found.entry}")
            time.sleep(_LOOK_S)

    def _lock(self, name: str, mode: int) -> int | None:
        """A descriptor that holds the lock, or None while others hold it."""
        descriptor = self._open_lock(name)
        try:
            fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def _open_lock(self, name: str) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(self._folder / f"{name}.lock", flags, 0o600)

    def _make(self, found: Original, entry: Path, part: Path) -> None:
        began = time.monotonic()
        self._say(f"copying {found.path} to {self._folder}: {found.bytes / _GIB:.2f} GiB")
        try:
            for name, size, _ in found.files:
                target = part / name
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._copy_file(found.root / name, target, size)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        part.rename(entry)
        took = time.monotonic() - began
        self._say(f"copied in {took:.1f} s ({found.bytes / 1024**2 / max(took, 1e-3):.0f} MiB/s)")

    def _copy_file(self, source: Path, target: Path, size: int) -> None:
        with source.open("rb") as reading, target.open("xb") as writing:
            copied = 0
            while piece := reading.read(PIECE):
                if self._cancelled():
                    raise CancelledError
                writing.write(piece)
                copied += len(piece)
        if copied != size:
            raise NotStagedError(f"{source} has changed while it was copied")

    def _make_room(self, found: Original) -> None:
        """Remove what was not used for the longest time until there is room."""
        need = found.bytes
        limit = self._limit
        if limit is not None and need > limit:
            raise NotStagedError(
                f"it has {need / _GIB:.1f} GiB, and site.node_cache.limit is {limit / _GIB:.1f} GiB"
            )
        sizes = self._by_last_use()
        used = sum(size for _, size in sizes)
        for name, size in [*sizes, ("", 0)]:
            free = shutil.disk_usage(self._folder).free - SPARE_BYTES
            if free >= need and (limit is None or used + need <= limit):
                return
            if size and self._remove(name, size):
                used -= size
        if limit is not None and used + need > limit:
            raise NotStagedError(f"what other launches use fills {limit / _GIB:.1f} GiB")
        raise NotStagedError(f"the node's disk has no room for {need / _GIB:.1f} GiB")

    def _by_last_use(self) -> list[tuple[str, int]]:
        """Names and bytes; first what was not used for the longest time."""
        found = []
        for lock in self._folder.glob("*.lock"):
            with contextlib.suppress(OSError):
                found.append((lock.stat().st_mtime, lock.stem))
        return [
            (name, sum(_bytes_below(folder) for folder in self._of(name)))
            for _, name in sorted(found)
        ]

    def _of(self, name: str) -> tuple[Path, Path]:
        """A copy, and what a killed launch has left of one."""
        return self._folder / name, self._folder / f".{name}.part"

    def _remove(self, name: str, size: int) -> bool:
        """False when a launch uses it, or makes it."""
        lock = self._open_lock(name)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for folder in self._of(name):
                shutil.rmtree(folder, ignore_errors=True)
            self._say(f"removed {name} from the node, {size / _GIB:.2f} GiB")
            return True
        except BlockingIOError:
            return False
        finally:
            os.close(lock)


def _bytes_below(folder: Path) -> int:
    total = 0
    for inside, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(Path(inside, name)).st_size
    return total


def snapshot(spec: LaunchSpec) -> Path | None:
    """Where a hub's model is in the shared cache; None when it is not whole there, so that the
    engine downloads it."""
    if spec.engine != "vllm" or spec.source.kind != "hub":
        return None
    env = {**cache_environment(spec.site.cache, spec.engine), **spec.env}
    found = find_snapshot(
        spec.source.value, revision=spec.source.revision, folders=hub_folders(env)
    )
    return found if found is not None and _is_whole(found) else None


def _is_whole(folder: Path) -> bool:
    """Whether a snapshot has its configuration and every file of its weights."""
    if not (folder / "config.json").exists():
        return False
    if (folder / INDEX).exists():
        with contextlib.suppress(OSError, BadSafetensorsError):
            return all(file.exists() for file in weight_files(folder))
    return (folder / "model.safetensors").exists()


def stage_image(image: str | None, at: Stage, say: Callable[[str], None]) -> str | None:
    """Where to read an image from; one that is a folder stays where it is.

    Raises:
        CancelledError: the launch is to end.
    """
    if image is None or not Path(image).is_file():
        return image
    copied = _copied(Path(image), at, say)
    return image if copied is None else str(copied)


def stage_weights(spec: LaunchSpec, at: Stage, say: Callable[[str], None]) -> Source:
    """Where to read a launch's weights from.

    Raises:
        CancelledError: the launch is to end.
    """
    path = Path(spec.source.value) if spec.source.kind == "path" else snapshot(spec)
    copied = _copied(path, at, say) if path is not None else None
    return spec.source if copied is None else Source("path", str(copied))


def _copied(path: Path, at: Stage, say: Callable[[str], None]) -> Path | None:
    """The node's copy; None, with a line that says why, to read it where it is."""
    try:
        return at.copy(path)
    except NotStagedError as error:
        say(f"{path} is read where it is: {error}")
        return None
