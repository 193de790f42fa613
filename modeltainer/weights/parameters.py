"""Parameters of a transformer counted from its config.json.

Each block is attention, a (gated) feed-forward network or experts, and norms; biases and norms
are below one in a thousand and counted as two vectors per layer. Checked against the published
counts of the models in tests/weights/configs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Feed-forward networks of two matrices instead of a gated one's three.
_UNGATED = {
    "falcon",
    "gpt_neox",
    "gpt2",
    "phi",
    "opt",
    "bloom",
    "gptj",
    "starcoder2",
    "gpt_bigcode",
}
_TIED = {
    *("gemma", "gemma2", "gemma3", "gemma3_text", "cohere", "cohere2"),
    *("gpt2", "gpt_bigcode", "falcon", "bloom", "opt"),
}
"""Whose output embeddings are the input ones unless the file says otherwise."""
_UNGATED_ACTIVATIONS = {"relu2", "relu_squared"}


@dataclass(frozen=True)
class Parameters:
    """Counts of elements."""

    attention: int
    feed_forward: int
    experts: int
    """Routed experts only."""
    embeddings: int
    """Input embeddings, and the output ones where they are not the same."""
    norms: int

    @property
    def total(self) -> int:
        return self.attention + self.feed_forward + self.experts + self.embeddings + self.norms


def count(
    config: Mapping[str, Any],
    *,
    layers: int,
    hidden: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    intermediate: int,
    vocabulary: int,
    recurrent_layers: int = 0,
) -> Parameters:
    """Count; the keyword arguments are what :mod:`modeltainer.weights.config_json` has read.

    ``recurrent_layers`` of the ``layers`` have a state instead of attention.
    """
    kind = str(config.get("model_type", ""))
    matrices = 2 if kind in _UNGATED or config.get("hidden_act") in _UNGATED_ACTIVATIONS else 3
    attention = _attention(config, hidden, heads, kv_heads, head_dim) * (layers - recurrent_layers)
    attention += _recurrent(config, hidden) * recurrent_layers
    experts = _number(config, "n_routed_experts", "num_local_experts", "num_experts")
    moe_layers = _moe_layers(config, layers) if experts else 0
    dense = matrices * hidden * intermediate * (layers - moe_layers)
    routed = shared = 0
    if moe_layers:
        width = _number(config, "moe_intermediate_size") or intermediate
        routed = moe_layers * experts * matrices * hidden * width
        if kind == "gpt_oss":
            routed += moe_layers * experts * (2 * width + hidden)  # its experts have biases
        common = _number(config, "shared_expert_intermediate_size", "shared_intermediate_size")
        common = common or _number(config, "n_shared_experts") * width
        shared = moe_layers * (matrices * hidden * common + hidden * experts)
    tied = config.get("tie_word_embeddings", kind in _TIED)
    embeddings = vocabulary * hidden * (1 if tied else 2)
    return Parameters(attention, dense + shared, routed, embeddings, hidden * (2 * layers + 1))


def _attention(
    config: Mapping[str, Any], hidden: int, heads: int, kv_heads: int, head_dim: int
) -> int:
    latent = _number(config, "kv_lora_rank")
    if not latent:
        gate = (
            2 if config.get("attn_output_gate") or config.get("model_type") == "qwen3_next" else 1
        )
        return hidden * head_dim * ((1 + gate) * heads + 2 * kv_heads)
    # DeepSeek-V2, arXiv:2405.04434, section 2.1: low-rank queries, and keys and values jointly.
    nope, rope = _number(config, "qk_nope_head_dim"), _number(config, "qk_rope_head_dim")
    value, rank = _number(config, "v_head_dim"), _number(config, "q_lora_rank")
    queries = heads * (nope + rope)
    total = hidden * rank + rank * queries if rank else hidden * queries
    total += hidden * (latent + rope) + latent * heads * (nope + value)
    return total + heads * value * hidden


def _recurrent(config: Mapping[str, Any], hidden: int) -> int:
    """One layer of a state-space or linear-attention block: its two large projections."""
    keys = _number(config, "linear_num_key_heads") * _number(config, "linear_key_head_dim")
    values = _number(config, "linear_num_value_heads") * _number(config, "linear_value_head_dim")
    if values:
        return hidden * (2 * keys + 2 * values) + values * hidden
    inner = _number(config, "mamba_n_heads", "mamba_num_heads") * _number(
        config, "mamba_d_head", "mamba_head_dim"
    )
    inner = inner or hidden * (_number(config, "mamba_expand", "expand") or 2)
    return hidden * 2 * inner + inner * hidden


def _moe_layers(config: Mapping[str, Any], layers: int) -> int:
    first = _number(config, "first_k_dense_replace")
    period = _number(config, "expert_layer_period")
    if period:  # Jamba
        offset = _number(config, "expert_layer_offset")
        return sum((layer - offset) % period == 0 for layer in range(layers))
    step = (
        _number(config, "decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_freq") or 1
    )
    listed = config.get("mlp_only_layers")
    dense = listed if isinstance(listed, list) else ()
    return sum(
        layer >= first and layer not in dense and (layer + 1 - first) % step == 0
        for layer in range(layers)
    )


def _number(config: Mapping[str, Any], *names: str) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return int(value)
    return 0
