"""vLLM's OpenAI server. Options: ``vllm serve --help``; variables: vllm/envs.py."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from modeltainer.hpc.gres import parse_gres
from modeltainer.hpc.mig import usable_mib
from modeltainer.jobs.engines.base import (
    EngineCommand,
    EngineStart,
    Rank,
    cache_environment,
    metric_sum,
)
from modeltainer.jobs.engines.options import to_arguments
from modeltainer.jobs.probe import NotYetError, Target
from modeltainer.sizing.fit import shared_utilization, utilization
from modeltainer.spec import Placement, Resources

CONFIG_FILE = "vllm.yaml"
"""Its content is JSON, which is YAML too."""

_SWITCHES = {
    *("headless", "grpc", "disable-log-stats", "aggregate-engine-logging"),
    "data-parallel-multi-port-external-lb",
}
"""Options without a ``--no-`` form (vLLM 0.32): they are off when they are left out."""

# As vLLM 0.6 to 0.32 log them (gpu_model_runner.py, compilation/monitor.py, engine/core.py).
_WEIGHTS = re.compile(r"Model loading took .* and ([\d.]+) s")
_COMPILE = re.compile(r"torch\.compile t(?:ook|akes) ([\d.]+) s in total")
_WHOLE = re.compile(r"init engine \(.*\) took ([\d.]+) s")


class Vllm:
    """``vllm serve``."""

    key_variable = "VLLM_API_KEY"
    needs_internal_ports = True

    def command(self, start: EngineStart) -> EngineCommand:
        spec = start.spec
        options = {
            name: value
            for name, value in spec.engine_args.items()
            if value is not False or name.replace("_", "-") not in _SWITCHES
        }
        given = {name.replace("_", "-") for name in options}
        names = ["--served-model-name", spec.model, start.nonce]
        files = {}
        if start.private_folder is not None and "config" not in given:
            # Other users of the node can read arguments, and would learn the nonce.
            names = ["--config", f"{start.private_folder}/{CONFIG_FILE}"]
            files[CONFIG_FILE] = json.dumps({"served-model-name": [spec.model, start.nonce]})
        argv = [
            *(spec.command or ("vllm", "serve")),
            spec.source.value,
            *names,
            *("--host", start.bind),
            *("--port", str(start.port)),
            *start.tls_options("--ssl-certfile", "--ssl-keyfile"),
        ]
        if spec.source.revision is not None:
            argv += ["--revision", spec.source.revision]
        if spec.context is not None:
            argv += ["--max-model-len", str(spec.context)]
        argv += _parallelism(spec.resources, options)
        if start.rank is not None:
            argv += _rank_options(start.rank, given)
        if "gpu-memory-utilization" not in given:
            argv += _memory_options(spec.placement, given)
        argv += to_arguments(options, lists="spread")
        env = {
            **cache_environment(spec.site.cache, spec.engine),
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
        }
        if start.internal_port is not None:
            env["VLLM_PORT"] = str(start.internal_port)
        if start.rank is not None:
            env["VLLM_HOST_IP"] = start.rank.address
            if spec.site.host_interface is not None:
                # Where torch.distributed's Gloo and NCCL find their own way, it may be another one.
                env["GLOO_SOCKET_IFNAME"] = env["NCCL_SOCKET_IFNAME"] = spec.site.host_interface
        if start.cuda_visible_devices is not None:
            env["CUDA_VISIBLE_DEVICES"] = start.cuda_visible_devices
        return EngineCommand(tuple(argv), env, files)

    def requests_running(self, target: Target) -> int | None:
        try:
            status, body = target.get("/metrics", timeout_s=2.0)
        except NotYetError:
            return None
        names = ("vllm:num_requests_running", "vllm:num_requests_waiting")
        return metric_sum(body.decode(errors="replace"), names) if status == 200 else None

    def start_split(self, log: str) -> dict[str, float]:
        weights = _last_seconds(_WEIGHTS, log)
        compiling = _last_seconds(_COMPILE, log)
        whole = _last_seconds(_WHOLE, log)
        found = {"weights_s": weights, "compile_s": compiling}
        if whole is not None:  # compiling is part of it
            found["warm_up_s"] = max(0.0, whole - (compiling or 0.0))
        return {name: value for name, value in found.items() if value is not None}

    def version(self, target: Target) -> str | None:
        with contextlib.suppress(NotYetError, ValueError, AttributeError):
            status, body = target.get("/version")
            if status == 200:
                return f"vLLM {json.loads(body).get('version')}"
        return None


def _last_seconds(pattern: re.Pattern[str], log: str) -> float | None:
    found = pattern.findall(log)
    return float(found[-1]) if found else None


def _parallelism(wanted: Resources, options: Mapping[str, Any]) -> list[str]:
    """How the GPUs share the model, where the user has left it open: tensor parallel within a node,
    pipeline parallel across nodes (vLLM's docs, "Parallelism and Scaling"). On CPU the pipeline
    fails (tried with 0.32), so tensor parallel alone."""
    given = {name.replace("_", "-"): value for name, value in options.items()}
    if "data-parallel-size" in given:
        return []
    tensor, pipeline = given.get("tensor-parallel-size"), given.get("pipeline-parallel-size")
    world = max(1, wanted.gpus) * wanted.nodes
    if tensor is None and pipeline is None:
        sizes = (wanted.gpus, wanted.nodes) if wanted.gpus else (world, 1)
    elif isinstance(tensor, int) and pipeline is None:
        sizes = (1, world // max(1, tensor)) if wanted.nodes > 1 else (1, 1)
    elif isinstance(pipeline, int) and tensor is None:
        sizes = (world // max(1, pipeline), 1) if wanted.nodes > 1 else (1, 1)
    else:
        sizes = (1, 1)
    argv = []
    for name, size in zip(("tensor", "pipeline"), sizes, strict=True):
        if size > 1:
            argv += [f"--{name}-parallel-size", str(size)]
    return argv


def _rank_options(rank: Rank, given: Collection[str]) -> list[str]:
    """vLLM's own launcher over several nodes (``vllm serve --help=ParallelConfig``)."""
    argv = ["--nnodes", str(rank.nodes), "--node-rank", str(rank.number)]
    argv += ["--master-addr", rank.head_address, "--master-port", str(rank.head_port)]
    if "distributed-executor-backend" not in given:
        argv += ["--distributed-executor-backend", "mp"]  # the only one that takes --nnodes
    return [*argv, "--headless"] if rank.number else argv


def _memory_options(placement: Placement | None, given: Collection[str]) -> list[str]:
    """How much of the GPU's memory is this engine's; a whole GPU is left to vLLM's default.

    That default leaves too little for the CUDA context on a small MIG slice, where NVML reports the
    parent's memory; and all of a GPU that others share is not this engine's. There the fraction
    counts even beside ``--kv-cache-memory-bytes``: vLLM does not start when less than that is free
    (vllm/v1/worker/utils.py, ``request_memory``).
    """
    if placement is None:
        return []
    if placement.share is not None:
        memory = usable_mib(placement.share.gpu_type)
        fraction = f"{shared_utilization(memory, placement.share.part):.3f}"
        return ["--gpu-memory-utilization", fraction]
    slices = [usable_mib(one.type) for one in parse_gres(placement.gres) if one.is_mig]
    if not slices or slices[0] is None or "kv-cache-memory-bytes" in given:
        return []
    return ["--gpu-memory-utilization", f"{utilization(slices[0]):.2f}"]
