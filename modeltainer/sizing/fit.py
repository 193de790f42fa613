"""Whether a model fits a device, on how many of them, with which engine flags; and why not.

Rules of parallelism: vLLM's ``ModelConfig.verify_with_parallel_config`` (attention heads must be
divisible by the tensor-parallel size) and ``get_num_kv_heads`` (fewer KV heads than ranks are
replicated, so the counts must divide one another). NCCL does not cross MIG slices, so a slice runs
a model alone. llama.cpp splits by layer, so any number of whole GPUs goes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from modeltainer.sizing.devices import Device, compute_capability
from modeltainer.sizing.memory import (
    CUDA_CONTEXT_MIB,
    VLLM_BATCHED_TOKENS,
    VLLM_MAX_SEQUENCES,
    EngineName,
    Estimate,
    estimate,
    vllm_batched_tokens,
    vllm_max_sequences,
)
from modeltainer.weights.shape import ModelShape

MAX_UTILIZATION = 0.92
"""vLLM's own default of ``--gpu-memory-utilization`` since 0.19; older ones have 0.90."""
OUTSIDE_MIB = 768
"""Left to the CUDA context and the driver: vLLM refuses to start when less than its share of the
memory is free, and on a small slice 8 % are less than a context takes."""
UNKNOWN_MIB = 16 * 1024
"""A shared GPU whose memory nobody tells is taken for one of the small ones, on which the contexts
of the engines weigh most."""
MAX_SEQUENCES_SHOWN = 4096
_NEEDS = {"awq": 75, "fp8": 75, "mxfp4": 80, "bitsandbytes": 70, "gptq": 60}
"""Ten times the compute capability that vLLM wants for quantized weights: ``get_min_capability`` in
vllm/model_executor/layers/quantization, 0.22.1."""


class CannotFitError(ValueError):
    """No way to run this model there; the message says why, ``hint`` what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.message, self.hint = message, hint


@dataclass(frozen=True)
class Wish:
    """What a service must be able to do."""

    engine: EngineName
    context: int
    concurrency: int = 1
    gpus: int | None = None
    """Exactly so many; None: as few as will do."""
    element_bytes: float = 2


@dataclass(frozen=True)
class Fit:
    """The answer for one kind of device."""

    device: Device
    fits: bool
    why: str
    """In words: how it fits, or what is in the way."""
    gpus: int = 0
    tensor: int = 1
    pipeline: int = 1
    sequences: int = 0
    """Concurrent sequences at full context that the KV cache holds."""
    utilization: float = MAX_UTILIZATION
    estimate: Estimate | None = None
    flags: tuple[str, ...] = ()


def utilization(memory_mib: int) -> float:
    """``--gpu-memory-utilization`` for a device of this much memory, rounded down to hundredths.

    vLLM takes the fraction of what cudaMemGetInfo reports, which in a MIG slice is the slice. What
    NVML reports there is the parent, so a fraction worked out by hand from nvidia-smi is wrong.
    """
    return min(MAX_UTILIZATION, math.floor((1 - OUTSIDE_MIB / memory_mib) * 100) / 100)


def shared_utilization(memory_mib: int | None, share: float) -> float:
    """``--gpu-memory-utilization`` on a GPU that is shared, rounded down to thousandths.

    vLLM takes the fraction of the whole GPU, and it is for each instance on its own, whatever else
    runs there (vllm/config/cache.py, ``gpu_memory_utilization``). Each keeps within its part with
    its context beside it, so all together stay within the GPU.

    Args:
        memory_mib: of the whole GPU; None where the site does not tell.
        share: the engine's part of it, above 0 and at most 1.
    """
    part = share * (memory_mib or UNKNOWN_MIB)
    inside = min(MAX_UTILIZATION, 1 - OUTSIDE_MIB / part)
    # vLLM takes nothing but numbers above 0; what is too small, it says by itself.
    return max(1, math.floor(share * inside * 1000)) / 1000


def tensor_refusal(shape: ModelShape, tensor: int) -> str | None:
    """Why a model cannot be split over so many ranks; None when it can."""
    if _divides(shape, tensor):
        return None
    legal = ", ".join(str(one) for one in legal_tensor(shape, 16))
    if shape.heads % tensor:
        what = f"{shape.heads} attention heads are not divisible by {tensor}"
    else:
        what = f"{shape.kv_heads} KV heads and {tensor} ranks do not divide one another"
    return f"{what} (tensor parallel sizes that go: {legal})"


def legal_tensor(shape: ModelShape, most: int) -> list[int]:
    """Tensor-parallel sizes up to ``most``."""
    return [one for one in range(1, most + 1) if _divides(shape, one)]


def _divides(shape: ModelShape, tensor: int) -> bool:
    if shape.heads % tensor:
        return False
    return shape.mla or not shape.kv_heads % tensor or not tensor % shape.kv_heads


def fit(shape: ModelShape, device: Device, wish: Wish) -> Fit:
    """Try one kind of device. Pure."""
    if device.shards:
        return _smallest_part(shape, device, wish)
    if device.memory_mib is None:
        return Fit(
            device, False, "its memory is not known: name the type in resources.gpu_type to use it"
        )
    if wish.gpus is not None:
        return _with(shape, device, wish, wish.gpus)
    most = 1 if device.is_slice else device.per_node
    counts = [1 << power for power in range(most.bit_length()) if 1 << power <= most]
    tried = [_with(shape, device, wish, count) for count in sorted({*counts, most})]
    return next((one for one in tried if one.fits), tried[-1])


def _smallest_part(shape: ModelShape, device: Device, wish: Wish) -> Fit:
    """The fewest shards of one GPU that will do."""
    parts = device.parts()
    if not parts:
        return Fit(device, False, "its only shard is all of it")
    if device.memory_mib is None:
        return Fit(parts[0], False, "its memory is not known, so neither is that of a part")
    if wish.gpus not in {None, 1}:
        return Fit(parts[0], False, f"{wish.gpus} are asked for, and shards are of one GPU")
    tried = [_with(shape, part, wish, 1) for part in parts]
    return next((one for one in tried if one.fits), tried[-1])


def fits(shape: ModelShape, devices: Iterable[Device], wish: Wish) -> tuple[Fit, ...]:
    """Every device's answer, in their order."""
    return tuple(fit(shape, device, wish) for device in devices)


