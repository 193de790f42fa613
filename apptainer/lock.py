"""A lock that is safe across the nodes of a shared filesystem.

``flock`` is not to be trusted there, and neither are clocks and mtimes. The lock is a file made
with O_EXCL, whose content carries a counter that the holder raises while it works. Who waits
watches the counter by its own monotonic clock; a counter that stands still belongs to a dead
holder, and is taken over by renaming the file away, which only one of the waiting can do. A holder
that was a process of this very machine and is no more needs no watching.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

RENEW_S = 5.0
STALE_S = 60.0


@contextlib.contextmanager
def shared_lock(
    path: Path,
    *,
    on_wait: Callable[[str], None] = lambda holder: None,
    cancelled: Callable[[], bool] = lambda: False,
    renew_s: float = RENEW_S,
    stale_s: float = STALE_S,
) -> Iterator[Callable[[], bool]]:
    """Hold ``path`` as a lock; gives a function that says whether it still is ours (a holder that
    was stopped for longer than ``stale_s`` has lost it).

    Args:
        on_wait: told the holder (``user@host pid``) once, when there is one.
        cancelled: asked while waiting; true gives up with KeyboardInterrupt.

    Raises:
        OSError: the folder cannot be written.
    """
    token = f"{socket.gethostname()} {os.getpid()} {_process_space()} {secrets.token_hex(8)}"
    _acquire(path, token, on_wait, cancelled, stale_s)
    stop = threading.Event()
    renewer = threading.Thread(target=_renew, args=(path, token, renew_s, stop), daemon=True)
    renewer.start()
    try:
        yield lambda: _holder(path) == token
    finally:
        stop.set()
        renewer.join()
        if _holder(path) == token:
            path.unlink(missing_ok=True)


def _acquire(
    path: Path,
    token: str,
    on_wait: Callable[[str], None],
    cancelled: Callable[[], bool],
    stale_s: float,
) -> None:
    seen, moved_at, told = "", time.monotonic(), False
    while True:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            content = _read(path)
        else:
            with os.fdopen(descriptor, "w") as file:
                file.write(f"{token}\n0\n")
            return
        if content != seen:
            seen, moved_at = content, time.monotonic()
        if time.monotonic() - moved_at > stale_s or _died_here(content):
            _take_away(path, content)
            continue
        if not told and content:
            told = True
            on_wait(" ".join(content.split()[:2]))
        if cancelled():
            raise KeyboardInterrupt
        time.sleep(0.2)


def _process_space() -> str:
    """Names what a process id is unique in: this boot of this machine, this pid namespace."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    return "unknown"


def _died_here(content: str) -> bool:
    words = content.split()
    if len(words) < 4 or words[2] == "unknown" or words[2] != _process_space():
        return False
    return words[1].isdigit() and not Path("/proc", words[1]).exists()


def _take_away(path: Path, content: str) -> None:
    """Remove a dead holder's lock; of several that try, each must see the very file it judged."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(6)}.stale")
    with contextlib.suppress(FileNotFoundError):
        path.rename(aside)
        if _read(aside) != content:  # a new holder came in between: put its lock back
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink()


def _renew(path: Path, token: str, renew_s: float, stop: threading.Event) -> None:
    counter = 0
    while not stop.wait(renew_s):
        counter += 1
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.renew")
        with contextlib.suppress(OSError):
            if _holder(path) != token:
                return
            temporary.write_text(f"{token}\n{counter}\n")
            temporary.replace(path)


def _holder(path: Path) -> str:
    return _read(path).partition("\n")[0]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
