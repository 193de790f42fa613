"""A newcomer's path: the commands of the quickstart pages, typed as they stand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.compose.plugin import config
from tests.docs.code_blocks import ROOT, fenced
from tests.tiny_gguf import write_tiny_gguf

QUICKSTART = ROOT / "docs" / "quickstart"


@pytest.mark.cluster
def test_on_a_cluster(cluster: Cluster) -> None:
    page = QUICKSTART / "cluster.md"
    home = cluster.shared / "home" / "alice"
    [models] = fenced(page, "yaml")
    folder = home / "quickstart"
    cluster.run("login", ["mkdir", str(folder).replace(str(cluster.shared), "/shared")])
    (folder / "models.yaml").write_text(models)
    script = "set -ex\ncd ~/quickstart\n" + "\n".join(fenced(page, "sh"))
    done = cluster.run("login", ["bash", "-l"], input=script, timeout=180)
    assert "ready" in done.stderr
    assert "ssh -N" in done.stdout
    assert "mt-" in done.stdout
    assert cluster.run("login", ["squeue", "--me", "-h"]).stdout == ""


@pytest.mark.model
def test_on_a_laptop(tmp_path: Path) -> None:
    page = QUICKSTART / "laptop.md"
    first, second = fenced(page, "sh")
    assert first.strip() == "make demo"
    [models] = fenced(page, "yaml")
    (tmp_path / "models.yaml").write_text(models)
    bin_folder = Path(sys.executable).parent
    # The demo sets up an environment; here it is this test's own.
    lines = [line for line in second.splitlines() if not line.startswith("source ")]
    script = "set -ex\nmt-submit demo\n" + "\n".join(lines)
    environ = {"HOME": str(tmp_path), "PATH": f"{bin_folder}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash"],
        input=script,
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "ready" in done.stderr


def test_on_a_workstation(tmp_path: Path) -> None:
    """What needs no Docker is typed; what Docker would read is read by its compose plugin."""
    page = QUICKSTART / "workstation.md"
    _, render, start = fenced(page, "sh")
    [models] = fenced(page, "yaml")
    (tmp_path / "models").mkdir()
    write_tiny_gguf(tmp_path / "models" / "small.gguf")
    (tmp_path / "models.yaml").write_text(models)
    if os.getuid() == 0:  # the services are nobody's but their user's
        render = render.replace("compose small", "compose small --user 10001:10001")
    environ = {"HOME": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash"],
        input="set -ex\n" + render,
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in start.splitlines() if line.startswith("docker compose")]
    assert all(line.startswith("docker compose -f ~/llm/compose.yaml") for line in lines)
    services = config(tmp_path / "llm" / "compose.yaml", ["cpu"])["services"]
    assert {"gateway", "registrar", "engine-small-r0"} <= services.keys()
    assert services["gateway"]["ports"][0]["published"] == "8000"
