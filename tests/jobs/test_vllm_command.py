"""How vLLM is told to share a model among GPUs and nodes. What vLLM's own parser makes of the same
command lines is in tests/vllm/test_command_lines.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modeltainer.jobs.engines.vllm import Vllm
from modeltainer.spec import Resources
from tests.jobs.vllm_plans import FRACTIONS, HEAD, OTHER, SHARING, Fraction, Sharing, start


def command(*launch: Any, **options: Any) -> tuple[dict[str, str | None], dict[str, str]]:
    """Options by name (None: a switch), and the environment."""
    made = Vllm().command(start(*launch, **options))
    found: dict[str, str | None] = {}
    for name, after in zip(made.argv, (*made.argv[1:], "--"), strict=True):
        if name.startswith("--"):
            found[name.removeprefix("--")] = None if after.startswith("--") else after
    return found, made.env


@pytest.mark.parametrize("plan", SHARING)
def test_how_the_model_is_shared(plan: Sharing) -> None:
    found, _ = command(plan.wanted, HEAD if plan.wanted.nodes > 1 else None, **plan.options)
    for name, size in (("tensor", plan.tensor), ("pipeline", plan.pipeline)):
        assert found.get(f"{name}-parallel-size") == (None if size is None else str(size))


@pytest.mark.parametrize("plan", FRACTIONS)
def test_how_much_of_the_gpu_is_taken(plan: Fraction) -> None:
    placed = plan.placement
    found, _ = command(Resources(gpus=1), placement=placed)
    assert found.get("gpu-memory-utilization") == plan.fraction
    given, _ = command(Resources(gpus=1), placement=placed, gpu_memory_utilization=0.3)
    assert given["gpu-memory-utilization"] == "0.3"
    cache, _ = command(Resources(gpus=1), placement=placed, kv_cache_memory_bytes="1G")
    assert cache.get("gpu-memory-utilization") == (plan.fraction if plan.share else None)


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


def test_a_switch_that_vllm_cannot_negate_is_left_out_when_off() -> None:
    found, _ = command(Resources(gpus=1), disable_log_stats=False, enable_prefix_caching=False)
    assert "no-enable-prefix-caching" in found
    assert not {"disable-log-stats", "no-disable-log-stats"} & found.keys()


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
