"""The header of a GGUF file: is it whole, and what is in it.

Format: docs/gguf.md of ggml-org/ggml (versions 2 and 3, little-endian). Only the header is read,
so a file of many gigabytes is checked in milliseconds, before a job queues for it.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAX_COUNT = 10_000_000
MAX_NESTING = 4
MAX_KEPT = 4096
"""Longest array of numbers that is kept: one per layer, not one per token."""

_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9

# Block length in elements and block size in bytes per tensor type (ggml/src/ggml.c, type_traits).
_BLOCKS: dict[int, tuple[int, int]] = {
    0: (1, 4),  # F32
    1: (1, 2),  # F16
    2: (32, 18),  # Q4_0
    3: (32, 20),  # Q4_1
    6: (32, 22),  # Q5_0
    7: (32, 24),  # Q5_1
    8: (32, 34),  # Q8_0
    10: (256, 84),  # Q2_K
    11: (256, 110),  # Q3_K
    12: (256, 144),  # Q4_K
    13: (256, 176),  # Q5_K
    14: (256, 210),  # Q6_K
    15: (256, 292),  # Q8_K
    16: (256, 66),  # IQ2_XXS
    17: (256, 74),  # IQ2_XS
    18: (256, 98),  # IQ3_XXS
    19: (256, 50),  # IQ1_S
    20: (32, 18),  # IQ4_NL
    21: (256, 110),  # IQ3_S
    22: (256, 82),  # IQ2_S
    23: (256, 136),  # IQ4_XS
    24: (1, 1),  # I8
    25: (1, 2),  # I16
    26: (1, 4),  # I32
    27: (1, 8),  # I64
    28: (1, 8),  # F64
    29: (256, 56),  # IQ1_M
    30: (1, 2),  # BF16
    34: (256, 54),  # TQ1_0
    35: (256, 66),  # TQ2_0
    39: (32, 17),  # MXFP4
}


class BadGgufError(ValueError):
    """Not a GGUF file, damaged, or cut off; the message says which."""


@dataclass(frozen=True)
class Tensor:
    """One tensor as the header describes it."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int
    """From the start of the data, in bytes."""

    @property
    def size_bytes(self) -> int | None:
        """None for a tensor type this version does not know."""
        block = _BLOCKS.get(self.type)
        if block is None:
            return None
        elements = 1
        for extent in self.shape:
            elements *= extent
        return elements // block[0] * block[1]


@dataclass(frozen=True)
class GgufHeader:
    """What the header says."""

    version: int
    metadata: dict[str, Any] = field(default_factory=dict)
    """Scalars and text; an array is given by its length only (vocabularies are large)."""
    tensors: tuple[Tensor, ...] = ()
    data_offset: int = 0
    arrays: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """Short arrays of numbers (one value per layer), which :attr:`metadata` gives the length of."""

    @property
    def needed_bytes(self) -> int:
        """How long the file must be at least."""
        ends = [tensor.offset + (tensor.size_bytes or 0) for tensor in self.tensors]
        return self.data_offset + max(ends, default=0)


def read_header(path: Path) -> GgufHeader:
    """Read and check one file.

    Raises:
        BadGgufError: no GGUF, an unknown version, damaged, or shorter than its tensors need.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        if size < 24:
            raise BadGgufError(f"it has {size} bytes, too few for a GGUF file")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            header = _parse(_Cursor(data, size))
    if header.needed_bytes > size:
        raise BadGgufError(
            f"it is cut off: {size} bytes, but its tensors need {header.needed_bytes}"
        )
    return header


class _Cursor:
    def __init__(self, data: mmap.mmap, size: int) -> None:
        self._data, self._size, self.at = data, size, 0
        self.kept: tuple[Any, ...] | None = None

    def take(self, count: int) -> bytes:
        if count > self._size - self.at:
            raise BadGgufError("it is cut off within its header")
        self.at += count
        return self._data[self.at - count : self.at]

    def number(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self.take(struct.calcsize(form)))[0]

    def count(self) -> int:
        value: int = self.number("Q")
        if value > MAX_COUNT:
            raise BadGgufError(f"its header counts {value} entries, so it is damaged")
        return value

    def text(self) -> str:
        return self.take(self.count()).decode(errors="replace")

    def value(self, kind: int, nesting: int = 0) -> Any:
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY or nesting > MAX_NESTING:
            raise BadGgufError(f"its header has a value of unknown kind {kind}")
        inner, length = self.number("I"), self.count()
        if inner in _SCALARS:
            raw = self.take(length * struct.calcsize(_SCALARS[inner]))
            if length <= MAX_KEPT:
                self.kept = struct.unpack(f"<{length}{_SCALARS[inner]}", raw)
        else:
            for _ in range(length):
                self.value(inner, nesting + 1)
        return length


def _parse(cursor: _Cursor) -> GgufHeader:
    if cursor.take(4) != b"GGUF":
        raise BadGgufError("it does not begin as a GGUF file")
    version = cursor.number("I")
    if version not in {2, 3}:
        raise BadGgufError(f"it is of GGUF version {version}, and 2 and 3 are known")
    tensor_count, pair_count = cursor.count(), cursor.count()
    metadata: dict[str, Any] = {}
    arrays: dict[str, tuple[Any, ...]] = {}
    for _ in range(pair_count):
        key, cursor.kept = cursor.text(), None
        metadata[key] = cursor.value(cursor.number("I"))
        if cursor.kept is not None:
            arrays[key] = cursor.kept
    tensors = []
    for _ in range(tensor_count):
        name, dimensions = cursor.text(), cursor.number("I")
        if dimensions > 8:
            raise BadGgufError(f"tensor {name!r} has {dimensions} dimensions, so it is damaged")
        shape = tuple(cursor.number("Q") for _ in range(dimensions))
        tensors.append(Tensor(name, shape, cursor.number("I"), cursor.number("Q")))
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0:
        raise BadGgufError("its alignment is not a positive number")
    data_offset = -(-cursor.at // alignment) * alignment
    return GgufHeader(version, metadata, tuple(tensors), data_offset, arrays)
