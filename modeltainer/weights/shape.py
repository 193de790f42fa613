"""The shape of a transformer, as far as memory and parallelism depend on it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CacheLayers:
    """Layers that keep the same amount of keys and values."""

    count: int
    values_per_token: int
    """Numbers cached per token and layer: 2 x KV heads x head size, or MLA's latent vector."""
    window: int | None = None
    """Tokens of the sliding window; None for full attention."""
    shared: bool = False
    """MLA's latent is one for all heads: each tensor-parallel rank holds all of it."""


@dataclass(frozen=True)
class ModelShape:
    """One model. Sizes in elements unless said otherwise."""

    architecture: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    cache: tuple[CacheLayers, ...]
    weights_bytes: int
    """Exact from file headers, else counted from the configuration."""
    weights_from: str
    """Where :attr:`weights_bytes` comes from, in words."""
    parameters: int | None = None
    context_max: int | None = None
    """Tokens the model was made for; None when it does not say."""
    dtype: str = "bfloat16"
    quantization: str | None = None
    experts: int = 0
    mla: bool = False
    recurrent: int = 0
    """Layers that have a state instead of a cache."""
    state_bytes: int = 0
    """Fixed state per sequence of recurrent (Mamba, linear attention) layers."""

    @property
    def kind(self) -> str:
        """Its attention, in the field's terms."""
        if self.mla:
            words = ["MLA"]
        elif self.kv_heads == self.heads:
            words = ["MHA"]
        else:
            words = ["MQA" if self.kv_heads == 1 else "GQA"]
        if any(group.window for group in self.cache):
            words.append("sliding window")
        if self.state_bytes:
            words.append("hybrid")
        if self.experts:
            words.append(f"MoE of {self.experts}")
        return ", ".join(words)


def windowed(
    layers: int, values_per_token: int, window: int | None, is_windowed: list[bool]
) -> tuple[CacheLayers, ...]:
    """Cache groups from one truth value per layer."""
    local = sum(is_windowed) if window else 0
    groups = (
        CacheLayers(layers - local, values_per_token),
        CacheLayers(local, values_per_token, window),
    )
    return tuple(group for group in groups if group.count)
