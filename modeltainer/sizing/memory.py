"""Memory of one model on each of its GPUs: weights, KV cache, activations, overhead.

Weights, KV cache and state are exact (tests hold them against published figures and against what
llama-server and vLLM report). The rest is an estimate on the safe side, from:

- CUDA context and libraries: 0.5 GiB per process; NCCL's buffers 0.5 GiB more per GPU when several
  work together; CUDA graphs 0.5 GiB (vLLM logs the true figures as "non-torch forward increase"
  and "CUDA graph pool memory").
- vLLM's activations: its profile run sends ``max_num_batched_tokens`` tokens through one layer,
  and samples for ``max_num_seqs`` sequences from float32 logits (gpu_model_runner.profile_run).
- llama.cpp's compute buffer: up to ``n_ubatch`` (512) rows of float32 logits and the layer's
  intermediates (ggml_gallocr; newer versions take less).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from modeltainer.weights.shape import CacheLayers, ModelShape

EngineName = Literal["vllm", "llamacpp"]
MIB = 1024 * 1024

CUDA_CONTEXT_MIB = 512
CUDA_GRAPHS_MIB = 512
NCCL_MIB = 512
VLLM_BATCHED_TOKENS = 2048
"""vLLM's default ``max_num_batched_tokens`` of its server on most GPUs."""
VLLM_BATCHED_TOKENS_LARGE = 8192
"""The same on a GPU of 70 GiB or more that is no A100 (vllm/engine/arg_utils.py,
get_batch_defaults, as of 0.22.1)."""
VLLM_BATCHED_TOKENS_LARGEST = 16384
"""The same on a GPU of 160 GiB or more (there, as of 0.32)."""
VLLM_MAX_SEQUENCES = 256
VLLM_MAX_SEQUENCES_LARGE = 1024
"""The same on a GPU of 70 GiB or more that is no A100 (there, as of 0.32)."""
VLLM_BLOCK_TOKENS = 16
"""Tokens of a block of vLLM's KV cache on a GPU (vllm/config/cache.py, DEFAULT_BLOCK_SIZE; a few
attention backends take more). On a CPU it is 128, and 16 with MLA (vllm/platforms/cpu.py)."""
LLAMACPP_UBATCH = 512
LLAMACPP_PADDING = 256
"""Cells of llama.cpp's window cache are a multiple of this (llama_kv_cache_iswa)."""


@dataclass(frozen=True)
class Estimate:
    """What one GPU or slice must hold, in MiB, when a model is split ``tensor`` x ``pipeline``."""

    weights_mib: float
    kv_mib: float
    """Of all concurrent sequences at full context, with recurrent states."""
    activations_mib: float
    overhead_mib: float
    per_sequence_mib: float
    """KV cache and state of one sequence at full context."""
    kv_bytes_per_token: int
    """On all GPUs together, of a token that every layer still keeps."""

    @property
    def total_mib(self) -> float:
        return self.weights_mib + self.kv_mib + self.activations_mib + self.overhead_mib

    @property
    def fixed_mib(self) -> float:
        """All but the KV cache."""
        return self.total_mib - self.kv_mib


def kv_bytes_per_token(shape: ModelShape, *, element_bytes: float = 2) -> int:
    """Bytes that one more token takes in the KV cache of a short sequence, all layers together."""
    values = sum(group.count * group.values_per_token for group in shape.cache)
    return int(values * element_bytes)


def vllm_batched_tokens(name: str, memory_mib: int) -> int:
    """vLLM's own ``max_num_batched_tokens`` on a whole GPU of this name and memory."""
    if memory_mib >= 160 * 1024:
        return VLLM_BATCHED_TOKENS_LARGEST
    large = memory_mib >= 70 * 1024 and "a100" not in name.lower()
    return VLLM_BATCHED_TOKENS_LARGE if large else VLLM_BATCHED_TOKENS


def vllm_max_sequences(name: str, memory_mib: int) -> int:
    """vLLM's own ``max_num_seqs`` on a whole GPU of this name and memory."""
    large = vllm_batched_tokens(name, memory_mib) > VLLM_BATCHED_TOKENS
    return VLLM_MAX_SEQUENCES_LARGE if large else VLLM_MAX_SEQUENCES


