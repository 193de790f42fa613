"""Published figures of known models, and where they are published."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CONFIGS = Path(__file__).parent / "configs"
"""The models' config.json, cut down to the fields that size and parallelism depend on."""


@dataclass(frozen=True)
class Published:
    """Figures of one model."""

    name: str
    kv_bytes: int
    """Per token at 16 bits, all layers."""
    parameters: float
    """In billions, with so many digits as published."""
    source: str
    size_bytes: int | None = None
    """Of the published files (``metadata.total_size`` of the index), where known."""


PUBLISHED = (
    Published(
        "llama-3.1-8b",
        131072,
        8.03,
        "Hugging Face blog 'Llama 3.1' (15.62 GiB at 128 000 tokens); model.safetensors.index.json",
        16060522496,
    ),
    Published(
        "llama-3.1-70b",
        327680,
        70.6,
        "the same blog (39.06 GiB at 128 000 tokens); index",
        141107412992,
    ),
    Published(
        "llama-3.1-405b", 516096, 405.9, "arXiv:2505.09343, table 1 (516.096 KB); model card"
    ),
    Published("qwen2.5-7b", 57344, 7.61, "model card: 7.61 B, 28 layers, 4 KV heads", 15231233024),
    Published("qwen2.5-72b", 327680, 72.7, "arXiv:2505.09343, table 1 (327.680 KB); model card"),
    Published("qwen3-8b", 147456, 8.2, "model card: 8.2 B, 36 layers, 8 KV heads"),
    Published("qwen3-30b-a3b", 98304, 30.5, "model card: 30.5 B, 48 layers, 4 KV heads"),
    Published(
        "qwen3-next-80b-a3b",
        24576,
        80.0,
        "model card: 80 B, 12 of 48 layers with attention, 2 KV heads of 256",
    ),
    Published("mistral-7b-v0.1", 131072, 7.24, "arXiv:2310.06825, table 1; index", 14483464192),
    Published(
        "mixtral-8x7b", 131072, 46.7, "mistral.ai 'Mixtral of experts': 46.7 B; index", 93405585408
    ),
    Published(
        "gemma-2-9b", 344064, 9.24, "arXiv:2408.00118, tables 1 and 2: 42 layers, 8 KV heads of 256"
    ),
    Published(
        "gemma-3-27b", 507904, 27.0, "arXiv:2503.19786, table 1: 1 416 M + 25 600 M without vision"
    ),
    Published(
        "phi-3-mini-4k",
        393216,
        3.82,
        "arXiv:2404.14219: 3.8 B, 32 heads of 96, 32 layers; index",
        7642159104,
    ),
    Published("falcon-7b", 8192, 6.92, "arXiv:2311.16867; 71 heads of 64, multi-query"),
    Published(
        "gpt-oss-20b",
        49152,
        20.91,
        "arXiv:2508.10925, table 1: 20.91 B, 12.8 GiB",
        int(12.8 * 2**30),
    ),
    Published(
        "gpt-oss-120b",
        73728,
        116.83,
        "arXiv:2508.10925, table 1: 116.83 B, 60.8 GiB",
        int(60.8 * 2**30),
    ),
    Published(
        "deepseek-v3",
        70272,
        671.0,
        "arXiv:2505.09343, table 1 (70.272 KB); arXiv:2412.19437: 671 B",
    ),
    Published(
        "deepseek-v2-lite", 31104, 15.7, "arXiv:2405.04434, appendix B: 15.7 B, latent 512 + 64"
    ),
    Published(
        "jamba-v0.1",
        16384,
        52.0,
        "arXiv:2403.19887, table 1: 52 B, 4 GB of KV cache at 256 K tokens",
    ),
)
