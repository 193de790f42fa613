"""Real vLLM on CPU for the cluster's users: its packages and a tiny model on the shared folder."""

from __future__ import annotations

import subprocess
from typing import Any

from tests.cluster.cluster import Cluster
from tests.vllm.environment import build


def vllm_section(cluster: Cluster) -> dict[str, Any]:
    """A model of models.yaml; what it needs is put on the shared folder first.

    It runs natively on the Slurm 22.05 nodes, whose Python is the one that its wheels were
    installed for; there is no image of it to be had without a registry of images.
    """
    environment = build()
    there = cluster.shared / "vllm"
    if not there.exists():
        [packages] = environment.glob("lib/python3.11/site-packages")
        # Hard links: 3.5 GB are on the shared folder at once. Folders must be open to users.
        subprocess.run(["cp", "-al", str(packages), str(there)], check=True)
        model = f"{there}-model"
        subprocess.run(["cp", "-a", str(environment / "tiny-llama"), model], check=True)
    return {
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
