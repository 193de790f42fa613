"""The tutorials, typed as they stand on a cluster by somebody who does nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.docs.code_blocks import ROOT, fenced

pytestmark = pytest.mark.cluster

TUTORIALS = ROOT / "docs" / "tutorials"


SHORTER = {
    "--concurrency 1,2,4,8 --requests 16": "--concurrency 1,4 --requests 4 --no-calibration",
    "--duration 5s": "--duration 2s --no-calibration",
}
"""What takes minutes on the page, and here would teach nobody."""


def typed(
    cluster: Cluster, name: str, changes: Mapping[str, str] | None = None
) -> tuple[Path, str, str]:
    """Type all of a page's commands; its folder, what was printed, what was said."""
    page = TUTORIALS / f"{name}.md"
    [models] = fenced(page, "yaml")
    folder = cluster.shared / "home" / "alice" / f"tutorial-{name}"
    there = f"/shared/home/alice/tutorial-{name}"
    cluster.run("login", ["mkdir", there])
    (folder / "models.yaml").write_text(models)
    script = f"set -e\ncd {there}\n" + "\n".join(fenced(page, "sh"))
    for long, short in (changes or {}).items():
        assert long in script
        script = script.replace(long, short)
    try:
        done = cluster.run("login", ["bash", "-l"], input=script, timeout=300)
    finally:
        for end in ("stop --all --wait 60", "gateway stop"):
            cluster.run("login", ["bash", "-lc", f"cd {there}; mt-submit {end}"], check=False)
    assert cluster.run("login", ["squeue", "--me", "-h"]).stdout == ""
    return folder, done.stdout, done.stderr


def test_a_service_for_your_group(cluster: Cluster) -> None:
    folder, printed, said = typed(cluster, "service")
    assert said.count("ready") >= 2
    assert '"content"' in printed
    assert (folder / "ann.key").read_text().startswith("mt-")
    last = printed.split("LAUNCH")[-1]
    assert last.count("ready") == 2, "two again after one was cancelled"
    assert "ann" in printed
    assert "kept up no more" in printed


def test_how_many_users(cluster: Cluster) -> None:
    folder, printed, said = typed(cluster, "capacity", SHORTER)
    assert "gemma" in printed
    assert {"requests.csv", "summary.json"} <= {one.name for one in (folder / "sweep").iterdir()}
    assert "requests/s" in printed + said


def test_overnight(cluster: Cluster) -> None:
    folder, printed, _ = typed(cluster, "overnight")
    assert "40 answers.jsonl" in printed
    assert "40 again.jsonl" in printed
    assert "'completed': 40" in printed
    assert len((folder / "answers.jsonl").read_text().splitlines()) == 40
