"""``mt-submit bench`` on the cluster against real llama-server: from login, and as a job."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.acceptance.site import Account, account
from tests.acceptance.test_commands import until_answered
from tests.cluster.cluster import Cluster

pytestmark = pytest.mark.cluster

SMALL = "--prompt-tokens 8 --output-tokens 8 --requests 8 --no-calibration"


@pytest.fixture
def alice(cluster: Cluster) -> Iterator[Account]:
    made = account(cluster, "alice", "bench")
    yield made
    made.mt("stop --all --wait 90", check=False)
    made.mt("gateway stop", check=False)


def summary(alice: Account, folder: str) -> dict[str, object]:
    """The run's figures, after its plots were drawn (here: the cluster has no matplotlib)."""
    made = alice.here(alice.home) / folder
    draw = [sys.executable, "-m", "modeltainer.cli.main", "bench", "report", str(made)]
    subprocess.run(draw, check=True)
    assert (made / "report.html").stat().st_size > 50_000
    assert list(made.glob("*.png"))
    found: dict[str, object] = json.loads((made / "summary.json").read_text())
    return found


def test_a_sweep_through_the_gateway_and_one_next_to_the_engine(alice: Account) -> None:
    # Four users' prompts, and those that idle slots still hold: more than a context of 256.
    alice.config["models"]["tiny"]["context"] = 2048
    alice.write_config()
    alice.mt("up tiny --wait")
    alice.mt("gateway start")
    said = alice.mt(f"bench tiny --concurrency 1,4 {SMALL} --output sweep")
    assert "TTFT" in said.stdout
    found = summary(alice, "sweep")
    points = found["points"]
    assert isinstance(points, list)
    assert [point["targets"]["a"]["failed"] for point in points] == [0, 0]
    assert [point["concurrency"] for point in points] == [1, 4]

    job = alice.mt(
        f"bench tiny --concurrency 2 {SMALL} --on-cluster --partition cpu --time 10m --output near"
    ).stdout.strip()
    deadline = time.monotonic() + 120
    while job in alice.jobs():
        assert time.monotonic() < deadline, (alice.here(alice.home) / "near.log").read_text()
        time.sleep(0.5)
    near = summary(alice, "near")
    client, servers = near["client"], near["servers"]
    assert isinstance(client, dict)
    assert isinstance(servers, list)
    assert client["slurm"]["SLURM_JOB_ID"] == job
    [row] = alice.ls()
    assert servers[0]["url"] == row["url"]  # the engine's own address
    script = (alice.here(alice.home) / "near.sbatch").read_text()
    assert "mte-" not in script

    again = alice.mt(f"bench tiny {SMALL} --on-cluster --output near", check=False)
    assert again.returncode == 1
    assert "is there already" in again.stderr
    alice.mt("stop tiny")
    none = alice.mt(f"bench tiny {SMALL} --on-cluster --output none", check=False)
    assert none.returncode == 9
    assert "no engine of tiny is ready" in none.stderr
    alice.assert_nothing_left()

    # On a slice: what it has cost is known after the launch is gone.
    alice.mt("up tiny --wait --partition gpu --gpus 1 --gpu-type a100_1g.10gb")
    until_answered(alice)  # the gateway looks at the registry once a second
    alice.mt("stop tiny")
    [spent] = json.loads(alice.mt("usage --by model --json").stdout)
    assert spent["model"] == "tiny"
    assert spent["jobs"] == 1
    assert 0 < spent["gpu_seconds"] < 300
    alice.mt("gateway stop")
    alice.assert_nothing_left()
