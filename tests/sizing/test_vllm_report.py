"""KV cache and weights against what vLLM itself reports when it loads a model, on a CPU.

The models have random weights, and shapes of all kinds that sizing tells apart.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from modeltainer.sizing.memory import MIB, estimate, kv_bytes_per_token, sequence_bytes
from modeltainer.weights.config_json import read_config
from modeltainer.weights.inspect import read_path
from tests.vllm import environment

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]  # the first run installs vLLM

PROGRAMS = Path(environment.__file__).parent
CACHE_BYTES = 1 << 30
BATCHED_TOKENS = 2048
BLOCK_TOKENS = 128
"""vLLM's on a CPU."""
MODELS: dict[str, dict[str, Any]] = {
    # Half a gigabyte of grouped-query attention, with biases.
    "gqa": {
        "model_type": "qwen2",
        "vocab_size": 32000,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 12,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
    },
    # Two layers see everything, and eleven a window, which vLLM fills up to twelve.
    "windows": {
        "model_type": "gemma3_text",
        "vocab_size": 32000,
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 13,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "sliding_window": 512,
        "max_position_embeddings": 8192,
    },
    # One latent vector for all heads, and experts.
    "mla": {
        "model_type": "deepseek_v2",
        "vocab_size": 32000,
        "hidden_size": 512,
        "intermediate_size": 2048,
        "moe_intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "kv_lora_rank": 512,
        "q_lora_rank": None,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "n_routed_experts": 8,
        "n_shared_experts": 2,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
        "topk_method": "greedy",
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
    },
    # Two layers of attention, six with a state that is larger than a block, of linear attention
    "linear": {
        "model_type": "qwen3_next",
        "vocab_size": 32000,
        "hidden_size": 512,
        "intermediate_size": 1024,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "linear_num_key_heads": 4,
        "linear_num_value_heads": 8,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_conv_kernel_dim": 4,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 256,
        "shared_expert_intermediate_size": 256,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
    },
    # and of Mamba.
    "mamba": {
        "model_type": "jamba",
        "vocab_size": 32000,
        "hidden_size": 512,
        "intermediate_size": 1024,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "attn_layer_period": 4,
        "attn_layer_offset": 2,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "mamba_d_state": 16,
        "mamba_d_conv": 4,
        "mamba_expand": 2,
        "mamba_dt_rank": 32,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
    },
}


@dataclass(frozen=True)
class Report:
    """What vLLM said."""

    weights: tuple[int, ...]
    """Bytes of each worker's parameters."""
    tokens: int
    concurrency: float
    block: int
    """Tokens of a block."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder with the models; a gigabyte in all."""
    folder = tmp_path_factory.mktemp("models")
    built = environment.build()
    program = PROGRAMS / "write_random_weights.py"
    subprocess.run(
        [built / "bin" / "python", program, folder, json.dumps(MODELS)],
        check=True,
    )
    yield folder
    shutil.rmtree(folder)


