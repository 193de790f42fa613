"""The batch file of a gateway that runs as a job, and follows itself when its walltime is over."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from modeltainer.hpc.sbatch import template

NAME = "mt-gateway"
SIGNAL_SLACK_S = 60
"""Slurm may send the signal up to so much early (sbatch(1), ``--signal``), and never late."""
QUICK_S, PAUSE_MIN = 60, 10
"""A chain's job that fails so soon has its successor wait for so long."""
AGAIN_S = 20
"""After Slurm would not take the successor."""


def render(
    config: Path,
    *,
    walltime_s: int,
    drain_s: float,
    options: Mapping[str, str | None],
    prelude: Sequence[str] = (),
    chain: bool = False,
    python: str = sys.executable,
) -> str:
    """The file's text; shellcheck finds nothing in it.

    Args:
        config: models.yaml, at its path on the compute node.
        drain_s: how long the gateway lets running answers go on.
        options: further options of sbatch by name (``partition``); None leaves one out.
        chain: the job submits its successor, which waits for its end.
    """
    walltime_min = max(1, walltime_s // 60)
    return template("gateway.sbatch.j2").render(
        name=NAME,
        chain=chain,
        quick_s=QUICK_S,
        pause_min=PAUSE_MIN,
        again_s=AGAIN_S,
        options=[f"{name}={shlex.quote(value)}" for name, value in options.items() if value],
        walltime_min=walltime_min,
        signal_s=min(int(drain_s) + SIGNAL_SLACK_S, walltime_min * 30),
        prelude=prelude,
        python=shlex.quote(python),
        config=shlex.quote(str(config)),
    )
