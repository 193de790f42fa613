"""Real answers of several versions of Slurm (recorded/README.md)."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent / "recorded"
VERSIONS = sorted(folder.name for folder in _FOLDER.iterdir() if folder.is_dir())


def recorded(version: str, name: str) -> str:
    """What a command printed: ``squeue``, ``nodes`` or ``partitions``."""
    return (_FOLDER / version / f"{name}.txt").read_text()
