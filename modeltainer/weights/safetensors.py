"""Headers of safetensors files: how many bytes the weights take, without reading them.

Format: README.md of huggingface/safetensors: eight bytes with the header's length
(little-endian), then that much JSON: ``{name: {dtype, shape, data_offsets: [begin, end]}}``.
A sharded model has ``model.safetensors.index.json`` with ``weight_map`` (tensor to file).
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_HEADER_BYTES = 100_000_000
"""The format's own limit (safetensors/src/tensor.rs, MAX_HEADER_SIZE)."""
MAX_INDEX_BYTES = 64_000_000
INDEX = "model.safetensors.index.json"

_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Bits of an element by its dtype's name (safetensors/src/tensor.rs, ``Dtype::bitsize``)."""


class BadSafetensorsError(ValueError):
    """Not a safetensors file, damaged, or cut off; the message says which."""


@dataclass(frozen=True)
class Weights:
    """What the headers of a model's files add up to."""

    size_bytes: int
    elements: int
    """Stored elements; a packed 4-bit weight counts as the integers it is packed into."""
    dtypes: tuple[str, ...]
    """Those that occur, the one with the most bytes first."""
    files: int


def read_file(path: Path) -> dict[str, tuple[str, int, int]]:
    """Tensors of one file: name to dtype, elements and bytes.

    Raises:
        BadSafetensorsError: damaged, or shorter than its header says.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise BadSafetensorsError(f"{path.name} has {size} bytes, too few for safetensors")
        (length,) = struct.unpack("<Q", start)
        if length > min(MAX_HEADER_BYTES, size - 8):
            raise BadSafetensorsError(
                f"{path.name} is no safetensors file, or cut off in its header"
            )
        raw = file.read(length)
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadSafetensorsError(f"{path.name} has a header that is not JSON") from error
    if not isinstance(header, dict):
        raise BadSafetensorsError(f"{path.name} has a header that is no object")
    tensors = {
        name: _tensor(path, name, value) for name, value in header.items() if name[:2] != "__"
    }
    ends = [int(value["data_offsets"][1]) for name, value in header.items() if name[:2] != "__"]
    needed = 8 + length + max(ends, default=0)
    if needed > size:
        raise BadSafetensorsError(f"{path.name} is cut off: {size} bytes of {needed}")
    return tensors


def _tensor(path: Path, name: str, value: Any) -> tuple[str, int, int]:
    try:
        begin, end = (int(at) for at in value["data_offsets"])
        elements = 1
        for extent in value["shape"]:
            elements *= int(extent)
        dtype = str(value["dtype"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadSafetensorsError(f"{path.name}: tensor {name!r} is not described") from error
    bits = _BITS.get(dtype)
    if not 0 <= begin <= end or (bits is not None and elements * bits > (end - begin + 1) * 8):
        raise BadSafetensorsError(f"{path.name}: tensor {name!r} does not fit its place")
    return dtype, elements, end - begin


def read_folder(folder: Path) -> Weights | None:
    """All weights of a model's folder; None when it has no safetensors.

    The index decides which files count, so that a second copy (``consolidated.safetensors``, as
    Mistral ships one) is not counted too.

    Raises:
        BadSafetensorsError: a file is damaged, or one that the index names is not there.
        OSError: a file cannot be read.
    """
    files = weight_files(folder)
    if not files:
        return None
    by_dtype: dict[str, int] = {}
    elements = 0
    for path in files:
        if not path.exists():
            raise BadSafetensorsError(f"{path.name} is named by {INDEX}, but is not there")
        for dtype, count, size in read_file(path).values():
            by_dtype[dtype] = by_dtype.get(dtype, 0) + size
            elements += count
    order = sorted(by_dtype, key=lambda dtype: -by_dtype[dtype])
    return Weights(sum(by_dtype.values()), elements, tuple(order), len(files))


def weight_files(folder: Path) -> list[Path]:
    """The files that have a model's weights, there or not.

    Raises:
        BadSafetensorsError: its index cannot be used.
        OSError: it cannot be read.
    """
    index = folder / INDEX
    if index.exists():
        if index.stat().st_size > MAX_INDEX_BYTES:
            raise BadSafetensorsError(f"{INDEX} is too large to be one")
        try:
            names = set(json.loads(index.read_bytes())["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadSafetensorsError(f"{INDEX} has no weight_map") from error
        if not all(isinstance(name, str) and "/" not in name for name in names):
            raise BadSafetensorsError(f"{INDEX} names files outside its folder")
        return [folder / name for name in sorted(names)]
    found = sorted(folder.glob("*.safetensors"))
    model = [path for path in found if path.name.startswith("model")]
    return model or found
