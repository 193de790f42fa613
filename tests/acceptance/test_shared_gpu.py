"""Two models on shards of one GPU (whose device is a file here: the engine computes on the CPU)."""

from __future__ import annotations

import json

import pytest

from tests.acceptance.site import account
from tests.cluster.cluster import Cluster

pytestmark = pytest.mark.cluster


def test_two_models_share_one_gpu_and_leave_the_other_whole(cluster: Cluster) -> None:
    alice = account(cluster, "alice", "shards")
    for name, memory in (("tiny", "10G"), ("gemma", "25G")):  # of 40, in four shards
        model = alice.config["models"][name]
        model["resources"] = {**model["resources"], "partition": "gpu", "nodelist": "c1"}
        model["resources"] |= {"gpus": 1, "gpu_memory": memory, "shared": True}
    alice.write_config()
    rows = json.loads(alice.mt("up tiny gemma --wait --json").stdout)
    try:
        assert {row["model"]: row["gres"] for row in rows} == {
            "tiny": "shard:a100:1",
            "gemma": "shard:a100:3",
        }
        told = []
        for row in rows:
            step = f"srun --jobid={row['job_id']} --overlap --gres=shard:{row['gres'][-1]}"
            told.append(alice.sh(f"{step} printenv CUDA_VISIBLE_DEVICES").stdout)
        assert len(set(told)) == 1
        # The other GPU is still to be had, whole.
        whole = "srun -p gpu -w c1 --gres=gpu:a100:1 printenv CUDA_VISIBLE_DEVICES"
        assert alice.sh(whole).stdout not in told
        refused = alice.mt("up tiny --gpus 2 --dry-run", check=False)
        assert refused.returncode != 0
        assert "a share of one GPU" in refused.stderr
    finally:
        alice.mt("stop --all", check=False)
    alice.assert_nothing_left()
