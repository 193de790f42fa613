"""Two vLLM and one llama.cpp at once behind one gateway: the workstation of the example."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.fixtures import require_cluster
from tests.compose.container import Containers
from tests.compose.image import gateway_layers, llama_layers, vllm_layers
from tests.compose.workstation import answered_by, ask, create_key, endpoints, rendered, until
from tests.tiny_gguf import write_tiny_gguf
from tests.vllm.environment import build

pytestmark = [pytest.mark.cluster, pytest.mark.vllm]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Containers]:
    require_cluster()
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the cached vLLM is for the Python that runs the tests; bookworm's is 3.11")
    environment = build()
    [packages] = environment.glob("lib/python3.11/site-packages")
    vllm = {
        "engine": "vllm",
        "source": str(environment / "tiny-llama"),
        "image": "docker://vllm-cpu:0.32.0",
        "context": 256,
        "resources": {"gpus": 0, "cpus": 1, "memory": "6GiB"},
        "env": {
            "PYTHONPATH": "/opt/vllm",
            "VLLM_CPU_KVCACHE_SPACE": 1,
            "HF_HUB_OFFLINE": 1,
            "OMP_NUM_THREADS": 1,
        },
        "engine_args": {"enforce-eager": True, "dtype": "bfloat16", "max-num-seqs": 4},
    }
    llama = {
        "engine": "llamacpp",
        "source": str(write_tiny_gguf(tmp_path / "tiny.gguf")),
        "context": 256,
        "resources": {"gpus": 0, "cpus": 1, "memory": "1GiB"},
    }
    models = {"a": {**vllm, "replicas": 2}, "b": llama}
    containers = rendered(tmp_path, models, ["cpu"], {"ab": {"a": 70, "b": 30}})
    try:
        for name in containers.services:
            if name.startswith("engine-a"):
                containers.start(name, vllm_layers(), [(packages, "/opt/vllm")])
            else:
                layers = llama_layers() if name.startswith("engine-") else gateway_layers()
                containers.start(name, layers)
        yield containers
    finally:
        containers.close()


@pytest.mark.timeout(1800)  # the first run installs vLLM
def test_two_vllm_and_one_llama_cpp_stream_at_once(project: Containers) -> None:
    key = create_key(project)
    until(lambda: [*endpoints(project, key).values()].count("routed") == 3, within=400)
    for model in ("a", "b", "a"):
        done = ask(project, key, model)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) >= 2
    counted = answered_by(project, key, "ab", 60)
    assert counted.keys() == {"a", "b"}
    assert counted["a"] + counted["b"] == 60
    assert 27 <= counted["a"] <= 56  # 42 are due; further off is chance one time in 10,000
    assert all(project.healthy(f"engine-{name}") for name in ("a-r0", "a-r1", "b-r0"))
