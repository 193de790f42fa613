"""Several small models on one GPU, by Slurm's shards."""

from __future__ import annotations

import json

import pytest

from tests.acceptance.site import account
from tests.cluster.cluster import Cluster

pytestmark = pytest.mark.cluster


def test_two_models_are_two_jobs_on_one_gpu(cluster: Cluster) -> None:
    alice = account(cluster, "alice", "shared")
    models = alice.config["models"]
    models["second"] = {**models["gemma"], "aliases": []}
    for name in ("gemma", "second"):
        models[name]["resources"] = {
            **models[name]["resources"],
            **{"shared": True, "gpu_memory": "6GiB", "partition": "gpu", "nodelist": "c1"},
        }
    # What the engine itself is started with: the job's own is not always the step's.
    alice.config["site"]["prelude"] = [
        f"srun --overlap --gres=shard:1 env > {alice.home}/devices.$SLURM_JOB_ID",
    ]
    alice.write_config()

    done = alice.mt("up gemma second --explain --wait --json", timeout=170)
    assert (
        done.stderr.count("1 of 4 shards of a GPU a100 (10 GiB): the fewest that hold 6 GiB") == 2
    )
    rows = json.loads(done.stdout)
    assert [row["state"] for row in rows] == ["ready"] * 2
    assert {(row["node"], row["gres"], row["gpus"]) for row in rows} == {
        ("c1", "shard:a100:1", 0.25)
    }
    jobs = {row["job_id"] for row in rows}
    assert len(jobs) == 2
    devices = set()
    for job in jobs:
        environment = (alice.here(alice.home) / f"devices.{job}").read_text().splitlines()
        devices |= {line for line in environment if line.startswith("CUDA_VISIBLE_DEVICES=")}
        assert "SLURM_SHARDS_ON_NODE=1" in environment
    assert len(devices) == 1, devices

    # A GPU that is shared is given to nobody as a whole, though Slurm shows it as unused.
    doctor = alice.mt("doctor --json", check=False).stdout
    [gpus] = [found for found in json.loads(doctor) if found["name"] == "gpus"]
    assert "a100 (3 of 4 free)" in gpus["message"], gpus
    assert "shard of a100 (14 of 16 free)" in gpus["message"], gpus

    whole = "srun -p gpu -w c1 --mem=100M --gres=gpu:a100:1 printenv CUDA_VISIBLE_DEVICES"
    assert f"CUDA_VISIBLE_DEVICES={alice.sh(whole).stdout.strip()}" not in devices

    alice.mt("gateway start")
    for name in ("gemma", "second"):
        assert alice.mt(f"chat {name} hello --max-tokens 2").returncode == 0
    alice.mt("stop --all")
    alice.mt("gateway stop")
    alice.assert_nothing_left()


def test_a_whole_gpu_where_no_part_would_do(cluster: Cluster) -> None:
    alice = account(cluster, "alice", "whole")
    done = alice.mt("up tiny --shared --gpu-memory 35GiB --partition gpu --dry-run --explain")
    assert "gpu:a100:1" in done.stdout
    assert "not shared: no part of a GPU there would do" in done.stderr
