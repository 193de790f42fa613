"""A GGUF file's header as a :class:`ModelShape`.

Keys: docs/gguf.md of ggml-org/ggml and gguf-py/gguf/constants.py of ggml-org/llama.cpp
(``{architecture}.attention.head_count_kv`` and so on).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from modeltainer.weights.config_json import UnknownShapeError
from modeltainer.weights.gguf import BadGgufError, GgufHeader, read_header
from modeltainer.weights.shape import CacheLayers, ModelShape, windowed

_WINDOW_EVERY = {"gemma2": 2, "gemma3": 6, "gemma3n": 5, "cohere2": 4, "gpt-oss": 2, "llama4": 4}
"""Of so many layers the last sees everything (``set_swa_pattern`` in llama.cpp's src/models)."""

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


def read_gguf(path: Path) -> ModelShape:
    """Read one model; of a split one (``-00001-of-00003.gguf``) all parts are added up.

    Raises:
        BadGgufError: a file is damaged, or a part is not there.
        UnknownShapeError: the header does not tell the shape.
        OSError: it cannot be read.
    """
    headers = []
    for part in parts(path):
        try:
            headers.append(read_header(part))
        except FileNotFoundError as error:
            raise BadGgufError(f"its part {part.name} is not there") from error
    sizes = [tensor.size_bytes or 0 for header in headers for tensor in header.tensors]
    elements = [
        _product(tensor.shape) for header in headers for tensor in header.tensors if tensor.shape
    ]
    return shape_of(headers[0], weights_bytes=sum(sizes), parameters=sum(elements))


def shape_of(header: GgufHeader, *, weights_bytes: int, parameters: int | None) -> ModelShape:
    """The shape that a header describes. Pure.

    Raises:
        UnknownShapeError: a key that is needed is missing.
    """
    architecture = str(header.metadata.get("general.architecture", ""))

    def number(key: str) -> int:
        name = f"{architecture}.{key}"
        if name in header.arrays:
            return max((int(one) for one in header.arrays[name]), default=0)
        value = header.metadata.get(name)
        return int(value) if isinstance(value, (int, float)) else 0

    def need(key: str) -> int:
        value = number(key)
        if value <= 0:
            raise UnknownShapeError(
                f"the GGUF header ({architecture or 'no architecture'}) has no {key}; size it by "
                "hand with resources.gpu_memory"
            )
        return value

    layers, hidden = need("block_count"), need("embedding_length")
    heads = need("attention.head_count")
    kv_heads = number("attention.head_count_kv") or heads
    keys = number("attention.key_length") or hidden // heads
    values = number("attention.value_length") or hidden // heads
    latent = number("attention.kv_lora_rank")
    recurrent = 0
    cache: tuple[CacheLayers, ...]
    if latent:
        cache = (CacheLayers(layers, latent + number("rope.dimension_count"), shared=True),)
    else:
        per_layer = header.arrays.get(f"{architecture}.attention.head_count_kv")
        recurrent = sum(not one for one in per_layer) if per_layer else 0
        caching = layers - recurrent
        cache = windowed(
            caching,
            kv_heads * (keys + values),
            number("attention.sliding_window") or None,
            _windowed_layers(header, architecture, caching),
        )
    vocabulary = number("vocab_size") or int(header.metadata.get("tokenizer.ggml.tokens") or 0)
    return ModelShape(
        architecture=architecture,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=keys,
        intermediate=number("feed_forward_length") or 4 * hidden,
        vocabulary=vocabulary,
        cache=cache,
        weights_bytes=weights_bytes,
        weights_from="the GGUF header",
        parameters=parameters,
        context_max=number("context_length") or None,
        dtype="float16",
        quantization="gguf",
        experts=number("expert_count"),
        mla=bool(latent),
        recurrent=recurrent,
        state_bytes=recurrent * _state_bytes(number),
    )


def _state_bytes(number: Callable[[str], int]) -> int:
    """llama.cpp keeps both states in float32 (llama_memory_recurrent)."""
    inner, state = number("ssm.inner_size"), number("ssm.state_size")
    groups = number("ssm.group_count")
    convolution = (max(1, number("ssm.conv_kernel")) - 1) * (inner + 2 * groups * state)
    return (convolution + inner * state) * 4


def _windowed_layers(header: GgufHeader, architecture: str, layers: int) -> list[bool]:
    name = f"{architecture}.attention.sliding_window_pattern"
    listed = header.arrays.get(name)
    if listed is not None and len(listed) == layers:
        return [bool(one) for one in listed]
    every = _WINDOW_EVERY.get(architecture, 0)
    if isinstance(header.metadata.get(name), int) and listed is None:
        every = int(header.metadata[name])
    # Architectures whose window llama.cpp knows no pattern of attend to everything there.
    return [bool(every) and (at + 1) % every != 0 for at in range(layers)]


def parts(path: Path) -> list[Path]:
    """All files of a model, of which the first is given; there or not."""
    found = _SHARD.search(path.name)
    if found is None:
        return [path]
    stem, count = path.name[: found.start()], int(found[2])
    return [path.with_name(f"{stem}-{at:05d}-of-{count:05d}.gguf") for at in range(1, count + 1)]


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for extent in shape:
        total *= extent
    return total
