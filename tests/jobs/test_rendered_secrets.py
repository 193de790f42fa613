"""A rendered file carries secrets by reference, and the agent finds them on the node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from modeltainer.hpc.sbatch import SecretReference, render
from modeltainer.registry.layout import Layout
from modeltainer.spec import Site
from tests.launch_spec import launch_spec


def rendered(tmp_path: Path) -> str:
    token = tmp_path / "to ken"
    token.write_text("from-file\n")
    spec = launch_spec(
        site=Site(str(tmp_path / "registry"), str(tmp_path / "cache")), command=("no-such-engine",)
    )
    secrets = [
        SecretReference("HF_TOKEN", variable="MY_TOKEN"),
        SecretReference("OTHER", file=str(token)),
    ]
    return render(spec, sys.executable, secrets)


def run(text: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    srun = folder / "bin" / "srun"
    srun.parent.mkdir(exist_ok=True)
    srun.write_text('#!/bin/sh\nwhile [ "${1#-}" != "$1" ]; do shift; done\nexec "$@"\n')
    srun.chmod(0o755)
    return subprocess.run(
        ["bash"],
        input=text,
        env={**os.environ, "PATH": f"{srun.parent}:{os.environ['PATH']}", **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_agent_finds_them(tmp_path: Path) -> None:
    text = rendered(tmp_path)
    assert "MY_TOKEN" in text
    done = run(text, tmp_path, MY_TOKEN="from-shell")
    assert "no-such-command" in done.stderr  # it got as far as the engine, which is not there
    [secret] = Layout(tmp_path / "registry").launches.glob("*/secret.json")
    assert json.loads(secret.read_text())["env"] == {
        "HF_TOKEN": "from-shell",
        "OTHER": "from-file",
    }


def test_a_missing_one_is_told(tmp_path: Path) -> None:
    done = run(rendered(tmp_path), tmp_path)
    assert done.returncode != 0
    assert "MY_TOKEN" in done.stderr
    assert not (tmp_path / "registry").exists()
