"""Is this a Slurm cluster or a bare machine?"""

from __future__ import annotations

import shutil
from typing import Literal


def detect() -> Literal["slurm", "local"]:
    """``slurm`` where both ``sbatch`` and ``squeue`` are on PATH, else ``local``."""
    return "slurm" if shutil.which("sbatch") and shutil.which("squeue") else "local"
