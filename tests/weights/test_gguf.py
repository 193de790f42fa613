"""GGUF headers against the format's own library."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGUFReader, GGUFWriter
from hypothesis import given, settings
from hypothesis import strategies as st

from modeltainer.weights.gguf import BadGgufError, Tensor, read_header
from tests.tiny_gguf import write_tiny_gguf


def test_the_header_agrees_with_the_library(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf")
    header, reference = read_header(path), GGUFReader(path)
    assert header.metadata["general.architecture"] == "llama"
    assert header.metadata["llama.block_count"] == 2
    assert header.data_offset == reference.data_offset
    assert {(t.name, t.size_bytes) for t in header.tensors} == {
        (t.name, t.n_bytes) for t in reference.tensors
    }
    assert header.needed_bytes <= path.stat().st_size


def test_block_sizes_agree_with_the_library() -> None:
    for kind, (elements, size) in GGML_QUANT_SIZES.items():
        ours = Tensor("t", (elements,), int(kind), 0).size_bytes
        assert ours in {size, None}, kind


@settings(max_examples=25)
@given(
    st.dictionaries(st.from_regex(r"[a-z]{1,9}\.[a-z]{1,9}", fullmatch=True), st.text(min_size=1))
)
def test_any_metadata_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, pairs: dict[str, str]
) -> None:
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    writer = GGUFWriter(str(path), "llama")
    for key, value in pairs.items():
        if key not in writer.kv_data[0]:
            writer.add_string(key, value)
    writer.add_tensor("t", np.zeros(8, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    metadata = read_header(path).metadata
    assert all(metadata[key] == value for key, value in pairs.items() if key in metadata)
    assert set(pairs) <= set(metadata)


@given(st.binary(max_size=400))
def test_foreign_files_are_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "foreign.gguf"
    path.write_bytes(raw)
    with pytest.raises(BadGgufError):
        read_header(path)
    path.write_bytes(b"GGUF\3\0\0\0" + raw)
    with contextlib.suppress(BadGgufError):  # any other exception is a fault
        read_header(path)
