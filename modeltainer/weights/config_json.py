"""A Hugging Face ``config.json`` as a :class:`ModelShape`.

Names of fields: the configuration classes of huggingface/transformers (llama, mistral, qwen2/3,
mixtral, gemma2/3, phi3, deepseek_v2/v3, gpt_oss, falcon, cohere2, llama4, jamba, qwen3_next, …).
A model of another kind is read too as long as it uses these names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modeltainer.weights.parameters import Parameters, count
from modeltainer.weights.shape import CacheLayers, ModelShape, windowed

MAX_CONFIG_BYTES = 8_000_000
MAX_LAYERS = 4096

_NO_KV_CACHE = {"bert", "roberta", "xlm-roberta", "modernbert", "distilbert", "deberta-v2"}
_WINDOWED = {"sliding_attention", "chunked_attention", "local_attention"}
_RECURRENT = {"linear_attention", "mamba", "mamba2", "recurrent"}
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "gemma3_text": {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 262208,
    },
}
"""Values of a configuration class that published files leave out (Gemma3TextConfig: gemma-3-4b)."""
_DTYPE_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1}


class UnknownShapeError(ValueError):
    """The configuration does not tell the model's shape; the message says what is missing."""


@dataclass(frozen=True)
class Quantization:
    """How weights are stored. Bits include the scales."""

    name: str
    bits: float
    experts_only: bool = False


def read_config(path: Path) -> ModelShape:
    """Read one config.json; weights are counted from it.

    Raises:
        UnknownShapeError: not JSON, or without the fields that are needed.
        OSError: it cannot be read.
    """
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise UnknownShapeError(f"{path} is too large to be a model's config.json")
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UnknownShapeError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise UnknownShapeError(f"{path} is no JSON object")
    return shape_of(config)


def shape_of(config: Mapping[str, Any]) -> ModelShape:
    """The shape that a configuration describes. Pure.

    Raises:
        UnknownShapeError: a field that is needed is missing or of the wrong type.
    """
    text = _text_part(config)
    kind = str(text.get("model_type") or config.get("model_type") or "")
    text = {**_DEFAULTS.get(kind, {}), **text}
    if kind in _NO_KV_CACHE:
        raise UnknownShapeError(f"model_type {kind!r} is an encoder: it generates no text")
    layers = _need(text, kind, "num_hidden_layers", "n_layer", "n_layers", "num_layers")
    hidden = _need(text, kind, "hidden_size", "n_embd", "d_model")
    heads = _need(text, kind, "num_attention_heads", "n_head", "n_heads")
    if layers > MAX_LAYERS:
        raise UnknownShapeError(f"config.json has {layers} layers, so it is damaged")
    vocabulary = _need(text, kind, "vocab_size")
    kv_heads = _kv_heads(text, kind, heads)
    head_dim = _number(text, "head_dim", "attention_head_dim") or hidden // heads
    intermediate = _number(text, "intermediate_size", "n_inner", "ffn_hidden_size") or 4 * hidden
    types = _layer_types(text, kind, layers)
    recurrent = sum(one in _RECURRENT for one in types)
    caching = [one for one in types if one in _WINDOWED or one == "full_attention"]
    latent = _number(text, "kv_lora_rank")
    per_token = 2 * kv_heads * head_dim
    cache: tuple[CacheLayers, ...]
    if latent:
        per_token = latent + _number(text, "qk_rope_head_dim")
        cache = (CacheLayers(layers, per_token, shared=True),)
    else:
        window = _window(text)
        cache = windowed(len(caching), per_token, window, [one in _WINDOWED for one in caching])
    try:
        parameters = count(
            text,
            layers=layers,
            hidden=hidden,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            intermediate=intermediate,
            vocabulary=vocabulary,
            recurrent_layers=recurrent,
        )
    except (TypeError, ValueError) as error:
        raise UnknownShapeError(f"config.json of type {kind!r}: {error}") from error
    dtype = str(_first(text, "torch_dtype", "dtype") or _first(config, "torch_dtype", "dtype"))
    dtype = dtype if dtype in _DTYPE_BYTES else "bfloat16"
    quantization = _quantization(config, text)
    return ModelShape(
        architecture=kind or "unknown",
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=intermediate,
        vocabulary=vocabulary,
        cache=cache,
        weights_bytes=_weights_bytes(parameters, dtype, quantization),
        weights_from="counted from config.json",
        parameters=parameters.total,
        context_max=_number(text, "max_position_embeddings", "n_positions", "seq_length") or None,
        dtype=dtype,
        quantization=quantization.name if quantization else None,
        experts=_number(text, "n_routed_experts", "num_local_experts", "num_experts"),
        mla=bool(latent),
        recurrent=recurrent,
        state_bytes=recurrent * _state_bytes(text, hidden),
    )


def with_weights(shape: ModelShape, size_bytes: int, source: str) -> ModelShape:
    """The shape with the exact size of its weights, as the files' headers tell."""
    return replace(shape, weights_bytes=size_bytes, weights_from=source)


