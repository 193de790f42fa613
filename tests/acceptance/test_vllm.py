"""Real vLLM, on CPU, on the same path: Slurm job, agent, registry, gateway, openai client."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.acceptance.raw_streams import RawClient
from tests.acceptance.site import account
from tests.acceptance.vllm_models import vllm_section
from tests.cluster.cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.vllm]

CLIENT = Path(__file__).with_name("laptop_client.py").read_text()


@pytest.mark.timeout(1800)  # the first run installs vLLM
def test_vllm_from_up_to_stop(cluster_22_05: Cluster) -> None:
    alice = account(cluster_22_05, "alice", "vllm", engine_tls=True)
    alice.config["models"]["tiny-llama"] = {**vllm_section(cluster_22_05), "context": 2048}
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
    url = "http://127.0.0.1:8124/v1"
    try:
        done = cluster_22_05.run(
            "laptop",
            ["/opt/modeltainer/bin/python", "-c", CLIENT, "tiny-llama", "Once upon a time"],
            env={"OPENAI_BASE_URL": url, "OPENAI_API_KEY": key},
        )
        raw = RawClient(alice, "tiny-llama", "laptop", url, key, answers=8)
        raw.check(tokens=2000, engine="vllm.entrypoints")
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
