"""What layers with a sliding window or a state take in vLLM's cache on a GPU.

The rules are those of vLLM 0.32: ``SlidingWindowSpec`` and ``MambaSpec``
(v1/kv_cache_interface.py), ``max_concurrent_batches`` (config/vllm.py), ``get_batch_defaults``
(engine/arg_utils.py), and the blocks of hybrid models in platforms/interface.py.
"""

from __future__ import annotations

import pytest

from modeltainer.sizing.memory import MIB, estimate, vllm_batched_tokens, vllm_max_sequences
from modeltainer.weights.inspect import read_path
from tests.weights.published import CONFIGS

GEMMA = read_path(CONFIGS / "gemma-3-27b.json")
"""10 layers that see everything and 52 with a window of 1024; 16 KV heads of 128."""
LAYER_BYTES = 2 * 16 * 128 * 2
"""Of a token."""


@pytest.mark.parametrize(
    ("pipeline", "gpu", "batches"), [(1, True, 2), (2, True, 3), (1, False, 1), (2, False, 2)]
)
def test_room_for_the_batches_in_work(pipeline: int, gpu: bool, batches: int) -> None:
    """One in each stage, and on GPUs the next, which is scheduled while they compute."""
    sized = estimate(
        GEMMA,
        engine="vllm",
        context=65536,
        concurrency=1,
        pipeline=pipeline,
        gpu=gpu,
        batched_tokens=8192,
    )
    window = 1024 + batches * 8192 + 16  # 1023 to the next block, and one block more
    # 52 layers are six pages of ten, one of which is not full.
    whole = LAYER_BYTES * (10 * 65536 + 60 * window)
    assert sized.per_sequence_mib == pytest.approx(whole / pipeline / MIB)


def test_a_context_within_the_window_is_whole_and_a_block() -> None:
    sized = estimate(GEMMA, engine="vllm", context=1000, concurrency=1)
    assert sized.per_sequence_mib == pytest.approx(LAYER_BYTES * (10 * 1008 + 60 * 1024) / MIB)


@pytest.mark.parametrize(("tensor", "tokens"), [(1, 1056), (2, 1056), (4, 528)])
def test_a_state_takes_blocks(tensor: int, tokens: int) -> None:
    """Qwen3-Next: 12 layers of attention with 2 KV heads of 256, 36 with a state of 2.05 MiB."""
    shape = read_path(CONFIGS / "qwen3-next-80b-a3b.json")
    sized = estimate(shape, engine="vllm", context=8192, concurrency=1, tensor=tensor)
    # From two GPUs on each has one KV head; the states go on being shared out.
    block_bytes = tokens * 2 * max(2 // tensor, 1) * 256 * 2
    blocks = 12 * -(-8192 // tokens) + 36 * 2
    assert sized.per_sequence_mib == pytest.approx(blocks * block_bytes / MIB)


@pytest.mark.parametrize(
    ("name", "memory_gib", "tokens", "sequences"),
    [
        ("l40s", 45, 2048, 256),
        ("a100_80gb", 79, 2048, 256),
        ("h200", 140, 8192, 1024),
        ("b200", 178, 16384, 1024),
    ],
)
def test_batches_grow_with_the_gpu(name: str, memory_gib: int, tokens: int, sequences: int) -> None:
    assert vllm_batched_tokens(name, memory_gib * 1024) == tokens
    assert vllm_max_sequences(name, memory_gib * 1024) == sequences