def _text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model of one that sees or hears too."""
    for name in ("text_config", "llm_config", "language_config", "thinker_config"):
        part = config.get(name)
        if isinstance(part, dict) and part:
            return _text_part(part)
    return config


def _kv_heads(text: Mapping[str, Any], kind: str, heads: int) -> int:
    if kind == "falcon" and not text.get("new_decoder_architecture"):
        # FalconConfig: num_kv_heads counts in the new architecture only (Falcon-40B and later).
        return 1 if text.get("multi_query", True) else heads
    if text.get("multi_query") is True and kind == "gpt_bigcode":
        return 1
    found = _number(
        text, "num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num"
    )
    return found or heads


def _layer_types(text: Mapping[str, Any], kind: str, layers: int) -> list[str]:
    """``full_attention``, one of the windowed kinds or one of the recurrent kinds, per layer."""
    listed = text.get("layer_types") or text.get("layers_block_type")
    if isinstance(listed, list) and len(listed) == layers:
        return ["full_attention" if one == "attention" else str(one) for one in listed]
    pattern = text.get("hybrid_override_pattern")
    if (
        isinstance(pattern, str) and len(pattern) == layers
    ):  # Nemotron-H: M amba, * attention, - MLP
        return [{"M": "mamba", "*": "full_attention"}.get(one, "mlp") for one in pattern]
    period = _number(text, "attn_layer_period")
    if period:  # Jamba
        offset = _number(text, "attn_layer_offset")
        return ["full_attention" if at % period == offset else "mamba" for at in range(layers)]
    every = _number(text, "full_attention_interval")
    if every:  # Qwen3-Next
        return [
            "linear_attention" if (at + 1) % every else "full_attention" for at in range(layers)
        ]
    every = _number(text, "sliding_window_pattern", "_sliding_window_pattern")
    every = every or {"gemma2": 2, "gemma3_text": 6, "cohere2": 4, "gpt_oss": 2}.get(kind, 0)
    if every:  # each so many-th layer sees everything
        return [
            "sliding_attention" if (at + 1) % every else "full_attention" for at in range(layers)
        ]
    return ["sliding_attention" if _window(text) else "full_attention"] * layers


def _window(text: Mapping[str, Any]) -> int | None:
    if text.get("use_sliding_window") is False:
        return None
    return _number(text, "sliding_window", "attention_chunk_size") or None


def _state_bytes(text: Mapping[str, Any], hidden: int) -> int:
    """State of one recurrent layer and sequence: convolution at 2 bytes, recurrence at 4 (vLLM's
    MambaStateDtypeCalculator keeps the recurrent state in float32 by default)."""
    values = _number(text, "linear_num_value_heads") * _number(text, "linear_value_head_dim")
    if values:  # gated delta net
        keys = _number(text, "linear_num_key_heads") * _number(text, "linear_key_head_dim")
        kernel = _number(text, "linear_conv_kernel_dim") or 4
        return (2 * keys + values) * (kernel - 1) * 2 + values * _number(
            text, "linear_key_head_dim"
        ) * 4
    state = _number(text, "mamba_d_state", "ssm_state_size", "state_size") or 16
    kernel = _number(text, "mamba_d_conv", "conv_kernel") or 4
    inner = _number(text, "mamba_n_heads", "mamba_num_heads") * _number(
        text, "mamba_d_head", "mamba_head_dim"
    )
    inner = inner or hidden * (_number(text, "mamba_expand", "expand") or 2)
    groups = _number(text, "mamba_n_groups", "n_groups") if "mamba_n_heads" in text else 0
    return (inner + 2 * groups * state) * (kernel - 1) * 2 + inner * state * 4


def _quantization(config: Mapping[str, Any], text: Mapping[str, Any]) -> Quantization | None:
    """From ``quantization_config``; bits per weight with one scale of 16 bits per group."""
    given = config.get("quantization_config") or text.get("quantization_config")
    if not isinstance(given, dict):
        return None
    method = str(given.get("quant_method") or given.get("quant_algo") or "").lower()
    if method == "mxfp4":
        return Quantization("mxfp4", 4.25, experts_only=True)  # 32 values share 8 bits (OCP MX)
    if method == "bitsandbytes":
        return Quantization("bitsandbytes", 4.5 if given.get("load_in_4bit") else 8.0)
    bits = _number(given, "bits", "w_bit")
    groups = given.get("config_groups")
    if not bits and isinstance(groups, dict):  # compressed-tensors
        for group in groups.values():
            weights = group.get("weights") if isinstance(group, dict) else None
            if isinstance(weights, dict):
                bits = bits or _number(weights, "num_bits")
    if not bits:
        bits = 4 if "fp4" in method else 8
    size = _number(given, "group_size", "q_group_size") or 128
    return Quantization(method or f"{bits} bit", bits + 16 / size if bits < 8 else float(bits))


def _weights_bytes(parameters: Parameters, dtype: str, quantization: Quantization | None) -> int:
    width = _DTYPE_BYTES[dtype]
    if quantization is None:
        return parameters.total * width
    packed = parameters.experts
    if not quantization.experts_only:
        packed += parameters.attention + parameters.feed_forward
    return int(packed * quantization.bits / 8) + (parameters.total - packed) * width


def _need(text: Mapping[str, Any], kind: str, *names: str) -> int:
    value = _number(text, *names)
    if value <= 0:
        raise UnknownShapeError(
            f"config.json{f' of type {kind!r}' if kind else ''} has no {names[0]}; size it by hand "
            "with resources.gpu_memory, or point at the model's GGUF"
        )
    return value


def _number(config: Mapping[str, Any], *names: str) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 2**40:
            return int(value)
    return 0


def _first(config: Mapping[str, Any], *names: str) -> Any:
    return next((config[name] for name in names if config.get(name) is not None), None)
