"""Engines that share a GPU, and what of it each may take."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from modeltainer.sizing.devices import Device
from modeltainer.sizing.fit import Wish, fit, shared_utilization
from modeltainer.sizing.memory import CUDA_CONTEXT_MIB
from modeltainer.weights.inspect import read_path
from tests.weights.published import CONFIGS

QWEN = read_path(CONFIGS / "qwen2.5-7b.json")


@given(memory_gib=st.floats(8, 300), parts=st.lists(st.integers(1, 8), min_size=1, max_size=8))
def test_together_they_stay_within_the_gpu(memory_gib: float, parts: list[int]) -> None:
    """However a GPU is shared out, the engines' memory and their CUDA contexts are in it."""
    memory_mib, shards = int(memory_gib * 1024), max(8, sum(parts))
    each = [part / shards for part in parts]
    if min(each) * memory_mib < 1024:  # nothing runs there at all
        return
    taken = sum(shared_utilization(memory_mib, part) * memory_mib for part in each)
    assert taken + len(parts) * CUDA_CONTEXT_MIB <= memory_mib


@given(share=st.floats(0.001, 1, exclude_max=True), memory=st.none() | st.integers(64, 300_000))
def test_vllm_takes_the_fraction(share: float, memory: int | None) -> None:
    """It wants a number above 0, and says by itself what is too little."""
    fraction = shared_utilization(memory, share)
    assert 0.001 <= fraction < 1
    assert fraction <= max(0.001, share)


def gpu(shards: int, memory_mib: int | None = 40 * 1024) -> Device:
    return Device("a100", memory_mib, memory_mib, 4, is_slice=False, shards=shards)


def test_the_fewest_shards_that_hold_it() -> None:
    wish = Wish("vllm", 8192)
    four = fit(QWEN, gpu(8), wish)
    assert (four.fits, four.device.name, four.device.share, four.gpus) == (True, "4/8 a100", 0.5, 1)
    # What a job has there is vLLM's batch of the whole GPU in a part of its memory.
    assert four.utilization == shared_utilization(40 * 1024, 0.5)
    assert fit(QWEN, gpu(2), wish).device.name == "1/2 a100"


def test_why_no_part_will_do() -> None:
    wish = Wish("vllm", 8192)
    assert fit(QWEN, gpu(1), wish).why == "its only shard is all of it"
    assert "not known" in fit(QWEN, gpu(4, None), wish).why
    assert "shards are of one GPU" in fit(QWEN, gpu(4), Wish("vllm", 8192, gpus=2)).why
    small = fit(QWEN, gpu(2, 20 * 1024), wish)
    assert (small.fits, small.device.name) == (False, "1/2 a100")
