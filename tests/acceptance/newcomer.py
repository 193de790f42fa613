"""Somebody who has nothing yet: a checkout as it is handed out, a home with nothing in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.environment import pip_variables
from tests.docs.code_blocks import ROOT


def checkout(folder: Path) -> Path:
    """A copy of the tracked files, as they are now, with nothing that was built beside them."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    for name in os.fsdecode(listed).rstrip("\0").split("\0"):
        if (ROOT / name).is_symlink() or (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    return folder


@dataclass(frozen=True)
class Newcomer:
    """A user of this machine, with its Python, its package index and nothing else of it."""

    home: Path

    def types(self, script: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Run a script from a checkout; every line of it must succeed."""
        folder = self.home / "ModelTainer"
        if not folder.exists():
            checkout(folder)
        return subprocess.run(
            ["bash"],
            input=f"set -exo pipefail\n{script}",
            cwd=folder,
            env={
                "HOME": str(self.home),
                "LANG": "C.UTF-8",
                "PATH": f"{sys.base_prefix}/bin:/usr/local/bin:/usr/bin:/bin",
                **pip_variables(),
            },
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
