"""The agent's own log, written by a thread: a shared folder that hangs must not hang the agent."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from pathlib import Path


class AgentLog:
    """Lines with their time, appended to one file in the order they came."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="agent-log", daemon=True)
        self._thread.start()

    def say(self, line: str) -> None:
        """Have a line written; does not wait."""
        self._lines.put(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {line}\n")

    def close(self, timeout_s: float) -> None:
        """Wait until all is written, at most ``timeout_s`` seconds."""
        self._lines.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            with contextlib.suppress(OSError), self._path.open("a") as log:
                log.write(line)
