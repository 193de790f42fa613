"""Real vLLM, on CPU, on the same path: Slurm job, agent, registry, gateway, openai client.

It runs natively on the Slurm 22.05 nodes, whose Python is the one that its wheels were installed
for; there is no image of it to be had without a registry of images.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.site import account
from tests.cluster.cluster import Cluster
from tests.vllm.environment import build

pytestmark = [pytest.mark.cluster, pytest.mark.vllm]

CLIENT = Path(__file__).with_name("laptop_client.py").read_text()


@pytest.mark.timeout(1800)  # the first run installs vLLM
def test_vllm_from_up_to_stop(cluster_22_05: Cluster) -> None:
    environment = build()
    [packages] = environment.glob("lib/python3.11/site-packages")
    there = cluster_22_05.shared / "vllm"
    # Hard links: 3.5 GB are on the shared folder at once. Folders must be open to users.
    subprocess.run(["cp", "-al", str(packages), str(there)], check=True)
    subprocess.run(["cp", "-a", str(environment / "tiny-llama"), str(there) + "-model"], check=True)
    alice = account(cluster_22_05, "alice", "vllm", engine_tls=True)
    alice.config["models"]["tiny-llama"] = {
        "engine": "vllm",
        "source": "/shared/vllm-model",
        "context": 1024,
        "command": ["python3", "-m", "vllm.entrypoints.cli.main", "serve"],
        "resources": {"gpus": 0, "cpus": 2, "memory": "8G", "walltime": "20"},
        "env": {
            "PYTHONPATH": "/shared/vllm",
            "VLLM_CPU_KVCACHE_SPACE": 1,
            "HF_HUB_OFFLINE": 1,
        },
        "engine_args": {
            "enforce-eager": True,
            "dtype": "bfloat16",
            "max-num-seqs": 8,
            "override-generation-config": {"temperature": 0.0},
        },
    }
    alice.write_config()
    alice.mt("up tiny-llama --wait", timeout=400)
    [row] = alice.ls()
    assert row["state"] == "ready"
    assert row["url"].startswith("https://")
    alice.mt("gateway start")
    key = alice.mt("key create laptop").stdout.strip()
    socket = json.loads(alice.mt("gateway status --json").stdout)["socket"]
    bridge = cluster_22_05.popen(
        "laptop", ["ssh", "-N", "-L", f"127.0.0.1:8124:{socket}", "alice@login"]
    )
    try:
        done = cluster_22_05.run(
            "laptop",
            ["/opt/modeltainer/bin/python", "-c", CLIENT, "tiny-llama", "Once upon a time"],
            env={"OPENAI_BASE_URL": "http://127.0.0.1:8124/v1", "OPENAI_API_KEY": key},
        )
    finally:
        bridge.terminate()
        bridge.wait(10)
    answer = json.loads(done.stdout)
    assert answer["chunks"] >= 10
    assert answer["chat_tokens"] == 4
    assert answer["finish"] in {"length", "stop"}
    alice.mt("stop tiny-llama")
    alice.assert_nothing_left()
    alice.mt("gateway stop")
