"""safetensors headers: sizes, shards, and files that are none."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeltainer.weights.hub_cache import hub_folders
from modeltainer.weights.inspect import NoWeightsError, read_hub, read_path
from modeltainer.weights.safetensors import BadSafetensorsError, read_file, read_folder
from tests.weights.published import CONFIGS


def write(path: Path, tensors: dict[str, tuple[str, list[int], int]]) -> Path:
    """A file in the format's own layout; the last of the three is the size in bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(at))
    return path


def test_one_file(tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", {"a": ("BF16", [4, 8], 64), "b": ("F8_E4M3", [8], 8)})
    weights = read_folder(tmp_path)
    assert weights is not None
    assert (weights.size_bytes, weights.elements, weights.files) == (72, 40, 1)
    assert weights.dtypes == ("BF16", "F8_E4M3")


def test_the_index_decides_which_files_count(tmp_path: Path) -> None:
    write(tmp_path / "model-00001-of-00002.safetensors", {"a": ("BF16", [4], 8)})
    write(tmp_path / "model-00002-of-00002.safetensors", {"b": ("F32", [4], 16)})
    write(tmp_path / "consolidated.safetensors", {"a": ("BF16", [400], 800)})
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    weights = read_folder(tmp_path)
    assert weights is not None
    assert (weights.size_bytes, weights.files) == (24, 2)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(BadSafetensorsError, match="is not there"):
        read_folder(tmp_path)


def test_an_index_may_not_point_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../x"}}')
    with pytest.raises(BadSafetensorsError, match="outside its folder"):
        read_folder(tmp_path)


def test_a_cut_off_download_is_seen(tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", {"a": ("BF16", [400], 800)})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadSafetensorsError, match="cut off"):
        read_file(path)


@given(st.binary(max_size=300).filter(lambda raw: raw[:1] != b"{"), st.booleans())
def test_foreign_files_are_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes, sized: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "foreign.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw)) + raw if sized else raw)
    with pytest.raises(BadSafetensorsError, match=r"foreign\.safetensors"):
        read_file(path)


KEYS = st.sampled_from(["dtype", "shape", "data_offsets", "a"])


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=4),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
        max_leaves=12,
    )
)
def test_a_tensor_of_any_shape_is_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, described: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "odd.safetensors"
    raw = json.dumps({"t": described}).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw)
    try:
        tensors = read_file(path)
    except BadSafetensorsError:
        return
    assert set(tensors) == {"t"}


def test_the_headers_are_exact_where_the_configuration_only_counts(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((CONFIGS / "llama-3.1-8b.json").read_bytes())
    assert read_path(tmp_path).weights_from == "counted from config.json"
    write(tmp_path / "model.safetensors", {"a": ("BF16", [1000], 2000)})
    shape = read_path(tmp_path)
    assert (shape.weights_bytes, shape.weights_from) == (2000, "the safetensors headers")


def test_a_hub_id_is_found_in_the_cache(tmp_path: Path) -> None:
    """Layout as huggingface_hub writes it."""
    root = tmp_path / "hub" / "models--org--name"
    commit = "0123456789abcdef"
    snapshot = root / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)
    (root / "blobs").mkdir()
    (root / "blobs" / "x").write_bytes((CONFIGS / "qwen2.5-7b.json").read_bytes())
    (snapshot / "config.json").symlink_to("../../blobs/x")
    folders = hub_folders({"HF_HOME": str(tmp_path), "HOME": "/nowhere"})
    assert read_hub("org/name", folders=folders).architecture == "qwen2"
    assert read_hub("org/name", revision=commit, folders=folders).layers == 28
    with pytest.raises(NoWeightsError, match="hf download"):
        read_hub("org/name", revision="v2", folders=folders)


@pytest.mark.parametrize("make", ["missing", "empty", "two"])
def test_what_is_no_model(tmp_path: Path, make: str) -> None:
    path = tmp_path / "m"
    if make != "missing":
        path.mkdir()
    if make == "two":
        (path / "a.gguf").touch()
        (path / "b.gguf").touch()
    with pytest.raises(NoWeightsError) as refused:
        read_path(path)
    expected = {"missing": "does not exist", "empty": "neither", "two": "name one of them"}
    assert expected[make] in str(refused.value)
