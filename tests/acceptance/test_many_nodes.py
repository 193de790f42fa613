"""One model over two nodes: real vLLM on CPU, one Slurm job, one endpoint, both ranks watched."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.acceptance.site import Account, account
from tests.acceptance.vllm_models import vllm_section
from tests.cluster.cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.vllm]


@pytest.fixture
def alice(cluster_22_05: Cluster) -> Iterator[Account]:
    made = account(cluster_22_05, "alice", "many-nodes")
    section = vllm_section(cluster_22_05)
    made.config["models"]["wide"] = {
        **section,
        "resources": {**section["resources"], "nodes": 2, "cpus": 1, "memory": "6G"},
        # Sharded embeddings are compiled on the first request, for which these nodes have no g++.
        "env": {**section["env"], "TORCHDYNAMO_DISABLE": 1},
    }
    made.write_config()
    yield made
    made.mt("stop --all --wait 90", check=False)
    made.mt("gateway stop", check=False)


@pytest.mark.timeout(1800)  # the first run installs vLLM
def test_one_model_over_two_nodes(alice: Account) -> None:
    alice.mt("up wide --wait", timeout=400)
    [row] = alice.ls()
    assert (row["state"], row["nodes"]) == ("ready", 2)
    [job] = alice.sh("squeue --me --noheader --format=%D").stdout.split()
    assert job == "2"
    launch_id = row["launch_id"]
    assert "world_size=2 rank=1" in alice.mt("logs wide --rank 1").stdout
    assert "rank 1 started" in alice.mt(f"logs {launch_id} --rank 1 --agent").stdout
    alice.mt("gateway start")
    assert alice.mt("chat wide hello --max-tokens 8").stdout.strip()

    # The second node's part of the engine dies: all ends, and the cause says where.
    other = next(name for name in alice.cluster.nodes if name != row["node"])
    alice.cluster.run(other, ["pkill", "-9", "-u", "alice", "-f", "node-rank 1"])
    deadline = time.monotonic() + 90
    while alice.jobs():
        assert time.monotonic() < deadline, alice.mt("ls --all").stdout
        time.sleep(1)
    [ended] = json.loads(alice.mt("ls --all --json").stdout)
    assert ended["state"] == "ended"
    assert f"rank 1 on {other}" in ended["cause"]["message"]
    alice.mt("stop --all")
    alice.assert_nothing_left()


@pytest.mark.timeout(1800)
def test_a_rendered_job_over_two_nodes_stops_whole(alice: Account) -> None:
    text = alice.mt("render wide").stdout
    assert "#SBATCH --nodes=2" in text
    file = alice.here(alice.home) / "wide.sbatch"
    file.write_text(text)
    file.chmod(0o644)
    alice.sh("sbatch wide.sbatch")
    deadline = time.monotonic() + 300
    while not any(row["state"] == "ready" for row in alice.ls()):
        assert time.monotonic() < deadline, alice.mt("ls --all").stdout
        time.sleep(1)
    alice.mt("stop --all --wait 90")
    alice.assert_nothing_left()
