"""The cheat-sheet of docs/sizing.md: ``python -m modeltainer.sizing.cheatsheet > docs/sizing.md``.

Shapes of well-known models, kept here as their config.json's fields, against known devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modeltainer.hpc.mig import PROFILES
from modeltainer.sizing.devices import known
from modeltainer.sizing.fit import Wish, best, fits, legal_tensor, utilization
from modeltainer.sizing.memory import kv_bytes_per_token
from modeltainer.weights.config_json import shape_of
from modeltainer.weights.shape import ModelShape


def _dense(  # noqa: PLR0917 (one line a model, in config.json's order)
    kind: str,
    layers: int,
    hidden: int,
    heads: int,
    kv: int,
    inner: int,
    vocabulary: int,
    **more: Any,
) -> Mapping[str, Any]:
    return {
        "model_type": kind,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
        "torch_dtype": "bfloat16",
        "tie_word_embeddings": False,
        **more,
    }


_AWQ = {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}}
_MXFP4 = {"quantization_config": {"quant_method": "mxfp4"}}

MODELS: Mapping[str, Mapping[str, Any]] = {
    "Qwen2.5-7B": _dense("qwen2", 28, 3584, 28, 4, 18944, 152064),
    "Qwen2.5-7B AWQ": _dense("qwen2", 28, 3584, 28, 4, 18944, 152064, **_AWQ),
    "Llama-3.1-8B": _dense("llama", 32, 4096, 32, 8, 14336, 128256),
    "Qwen3-8B": _dense("qwen3", 36, 4096, 32, 8, 12288, 151936, head_dim=128),
    "gpt-oss-20b": _dense(
        "gpt_oss",
        24,
        2880,
        64,
        8,
        2880,
        201088,
        head_dim=64,
        sliding_window=128,
        num_local_experts=32,
        **_MXFP4,
    ),
    "Qwen3-30B-A3B": _dense(
        "qwen3_moe",
        48,
        2048,
        32,
        4,
        6144,
        151936,
        head_dim=128,
        moe_intermediate_size=768,
        num_experts=128,
    ),
    "Mixtral-8x7B": _dense("mixtral", 32, 4096, 32, 8, 14336, 32000, num_local_experts=8),
    "Llama-3.1-70B": _dense("llama", 80, 8192, 64, 8, 28672, 128256),
    "Llama-3.1-70B AWQ": _dense("llama", 80, 8192, 64, 8, 28672, 128256, **_AWQ),
}
CONTEXT, CONCURRENCY = 8192, 8


def cheatsheet() -> str:
    """The whole page, as Markdown."""
    shapes = {name: shape_of(config) for name, config in MODELS.items()}
    lines = [
        "# Sizing",
        "",
        "`mt-submit size MODEL` answers for your model and your cluster: which GPU or MIG slice "
        "holds it, how many of them, with which engine flags, and why not the others. `mt-submit "
        "up` does the same when `resources.gpus` and `resources.gpu_memory` are left out and the "
        "weights (or their `config.json`) are at hand; `--explain` prints what it found.",
        "",
        "```",
        "mt-submit size qwen2.5-7b --context 32768 --concurrency 16   # this cluster's GPUs",
        "mt-submit size ./config.json --any-gpu                       # common GPUs and slices",
        "mt-submit size ./model.gguf --json",
        "```",
        "",
        "The model is a name in models.yaml, a folder, a `config.json`, a `.gguf`, or a hub id "
        "that is already in the Hugging Face cache. Nothing is downloaded.",
        "",
        "This page is printed by `python -m modeltainer.sizing.cheatsheet`.",
        "",
        f"## What holds what, at {CONCURRENCY} sequences of {CONTEXT} tokens (vLLM)",
        "",
        "Weights and KV cache are exact; 1 to 3 GiB of activations and overhead are an estimate.",
        "",
        *_table(
            (
                "Model",
                "Weights, GB",
                "KV cache, KiB/token",
                "Smallest slice",
                "Smallest whole GPUs",
            ),
            [_model_row(name, shape) for name, shape in shapes.items()],
        ),
        "",
        "## Tensor parallel sizes that go",
        "",
        "vLLM needs the attention heads divisible by it, and the KV heads to divide it or be "
        "divided by it. Several MIG slices never work on one model together: NCCL does not cross "
        "them.",
        "",
        *_table(
            ("Model", "Heads", "KV heads", "Sizes up to 16"),
            [
                (
                    name,
                    str(shape.heads),
                    str(shape.kv_heads),
                    ", ".join(map(str, legal_tensor(shape, 16))),
                )
                for name, shape in shapes.items()
            ],
        ),
        "",
        "## MIG slices and what they really hold",
        "",
        "A name overstates: the memory is what the driver lists (`nvidia-smi mig -lgip`); an "
        "asterisk marks those computed from the slice's fraction of the GPU. vLLM takes its share "
        "of the slice, and `mt-submit` sets `--gpu-memory-utilization` so that the CUDA context "
        "fits beside it, unless `engine_args` gives one.",
        "",
        *_table(
            ("GPU", "Profile", "GiB", "Per GPU", "--gpu-memory-utilization"),
            [
                (
                    one.gpu,
                    one.name,
                    f"{one.memory_mib / 1024:.2f}{'' if one.listed else ' *'}",
                    str(one.instances),
                    f"{utilization(one.memory_mib):.2f}",
                )
                for one in PROFILES
            ],
        ),
        "",
        'Source of the profiles: NVIDIA MIG User Guide, "Supported MIG Profiles". Nothing on this '
        "page was measured on a GPU: weights and KV caches are checked against published figures "
        "and against llama.cpp's own report on a CPU.",
    ]
    return "\n".join(lines) + "\n"


def _model_row(name: str, shape: ModelShape) -> tuple[str, ...]:
    answers = fits(shape, known(), Wish("vllm", CONTEXT, CONCURRENCY))
    piece = best([one for one in answers if one.device.is_slice])
    whole = best(answers, slices=False)
    return (
        name,
        f"{shape.weights_bytes / 1e9:.1f}",
        f"{kv_bytes_per_token(shape) / 1024:.4g}",
        piece.device.name if piece else "none",
        f"{whole.gpus} x {whole.device.name}" if whole else "none",
    )


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


if __name__ == "__main__":
    print(cheatsheet(), end="")
