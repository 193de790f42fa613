"""Sizing a launch: what ``mt-submit up`` asks the cluster for when the user has not said.

Pure: the model's shape and the cluster's snapshot in, resources and reasons out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from modeltainer.hpc.gres import mig_profile
from modeltainer.hpc.snapshot import Snapshot
from modeltainer.sizing.devices import Device, of_snapshot
from modeltainer.sizing.fit import (
    CannotFitError,
    Fit,
    Wish,
    best,
    fits,
    largest_context,
    tensor_refusal,
)
from modeltainer.spec import LaunchSpec, Resources
from modeltainer.weights.shape import ModelShape

DEFAULT_CONTEXT = 8192
"""When neither the user nor the model names one."""

_CHANGES_WEIGHTS = frozenset(
    {
        *("quantization", "cpu-offload-gb", "hf-overrides", "load-format", "speculative-config"),
        *("n-gpu-layers", "gpu-layers", "ngl", "n-cpu-moe", "cpu-moe", "override-tensor"),
        *("decode-context-parallel-size", "enable-expert-parallel", "data-parallel-size"),
    }
)
"""Engine arguments after which the files no longer tell what a GPU must hold."""
_PARALLEL = ("tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size")


@dataclass(frozen=True)
class Given:
    """Which of the resources the user (or the site's defaults) has set."""

    gpus: bool = False
    gpu_memory: bool = False
    gpu_type: bool = False
    mig: bool = False


@dataclass(frozen=True)
class Sized:
    """What sizing makes of a launch."""

    resources: Resources
    engine_args: Mapping[str, Any]
    reasons: tuple[str, ...]
    answers: tuple[Fit, ...] = ()


def check_parallelism(spec: LaunchSpec) -> None:
    """Refuse one model over several MIG slices; needs no weights.

    Raises:
        CannotFitError: vLLM would be started with tensor or pipeline parallelism over slices.
    """
    wanted = spec.resources
    profile = wanted.mig if isinstance(wanted.mig, str) else mig_profile(wanted.gpu_type)
    given = {name.replace("_", "-") for name in spec.engine_args}
    if (
        spec.engine == "vllm"
        and wanted.gpus > 1
        and profile is not None
        and "data-parallel-size" not in given
    ):
        raise CannotFitError(
            f"{wanted.gpus} slices {profile} cannot work on one model together: NCCL, and so "
            "tensor and pipeline parallelism, does not cross MIG slices",
            "ask for one larger slice, for whole GPUs (mig: false), or for more replicas of one "
            "slice each",
        )


def size_launch(spec: LaunchSpec, shape: ModelShape, snapshot: Snapshot, given: Given) -> Sized:
    """Resources that hold the model, and why.

    Whatever is given stays. A type that the user named is taken at its word (its name may hide a
    larger variant), and so is a site whose types do not tell their memory: both with a note.

    Raises:
        CannotFitError: nothing on this cluster (or in the wished partition) holds it, or the
            number of GPUs asked for cannot share it.
    """
    arguments = {name.replace("_", "-"): value for name, value in spec.engine_args.items()}
    about = describe(shape)
    unchanged = Sized(spec.resources, spec.engine_args, (about,))
    if not spec.resources.gpus:
        return unchanged
    tensor = arguments.get("tensor-parallel-size")
    if isinstance(tensor, int) and tensor > 0:
        refusal = tensor_refusal(shape, tensor)
        if refusal:
            raise CannotFitError(refusal, "mend engine_args.tensor_parallel_size")
    changed = sorted(_CHANGES_WEIGHTS & set(arguments))
    if given.gpu_memory or changed:
        why = "resources.gpu_memory is given" if given.gpu_memory else f"{changed[0]} is given"
        return replace(unchanged, reasons=(about, f"not sized: {why}"))
    wish = Wish(
        spec.engine,
        context_of(spec, shape),
        gpus=spec.resources.gpus if given.gpus or set(_PARALLEL) & set(arguments) else None,
        element_bytes=1 if "fp8" in str(arguments.get("kv-cache-dtype", "")) else 2,
    )
    partition = spec.resources.partition
    # What only a drained node has is asked for when nothing else will do.
    for usable in (True, False):
        found = of_snapshot(snapshot, partition, usable=usable)
        devices = _allowed(found, spec.resources, given)
        answers = fits(shape, devices, wish)
        chosen = best(answers)
        if chosen is not None:
            break
    if chosen is None:
        uncertain = not devices or any(one.memory_mib is None for one in devices)
        if uncertain or given.gpu_type:
            what = "the memory of what there is is not known" if uncertain else answers[-1].why
            return replace(unchanged, reasons=(about, f"not sure to fit: {what}"), answers=answers)
        raise _nothing(shape, devices, answers, wish)
    resources = replace(
        spec.resources,
        gpus=chosen.gpus,
        # A type says how much memory a GPU has, but not how large a part is needed.
        gpu_memory_mib=(
            None if given.gpu_type and chosen.device.share == 1 else chosen.device.nominal_mib
        ),
        mig=spec.resources.mig if given.mig else chosen.device.is_slice,
    )
    engine_args = dict(spec.engine_args)
    if spec.engine == "vllm" and chosen.pipeline > 1 and not set(_PARALLEL) & set(arguments):
        engine_args |= {
            "tensor_parallel_size": chosen.tensor,
            "pipeline_parallel_size": chosen.pipeline,
        }
    name = chosen.device.name
    how = (
        f"{f'{chosen.gpus} x ' if chosen.gpus > 1 else ''}{name} holds it at context "
        f"{wish.context}: {chosen.why}, about {chosen.sequences} such sequence(s) at once"
    )
    return Sized(resources, engine_args, (about, how), answers)


def context_of(spec: LaunchSpec, shape: ModelShape) -> int:
    """Tokens per sequence that the engine will be started for."""
    for name, value in spec.engine_args.items():
        if name.replace("_", "-") in {"max-model-len", "ctx-size"} and isinstance(value, int):
            return value
    return spec.context or shape.context_max or DEFAULT_CONTEXT


def describe(shape: ModelShape) -> str:
    """One line: weights, attention, KV cache per token."""
    from modeltainer.sizing.memory import kv_bytes_per_token

    count = f"{shape.parameters / 1e9:.3g} B parameters, " if shape.parameters else ""
    return (
        f"{shape.architecture}: {count}weights {shape.weights_bytes / 1e9:.2f} GB "
        f"({shape.weights_from}), {shape.kind}, KV cache "
        f"{kv_bytes_per_token(shape) / 1024:.4g} KiB per token"
    )


def _allowed(devices: tuple[Device, ...], resources: Resources, given: Given) -> tuple[Device, ...]:
    devices = tuple(one for one in devices if resources.shared or not one.shards)
    if resources.gpu_type is not None:
        return tuple(one for one in devices if one.name.lower() == resources.gpu_type.lower())
    if isinstance(resources.mig, str):
        return tuple(one for one in devices if mig_profile(one.name) == resources.mig.lower())
    if given.mig and not resources.mig:
        return tuple(one for one in devices if not one.is_slice)
    return devices


def _nothing(
    shape: ModelShape, devices: tuple[Device, ...], answers: tuple[Fit, ...], wish: Wish
) -> CannotFitError:
    largest = max(
        answers,
        key=lambda one: (one.device.memory_mib or 0) * max(1, one.gpus, one.device.per_node),
    )
    context = largest_context(shape, largest.device, wish)
    if context:
        hint = f"context: {context} would fit on {largest.device.name}"
    else:
        hint = "take a smaller or quantized model, or more GPUs"
    where = ", ".join(one.name for one in devices)
    return CannotFitError(
        f"nothing here holds it ({where}): "
        f"{f'{largest.gpus} x ' if largest.gpus > 1 else ''}{largest.device.name}: {largest.why}",
        f"{hint}; mt-submit size shows the whole table; where a site's type name hides a larger "
        "variant, name it with resources.gpu_type",
    )
