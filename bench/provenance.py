"""What a run was made with and on, so that its figures can be believed later."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from modeltainer.__about__ import __version__

_CLOCK = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")


def client_facts() -> dict[str, Any]:
    """This process's side: host, versions, clock, Slurm job, source commit."""
    slurm = {name: os.environ[name] for name in _SLURM if name in os.environ}
    return {
        "modeltainer": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "host": socket.gethostname(),
        "cpus": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "clock": "CLOCK_MONOTONIC",
        "clock_source": _first_line(_CLOCK),
        "slurm": slurm,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


_SLURM = ("SLURM_JOB_ID", "SLURM_CLUSTER_NAME", "SLURMD_NODENAME", "SLURM_JOB_PARTITION")


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _commit() -> str | None:
    """Of the checkout that this runs from; None for an installed package."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
