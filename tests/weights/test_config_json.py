"""Shapes from config.json against what is published of these models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeltainer.sizing.memory import kv_bytes_per_token, sequence_bytes
from modeltainer.weights.config_json import UnknownShapeError, read_config, shape_of
from modeltainer.weights.shape import CacheLayers
from tests.weights.published import CONFIGS, PUBLISHED, Published


@pytest.mark.parametrize("known", PUBLISHED, ids=lambda known: known.name)
def test_published_figures(known: Published) -> None:
    shape = read_config(CONFIGS / f"{known.name}.json")
    assert kv_bytes_per_token(shape) == known.kv_bytes, known.source
    assert shape.parameters is not None
    # 1.5 %: cards round, and small vectors are not counted one by one.
    assert shape.parameters / 1e9 == pytest.approx(known.parameters, rel=0.015), known.source
    if known.size_bytes is not None:
        assert shape.weights_bytes == pytest.approx(known.size_bytes, rel=0.003), known.source


def test_every_fixture_is_checked() -> None:
    variants = {"qwen2.5-7b-awq"}
    assert {path.stem for path in CONFIGS.glob("*.json")} - variants == {
        known.name for known in PUBLISHED
    }


def test_jambas_cache_at_256k_is_4_gb() -> None:
    """arXiv:2403.19887, table 1."""
    shape = read_config(CONFIGS / "jamba-v0.1.json")
    assert kv_bytes_per_token(shape) * 256 * 1024 == 4 << 30
    assert shape.state_bytes


def test_llama_31_cache_at_128k() -> None:
    """Hugging Face's blog 'Llama 3.1': 15.62 and 39.06 GiB at 128 000 tokens."""
    for name, gib in (("llama-3.1-8b", 15.62), ("llama-3.1-70b", 39.06)):
        shape = read_config(CONFIGS / f"{name}.json")
        assert sequence_bytes(shape, 128_000, "vllm") / 2**30 == pytest.approx(gib, abs=0.01)


@pytest.mark.parametrize(
    ("name", "cache"),
    [
        ("gemma-2-9b", {(21, None), (21, 4096)}),
        ("gemma-3-27b", {(10, None), (52, 1024)}),
        ("gpt-oss-20b", {(12, None), (12, 128)}),
        ("mistral-7b-v0.1", {(32, 4096)}),
        ("qwen2.5-7b", {(28, None)}),
        ("qwen3-next-80b-a3b", {(12, None)}),
        ("jamba-v0.1", {(4, None)}),
    ],
)
def test_windows_and_recurrent_layers(name: str, cache: set[tuple[int, int | None]]) -> None:
    shape = read_config(CONFIGS / f"{name}.json")
    assert {(group.count, group.window) for group in shape.cache} == cache


def test_4_bit_weights() -> None:
    """Qwen2.5-7B-Instruct-AWQ's two files are 5.57 GB together."""
    shape = read_config(CONFIGS / "qwen2.5-7b-awq.json")
    assert shape.weights_bytes / 1e9 == pytest.approx(5.57, rel=0.01)
    assert shape.quantization == "awq"


def test_mla_is_one_latent_for_all_heads() -> None:
    shape = read_config(CONFIGS / "deepseek-v3.json")
    assert shape.cache == (CacheLayers(61, 576, shared=True),)
    assert shape.kind == "MLA, MoE of 256"


LLAMA = json.loads((CONFIGS / "llama-3.1-8b.json").read_text())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_hidden_layers": None}, "has no num_hidden_layers"),
        ({"hidden_size": 0}, "has no hidden_size"),
        ({"num_attention_heads": "32"}, "has no num_attention_heads"),
        ({"vocab_size": True}, "has no vocab_size"),
        ({"model_type": "bert"}, "generates no text"),
    ],
)
def test_what_is_missing_is_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(UnknownShapeError, match=says):
        shape_of({**LLAMA, **change})


@pytest.mark.parametrize("raw", [b"", b"[1]", b"{", b"[" * 100_000, b"\xff\xfe"])
def test_foreign_files(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(raw)
    with pytest.raises(UnknownShapeError):
        read_config(path)


FIELDS = sorted(
    {field for path in CONFIGS.glob("*.json") for field in json.loads(path.read_text())}
)
JUNK = (
    st.none()
    | st.booleans()
    | st.integers(-5, 2**50)
    | st.text(max_size=5)
    | st.lists(st.integers(0, 3) | st.text(max_size=3), max_size=4)
)


@given(st.dictionaries(st.sampled_from(FIELDS), JUNK))
def test_nonsense_is_refused_or_read(change: dict[str, Any]) -> None:
    try:
        shape = shape_of({**LLAMA, **change})
    except UnknownShapeError:
        return
    assert shape.weights_bytes >= 0
    assert kv_bytes_per_token(shape) >= 0
