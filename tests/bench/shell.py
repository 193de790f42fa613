"""``mt-submit bench`` in a process of its own, as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

QUICK = ("--prompt-tokens", "16", "--output-tokens", "4", "--no-calibration")
KEY = "sesame"


def command(*words: str, folder: Path) -> list[str]:
    """Its command line; ``Path()`` for one that takes no ``--output``."""
    program = [sys.executable, "-m", "modeltainer.cli.main", "bench"]
    return [*program, *words, "--output", str(folder)] if folder.name else [*program, *words]


def environ() -> dict[str, str]:
    """This one, with a key."""
    return {**os.environ, "MODELTAINER_KEY": KEY}


def bench(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(
        command(*words, folder=folder),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environ(),
    )


def summary(folder: Path) -> Any:
    """What it has written."""
    return json.loads((folder / "summary.json").read_text())
