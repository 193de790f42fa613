"""Processes that hold a cluster's namespaces: started with a mark, so that they can be found."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

MARK = "MODELTAINER_CLUSTER_FOLDER"


def start(command: list[str], folder: Path, log: Path, ready_fd: int | None = None) -> int:
    """Start a process that outlives this one, marked as belonging to the cluster in ``folder``.

    It gets ``ready_fd`` as file descriptor 3. Returns its PID.
    """
    write = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions: list[tuple[int, int, str, int, int] | tuple[int, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), write, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    if ready_fd is not None:
        actions.append((os.POSIX_SPAWN_DUP2, ready_fd, 3))
    environment = {"PATH": os.environ["PATH"], MARK: str(folder)}
    return os.posix_spawnp(command[0], command, environment, file_actions=actions, setsid=True)


def marked(folder: Path) -> list[int]:
    """Every process of the cluster in ``folder`` that was started from here."""
    mark = f"{MARK}={folder}".encode()
    return [pid for pid in _pids() if mark in _environment(pid).split(b"\0")]


def children(pid: int) -> list[int]:
    """The child processes of ``pid``."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def kill_marked(folder: Path, timeout: float = 20.0) -> None:
    """Kill the cluster's processes; killing an init takes all that runs on its host with it."""
    deadline = time.monotonic() + timeout
    while left := marked(folder):
        for pid in left:
            kill(pid)
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {left} of {folder} do not end")
        time.sleep(0.02)


def kill(pid: int) -> None:
    """SIGKILL; no error if it has ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    reap(pid, os.WNOHANG)


def reap(pid: int, options: int = 0) -> None:
    """Wait for ``pid`` if it is a child of this process, so that no zombie stays."""
    with suppress(ChildProcessError):
        os.waitpid(pid, options)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _environment(pid: int) -> bytes:
    # Empty for a zombie and for a process that has just ended.
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""
