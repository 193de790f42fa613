"""How vLLM is told to share a model among GPUs and nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modeltainer.jobs.engines.base import EngineStart, Rank
from modeltainer.jobs.engines.vllm import Vllm
from modeltainer.spec import Placement, Resources, Share, Site, Source
from tests.launch_spec import launch_spec

HEAD = Rank(0, 2, "10.0.0.1", 29500, "10.0.0.1")
OTHER = Rank(1, 2, "10.0.0.1", 29500, "10.0.0.2")


def command(
    wanted: Resources,
    rank: Rank | None = None,
    interface: str | None = None,
    placement: Placement | None = None,
    **options: Any,
) -> tuple[dict[str, str | None], dict[str, str]]:
    """Options by name (None: a switch), and the environment."""
    spec = launch_spec(
        engine="vllm",
        source=Source("path", "/models/m"),
        resources=wanted,
        site=Site(registry="/r", cache="/c", host_interface=interface),
        engine_args=options,
        placement=placement,
    )
    made = Vllm().command(EngineStart(spec, "0.0.0.0", 8000, "nonce", rank=rank))
    found: dict[str, str | None] = {}
    for name, after in zip(made.argv, (*made.argv[1:], "--"), strict=True):
        if name.startswith("--"):
            found[name.removeprefix("--")] = None if after.startswith("--") else after
    return found, made.env


@pytest.mark.parametrize(
    ("wanted", "options", "tensor", "pipeline"),
    [
        (Resources(gpus=1), {}, None, None),
        (Resources(gpus=4), {}, "4", None),
        (Resources(gpus=4), {"pipeline_parallel_size": 4}, None, "4"),
        # vLLM's docs: tensor parallel within a node, pipeline parallel across them.
        (Resources(gpus=4, nodes=2), {}, "4", "2"),
        (Resources(gpus=1, nodes=3), {}, None, "3"),
        (Resources(gpus=4, nodes=2), {"tensor_parallel_size": 8}, "8", None),
        (Resources(gpus=4, nodes=2), {"tensor_parallel_size": 2}, "2", "4"),
        (Resources(gpus=4, nodes=2), {"pipeline-parallel-size": 4}, "2", "4"),
        (Resources(gpus=4, nodes=2), {"data-parallel-size": 8}, None, None),
        (Resources(gpus=0, nodes=2), {}, "2", None),
    ],
)
def test_how_the_model_is_shared(
    wanted: Resources, options: dict[str, Any], tensor: str | None, pipeline: str | None
) -> None:
    found, _ = command(wanted, HEAD if wanted.nodes > 1 else None, **options)
    assert found.get("tensor-parallel-size") == tensor
    assert found.get("pipeline-parallel-size") == pipeline


@pytest.mark.parametrize(
    ("gres", "share", "fraction"),
    [
        ("gpu:a100:1", None, None),
        ("gpu:a100_1g.5gb:1", None, "0.84"),
        # Of the whole GPU, since that is what vLLM sees: a half of it, less what is left free.
        ("shard:2", Share(1 / 2, "a100"), "0.460"),
        ("shard:1", Share(1 / 4, "a100"), "0.230"),
        # On a small part the CUDA context weighs more than 8 %.
        ("shard:1", Share(1 / 8, "a100"), "0.105"),
        ("shard:l4:1", Share(1 / 2, "l4"), "0.460"),
        # Nobody tells the memory: as on a GPU of 16 GiB.
        ("shard:1", Share(1 / 4, None), "0.203"),
    ],
)
def test_how_much_of_the_gpu_is_taken(gres: str, share: Share | None, fraction: str | None) -> None:
    placed = Placement("gpu", gres, 3600, share=share)
    found, _ = command(Resources(gpus=1), placement=placed)
    assert found.get("gpu-memory-utilization") == fraction
    given, _ = command(Resources(gpus=1), placement=placed, gpu_memory_utilization=0.3)
    assert given["gpu-memory-utilization"] == "0.3"
    cache, _ = command(Resources(gpus=1), placement=placed, kv_cache_memory_bytes="1G")
    assert cache.get("gpu-memory-utilization") == (fraction if share else None)


def test_each_rank_knows_its_place_and_only_the_head_serves() -> None:
    head, environment = command(Resources(gpus=4, nodes=2), HEAD)
    other, others = command(Resources(gpus=4, nodes=2), OTHER)
    for found, number in ((head, "0"), (other, "1")):
        assert (found["nnodes"], found["node-rank"]) == ("2", number)
        assert (found["master-addr"], found["master-port"]) == ("10.0.0.1", "29500")
        assert found["distributed-executor-backend"] == "mp"
    assert "headless" in other
    assert "headless" not in head
    assert (environment["VLLM_HOST_IP"], others["VLLM_HOST_IP"]) == ("10.0.0.1", "10.0.0.2")
    alone, _ = command(Resources(gpus=4))
    assert not {"nnodes", "headless", "distributed-executor-backend"} & alone.keys()


def test_the_sites_interface_is_for_the_ranks_too() -> None:
    _, environment = command(Resources(gpus=4, nodes=2), HEAD, interface="ib0")
    assert environment["NCCL_SOCKET_IFNAME"] == environment["GLOO_SOCKET_IFNAME"] == "ib0"


def test_what_the_log_tells_of_the_start() -> None:
    """vLLM's own log on an H200 (0.22.1), its middle version's words, and one that says nothing."""
    log = Path(__file__).parents[1] / "fixtures" / "gpu" / "h200" / "vllm-0.22.1-qwen2.5-7b.log"
    assert Vllm().start_split(log.read_text()) == {
        "weights_s": pytest.approx(0.609622),
        "compile_s": 26.84,
        "warm_up_s": pytest.approx(49.02 - 26.84),
    }
    older = (
        "INFO [gpu_model_runner.py:1774] Model loading took 14.2 GiB and 5.27 seconds\n"
        "INFO [monitor.py:34] torch.compile takes 9.50 s in total\n"
        "INFO init engine (profile, create kv cache, warmup model) took 47.64 seconds\n"
    )
    assert Vllm().start_split(older) == {
        "weights_s": 5.27,
        "compile_s": 9.5,
        "warm_up_s": pytest.approx(38.14),
    }
    assert Vllm().start_split("Model loading took long") == {}
