"""vLLM's OpenAI server. Options: ``vllm serve --help``; variables: vllm/envs.py."""

from __future__ import annotations

import contextlib
import json

from modeltainer.hpc.gres import parse_gres
from modeltainer.hpc.mig import usable_mib
from modeltainer.jobs.engines.base import (
    EngineCommand,
    EngineStart,
    cache_environment,
    metric_sum,
)
from modeltainer.jobs.engines.options import to_arguments
from modeltainer.jobs.probe import NotYetError, Target
from modeltainer.sizing.fit import utilization
from modeltainer.spec import Placement

CONFIG_FILE = "vllm.yaml"
"""Its content is JSON, which is YAML too."""


class Vllm:
    """``vllm serve``."""

    key_variable = "VLLM_API_KEY"
    needs_internal_ports = True

    def command(self, start: EngineStart) -> EngineCommand:
        spec = start.spec
        options = dict(spec.engine_args)
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
        parallel = {"tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size"}
        if spec.resources.gpus > 1 and not parallel & given:
            argv += ["--tensor-parallel-size", str(spec.resources.gpus)]
        memory = _slice_memory_mib(spec.placement)
        if memory is not None and not {"gpu-memory-utilization", "kv-cache-memory-bytes"} & given:
            argv += ["--gpu-memory-utilization", f"{utilization(memory):.2f}"]
        argv += to_arguments(options, lists="spread")
        env = {
            **cache_environment(spec.site.cache, spec.engine),
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
        }
        if start.internal_port is not None:
            env["VLLM_PORT"] = str(start.internal_port)
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

    def version(self, target: Target) -> str | None:
        with contextlib.suppress(NotYetError, ValueError, AttributeError):
            status, body = target.get("/version")
            if status == 200:
                return f"vLLM {json.loads(body).get('version')}"
        return None


def _slice_memory_mib(placement: Placement | None) -> int | None:
    """Memory of the MIG slice that the job was placed on; None on whole GPUs.

    vLLM's default share leaves too little for the CUDA context on a small slice, and what NVML
    reports there is the parent's memory.
    """
    asked = parse_gres(placement.gres) if placement else ()
    return next((usable_mib(one.type) for one in asked if one.is_mig), None)