def report(model: Path, context: int, **more: Any) -> Report:
    """Load a model with a gibibyte of KV cache for each worker."""
    options = {
        "max_model_len": context,
        "max_num_batched_tokens": BATCHED_TOKENS,
        "max_num_seqs": 8,
        "enforce_eager": True,
        "skip_tokenizer_init": True,
        **more,
    }
    said = subprocess.run(
        [
            environment.build() / "bin" / "python",
            PROGRAMS / "load_model.py",
            model,
            json.dumps(options),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={
            **os.environ,
            "VLLM_CPU_KVCACHE_SPACE": str(CACHE_BYTES >> 30),
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CACHE_ROOT": str(model.parent / "cache"),
            "HF_HUB_OFFLINE": "1",
            # Each worker wants a NUMA node or CPUs of its own; one alone needs no further process.
            **(
                {"VLLM_CPU_OMP_THREADS_BIND": "0|1"}
                if "tensor_parallel_size" in more
                else {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
            ),
        },
    ).stdout
    block = re.findall(r"^block: (\d+)$", said, re.MULTILINE)
    assert block, said
    tokens, served, concurrency = re.findall(
        r"CPU KV cache size: ([\d,]+) tokens, "
        r"Maximum concurrency for ([\d,]+) tokens per request: ([\d.]+)x",
        said,
    )[-1]
    assert number(served) == context
    return Report(
        tuple(int(size) for size in re.findall(r"weights: (\d+)$", said, re.MULTILINE)),
        number(tokens),
        float(concurrency),
        int(block[-1]),
    )


def number(text: str) -> int:
    return int(text.replace(",", ""))


@pytest.mark.parametrize(("name", "context"), [("gqa", 4096), ("mla", 4096)])
def test_a_token_takes_what_was_promised(models: Path, name: str, context: int) -> None:
    seen = report(models / name, context)
    shape = read_path(models / name)
    per_token = kv_bytes_per_token(shape)
    # To the byte, but for what is left of the gibibyte when it is cut into blocks.
    assert seen.tokens == CACHE_BYTES // (per_token * seen.block) * seen.block
    one = sequence_bytes(shape, context, "vllm", block_tokens=seen.block)
    assert seen.concurrency == pytest.approx(seen.tokens * per_token / one, abs=0.0051)
    # vLLM fills a vocabulary up to a multiple of 64; what is tied is there once.
    filled = -shape.vocabulary % 64 * shape.hidden * 2 * 2
    assert seen.weights == (shape.weights_bytes + filled,)
    counted = read_config(models / name / "config.json")
    assert counted.weights_bytes == pytest.approx(shape.weights_bytes, rel=1e-3)


def test_windows_and_blocks(models: Path) -> None:
    """A context that ends within a block, and is longer than window and batch together."""
    context = 4000
    seen = report(models / "windows", context)
    shape = read_path(models / "windows")
    one = sequence_bytes(
        shape, context, "vllm", in_flight_tokens=BATCHED_TOKENS, block_tokens=seen.block
    )
    block = 2 * kv_bytes_per_token(shape) // shape.layers * seen.block
    # The cache is whole blocks, of two layers each; the log has two digits.
    assert seen.concurrency == pytest.approx(CACHE_BYTES // block * block / one, abs=0.0051)
    assert seen.weights == (shape.weights_bytes,)


@pytest.mark.parametrize("name", ["linear", "mamba"])
def test_states_take_blocks(models: Path, name: str) -> None:
    context = 4096
    # Left to itself, vLLM takes float32 where the CPU has AVX512-BF16, and else the model's type.
    seen = report(models / name, context, mamba_ssm_cache_dtype="float32")
    shape = read_path(models / name)
    assert shape.recurrent == 6
    one = sequence_bytes(shape, context, "vllm", block_tokens=BLOCK_TOKENS)
    # What is left of the gibibyte is less than a block, of which there are more than 900.
    assert seen.concurrency == pytest.approx(CACHE_BYTES / one, rel=1 / 900)
    # A few vectors of the recurrence are in float32, whatever the file has.
    assert seen.weights == pytest.approx((shape.weights_bytes,), rel=2e-3)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two workers need two CPUs")
def test_two_workers_hold_a_half_each(models: Path) -> None:
    context = 4096
    seen = report(models / "gqa", context, tensor_parallel_size=2)
    shape = read_path(models / "gqa")
    ours = estimate(shape, engine="vllm", context=context, concurrency=1, tensor=2, gpu=False)
    blocks = seen.tokens // seen.block
    assert seen.concurrency == pytest.approx(
        CACHE_BYTES / MIB / ours.per_sequence_mib, rel=1 / blocks, abs=0.0051
    )
    # Norms are on each of them.
    each = [size / MIB for size in seen.weights]
    assert each == pytest.approx([ours.weights_mib] * 2, rel=1e-3)
