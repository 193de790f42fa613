"""The engine's process: started in a session of its own, logged to a file, ended whole."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

TAIL_BYTES = 64 * 1024


class EngineProcess:
    """One run of the engine with all its children."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        """Start it; it ends with this process even when that is killed outright.

        Args:
            log: its stdout and stderr are appended here.

        Raises:
            FileNotFoundError: the command is not on PATH.
            OSError: the log cannot be written, or the command cannot be executed.
        """
        if shutil.which(argv[0], path=env.get("PATH")) is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), argv[0])
        self._log = log
        with log.open("ab") as output:
            self._from = output.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "modeltainer.jobs.tether", str(os.getpid()), *argv],
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Of the process group."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """None while it runs; negative is the signal that ended it."""
        return self._process.poll()

    def tail(self) -> str:
        """The last of what this run has logged."""
        try:
            with self._log.open("rb") as log:
                end = log.seek(0, os.SEEK_END)
                log.seek(max(self._from, end - TAIL_BYTES))
                return log.read().decode(errors="replace")
        except OSError:
            return ""

    def terminate(self, grace_s: float, wait: Callable[[float], None] = time.sleep) -> None:
        """SIGTERM to the whole session, SIGKILL to what is left after ``grace_s`` seconds."""
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while self._process.poll() is None and time.monotonic() < deadline:
            wait(0.05)
        # The leader may be gone while a worker of its session still holds the GPU.
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)
