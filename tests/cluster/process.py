"""Processes that hold a cluster's namespaces: started with a mark, so that they can be found."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import IO

MARK = "MODELTAINER_CLUSTER_FOLDER"


def start(command: list[str], folder: Path, log: IO[bytes], **options: object) -> int:
    """Start a process that outlives this one, marked as belonging to the cluster in ``folder``."""
    environment = {"PATH": os.environ["PATH"], MARK: str(folder)}
    pass_fds = options.get("pass_fds", ())
    assert isinstance(pass_fds, tuple)
    return subprocess.Popen(
        command,
        env=environment,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        pass_fds=pass_fds,
    ).pid


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
        time.sleep(0.05)


def kill(pid: int) -> None:
    """SIGKILL; no error if it has ended."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _environment(pid: int) -> bytes:
    # Empty for a zombie and for a process that has just ended.
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""
