"""What processes have used, from ``/proc`` (proc(5); schedstat: the kernel's sched-stats.rst)."""

from __future__ import annotations

import contextlib
from pathlib import Path


def tree(pid: int) -> list[int]:
    """A process and all that it has started."""
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            found += [int(child) for child in task.read_text().split()]
    return found


def cpu_s(pid: int) -> float:
    """CPU seconds of a process and its children, of the threads that live."""
    nanoseconds = 0
    for one in tree(pid):
        for task in Path(f"/proc/{one}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):  # the thread has just ended
                nanoseconds += int(task.read_text().split()[0])
    return nanoseconds / 1e9


def memory_kib(pid: int) -> int:
    """Resident memory of a process and its children; what they share is counted for each."""
    total = 0
    for one in tree(pid):
        for line in Path(f"/proc/{one}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1])
    return total