def sequence_bytes(
    shape: ModelShape,
    context: int,
    engine: EngineName,
    *,
    element_bytes: float = 2,
    tensor: int = 1,
    in_flight_tokens: int = 2 * VLLM_BATCHED_TOKENS,
    block_tokens: int = VLLM_BLOCK_TOKENS,
) -> int:
    """KV cache and states of one sequence of ``context`` tokens on each of ``tensor`` GPUs.

    A layer with a sliding window keeps the window and the batches in work: vLLM ``window - 1 +
    in_flight_tokens`` (SlidingWindowSpec), llama.cpp ``window + n_ubatch``, padded.

    Args:
        in_flight_tokens: of vLLM's batches that are in work at the same time.
        block_tokens: vLLM's; a sequence takes whole blocks.
    """
    counts = [group.count for group in shape.cache]
    token_bytes = [
        group.values_per_token
        * element_bytes
        * (1 if group.shared else max(1 / tensor, 1 / shape.kv_heads))
        for group in shape.cache
    ]
    states = shape.state_bytes / tensor
    if engine == "vllm":
        *counts, recurrent = _filled_up([*counts, shape.recurrent])
        if recurrent and token_bytes:
            # A state takes as much as a block of attention, which grows until it is as large
            # (vllm/platforms/interface.py), and the last one is kept to begin the next prefix with
            # (MambaSpec, mamba_cache_mode "align", which comes with prefix caching).
            state = states / shape.recurrent
            block_tokens *= math.ceil(state / (token_bytes[0] * block_tokens))
            states = 2 * recurrent * token_bytes[0] * block_tokens
    kept = (_kept(one, context, engine, in_flight_tokens, block_tokens) for one in shape.cache)
    return int(states + sum(a * b * c for a, b, c in zip(counts, token_bytes, kept, strict=True)))


def estimate(
    shape: ModelShape,
    *,
    engine: EngineName,
    context: int,
    concurrency: int,
    tensor: int = 1,
    pipeline: int = 1,
    element_bytes: float = 2,
    gpu: bool = True,
    batched_tokens: int = VLLM_BATCHED_TOKENS,
    max_sequences: int = VLLM_MAX_SEQUENCES,
) -> Estimate:
    """Memory per GPU.

    Args:
        context: tokens of one sequence, prompt and answer together.
        concurrency: sequences of that length at once.
        tensor: GPUs that share each layer. KV heads are shared out too, but each GPU has at least
            one; MLA's latent is on each of them.
        pipeline: groups of GPUs that share the layers out.
        element_bytes: of the KV cache; 1 for fp8 (or q8_0, nearly).
        gpu: False leaves the CUDA context and graphs out.
        batched_tokens: vLLM's ``max_num_batched_tokens``.
        max_sequences: vLLM's ``max_num_seqs``.
    """
    # A pipeline has a batch in each of its stages, and asynchronous scheduling, which GPUs have,
    # one more (vllm/config/vllm.py, max_concurrent_batches, 0.32).
    in_flight = batched_tokens * (pipeline + 1 if gpu else pipeline)
    one = sequence_bytes(
        shape,
        context,
        engine,
        element_bytes=element_bytes,
        tensor=tensor,
        in_flight_tokens=in_flight,
    )
    per_sequence = one / pipeline / MIB
    overhead = (CUDA_CONTEXT_MIB if gpu else 0) + (NCCL_MIB if tensor * pipeline > 1 else 0)
    if engine == "vllm" and gpu:
        overhead += CUDA_GRAPHS_MIB
    return Estimate(
        weights_mib=shape.weights_bytes / tensor / pipeline / MIB,
        kv_mib=per_sequence * concurrency,
        activations_mib=_activations_mib(
            shape, engine, tensor, max(max_sequences, concurrency), batched_tokens
        ),
        overhead_mib=overhead,
        per_sequence_mib=per_sequence,
        kv_bytes_per_token=kv_bytes_per_token(shape, element_bytes=element_bytes),
    )


def _filled_up(counts: list[int]) -> list[int]:
    """Layers of each kind as vLLM's cache counts them: its pages hold the same number of either
    kind, so Gemma 3's 10 and 52 are taken for 10 and 60 (``_get_kv_cache_groups_uniform_page_size``
    in vllm/v1/core/kv_cache_utils.py)."""
    some = [count for count in counts if count]
    fewest, most = min(some, default=1), max(some, default=1)
    page = most if most < fewest * 1.5 else fewest
    return [-(-count // page) * page for count in counts]


def _kept(
    group: CacheLayers, context: int, engine: EngineName, in_flight_tokens: int, block_tokens: int
) -> int:
    """Tokens of one sequence that a layer has room for."""
    if engine == "llamacpp":
        if group.window is None:
            return context
        cells = group.window + LLAMACPP_UBATCH
        return min(context, -(-cells // LLAMACPP_PADDING) * LLAMACPP_PADDING)
    if group.window is None:
        return -(-context // block_tokens) * block_tokens
    tokens = min(context, group.window - 1 + in_flight_tokens)
    # One block more, since the window may begin within one (SlidingWindowSpec).
    return (-(-tokens // block_tokens) + 1) * block_tokens


def _activations_mib(
    shape: ModelShape, engine: EngineName, tensor: int, sequences: int, batched_tokens: int
) -> float:
    if engine == "llamacpp":
        rows = LLAMACPP_UBATCH * (shape.vocabulary + 2 * shape.intermediate + 4 * shape.hidden)
        return rows * 4 / MIB
    layer = batched_tokens * (4 * shape.hidden + 3 * shape.intermediate / tensor) * 2
    # The sampler works on float32 logits and a sorted copy.
    sampled = sequences * shape.vocabulary * 4 * 2
    return (layer + sampled) / MIB