def best(answers: Sequence[Fit], *, slices: bool = True, shared: bool = True) -> Fit | None:
    """Fewest GPUs, then the least memory; None when nothing fits.

    Args:
        slices: False leaves MIG slices out.
        shared: False leaves parts of shared GPUs out.
    """
    good = [
        one
        for one in answers
        if one.fits and (slices or not one.device.is_slice) and (shared or one.device.share == 1)
    ]
    return min(good, key=lambda one: (one.gpus, one.device.memory_mib or 0), default=None)


def _with(shape: ModelShape, device: Device, wish: Wish, gpus: int) -> Fit:
    assert device.memory_mib is not None
    if device.is_slice and gpus > 1:
        return Fit(
            device,
            False,
            f"{gpus} slices cannot work on one model together: NCCL does not cross MIG slices; "
            "take one larger slice, or whole GPUs",
        )
    if gpus > device.per_node:
        return Fit(device, False, f"{gpus} are asked for, and a node has {device.per_node}")
    if wish.engine == "vllm" and (refusal := _too_old(shape, device)):
        return Fit(device, False, refusal)
    split = _split(shape, wish.engine, gpus)
    if isinstance(split, str):
        return Fit(device, False, split)
    tensor, pipeline = split
    sized = estimate(
        shape,
        engine=wish.engine,
        context=wish.context,
        concurrency=wish.concurrency,
        tensor=tensor,
        pipeline=pipeline,
        element_bytes=wish.element_bytes,
        batched_tokens=(
            VLLM_BATCHED_TOKENS
            if device.is_slice
            else vllm_batched_tokens(device.name, _whole_mib(device))
        ),
        max_sequences=_max_sequences(device),
    )
    share = _utilization(device) if wish.engine == "vllm" else device.share
    room = _whole_mib(device) * share
    # vLLM's share leaves the context out, so the estimate's own is not counted against it again.
    fixed = sized.fixed_mib - (CUDA_CONTEXT_MIB if wish.engine == "vllm" else 0)
    left = room - fixed
    if sized.per_sequence_mib:
        sequences = max(0, min(MAX_SEQUENCES_SHOWN, int(left // sized.per_sequence_mib)))
    else:
        sequences = MAX_SEQUENCES_SHOWN if left >= 0 else 0
    common = {
        "gpus": gpus,
        "tensor": tensor,
        "pipeline": pipeline,
        "utilization": share,
        "estimate": sized,
    }
    if left < 0:
        why = f"weights and overhead take {_gib(fixed)} of each, and {_gib(room)} are usable" + (
            f" ({gpus} of them)" if gpus > 1 else ""
        )
        return Fit(device, False, why, sequences=0, **common)  # type: ignore[arg-type]
    if sequences < wish.concurrency:
        tokens = int(left * wish.context / sized.per_sequence_mib) if sized.per_sequence_mib else 0
        why = (
            f"the KV cache holds {sequences} of {wish.concurrency} sequences of "
            f"{wish.context} tokens (about {tokens} tokens in all)"
        )
        return Fit(device, False, why, sequences=sequences, **common)  # type: ignore[arg-type]
    why = f"{_gib(sized.total_mib)} of {_gib(device.memory_mib)}" + (" each" if gpus > 1 else "")
    return Fit(
        device,
        True,
        why,
        sequences=sequences,
        flags=engine_flags(shape, device, wish, tensor, pipeline),
        **common,  # type: ignore[arg-type]
    )


def _whole_mib(device: Device) -> int:
    """Memory of what the engine sees: the slice, or the whole GPU of which it has a part."""
    assert device.memory_mib is not None
    return round(device.memory_mib / device.share)


def _utilization(device: Device) -> float:
    if device.share < 1:
        return shared_utilization(_whole_mib(device), device.share)
    return utilization(_whole_mib(device))


def _too_old(shape: ModelShape, device: Device) -> str | None:
    """Why vLLM has no kernels for these weights there; None when it has, or nobody knows."""
    needed = _NEEDS.get(shape.quantization or "")
    has = compute_capability(device.name)
    if needed is None or has is None or has >= needed:
        return None
    return (
        f"vLLM's {shape.quantization} kernels need compute capability {needed / 10:g}, "
        f"and this has {has / 10:g}"
    )


def _split(shape: ModelShape, engine: EngineName, gpus: int) -> tuple[int, int] | str:
    """Tensor and pipeline sizes for a number of GPUs, or why there are none."""
    if engine == "llamacpp":
        if gpus > shape.layers:
            return f"{shape.layers} layers cannot be shared out over {gpus} GPUs"
        return 1, gpus
    for pipeline in range(1, gpus + 1):
        if gpus % pipeline == 0 and pipeline <= shape.layers:
            tensor = gpus // pipeline
            if tensor_refusal(shape, tensor) is None:
                return tensor, pipeline
    return tensor_refusal(shape, gpus) or f"{shape.layers} layers are fewer than {gpus} GPUs"


def largest_context(shape: ModelShape, device: Device, wish: Wish) -> int:
    """Tokens that the wished number of sequences may have there, in steps of 1024; 0 for none."""
    low, high = 0, (shape.context_max or wish.context) // 1024
    while low < high:
        middle = (low + high + 1) // 2
        if fit(shape, device, replace(wish, context=middle * 1024)).fits:
            low = middle
        else:
            high = middle - 1
    return low * 1024


def _max_sequences(device: Device) -> int:
    """What vLLM would take by itself, but for slices, where it would go by the parent's memory."""
    if device.is_slice:
        return VLLM_MAX_SEQUENCES
    return vllm_max_sequences(device.name, _whole_mib(device))


def engine_flags(
    shape: ModelShape, device: Device, wish: Wish, tensor: int, pipeline: int
) -> tuple[str, ...]:
    """The engine's options for this fit."""
    if wish.engine == "llamacpp":
        # llama-server shares --ctx-size out to its slots (tools/server/README.md, --parallel).
        flags = [
            *("--ctx-size", str(wish.context * wish.concurrency)),
            *("--parallel", str(wish.concurrency)),
            *("--n-gpu-layers", "999"),
        ]
        return (*flags, "--split-mode", "layer") if pipeline > 1 else tuple(flags)
    flags = [
        *("--max-model-len", str(wish.context)),
        # More than fit at full context: shorter ones share the cache's pages.
        *("--max-num-seqs", str(max(wish.concurrency, _max_sequences(device)))),
        *("--gpu-memory-utilization", f"{_utilization(device):.{2 if device.share == 1 else 3}f}"),
    ]
    if device.is_slice:
        # vLLM chooses it by the parent's memory, which NVML reports (arg_utils).
        flags += ["--max-num-batched-tokens", str(VLLM_BATCHED_TOKENS)]
    capability = compute_capability(device.name)
    if shape.dtype == "bfloat16" and capability is not None and capability < 80:
        flags += ["--dtype", "half"]  # bfloat16 needs compute capability 8.0
    if tensor > 1:
        flags += ["--tensor-parallel-size", str(tensor)]
    if pipeline > 1:
        flags += ["--pipeline-parallel-size", str(pipeline)]
    if wish.element_bytes == 1:
        flags += ["--kv-cache-dtype", "fp8"]
    return tuple(flags)


def _gib(mib: float) -> str:
    return f"{mib / 1024:.1f} GiB"
