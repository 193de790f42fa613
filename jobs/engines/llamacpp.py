"""llama.cpp's server: ``llama-server`` in an image or on the node, or xllamacpp in our own Python.

Options: ``llama-server --help`` (tools/server/README.md of ggml-org/llama.cpp).
"""

from __future__ import annotations

import contextlib
import json
import sys

from modeltainer.jobs.engines.base import (
    EngineCommand,
    EngineStart,
    cache_environment,
    metric_sum,
)
from modeltainer.jobs.engines.options import to_arguments
from modeltainer.jobs.probe import NotYetError, Target

EMBEDDED_SETTINGS = "MODELTAINER_EMBEDDED_ENGINE"
ALL_LAYERS = "999"
"""More layers than any model has: the whole model goes to the GPU."""
MAPPING = {"mmap", "no-mmap", "mlock", "direct-io", "dio"}
"""Options that say how the weights are read. Mapped, they come page by page, which is slow over a
network; what goes to a GPU is needed once only. On CPUs the map stays: its pages can be given back,
and are shared by all servers of the node."""
HTTP_THREADS = 256
"""Its server takes a thread for each connection, kept ones too; when there is none, a request
waits for 5 s, until a kept connection is given up. By default there is about one a slot."""


class LlamaCpp:
    """``llama-server``."""

    key_variable = "LLAMA_API_KEY"
    needs_internal_ports = False

    def command(self, start: EngineStart) -> EngineCommand:
        spec = start.spec
        options = dict(spec.engine_args)
        argv = [
            *(spec.command or ("llama-server",)),
            *_model(start),
            *("--host", start.bind),
            *("--port", str(start.port)),
            *start.tls_options("--ssl-cert-file", "--ssl-key-file"),
            "--metrics",
        ]
        if spec.context is not None:
            argv += ["--ctx-size", str(spec.context)]
        given = {name.replace("_", "-") for name in options}
        if not {"threads", "t"} & given:
            argv += ["--threads", str(spec.resources.cpus)]
        if "threads-http" not in given:
            argv += ["--threads-http", str(HTTP_THREADS)]
        layers = {"n-gpu-layers", "gpu-layers", "ngl"}
        if spec.resources.gpus and not layers & given:
            argv += ["--n-gpu-layers", ALL_LAYERS]
        if start.weights_from_network and spec.resources.gpus and not MAPPING & given:
            argv.append("--no-mmap")
        argv += to_arguments(options, lists="repeat")
        # Not as --alias: other users of the node can read arguments, and would learn the nonce.
        names = {"LLAMA_ARG_ALIAS": f"{spec.model},{start.nonce}"}
        cache = cache_environment(spec.site.cache, spec.engine)
        return EngineCommand(tuple(argv), {**cache, **names})

    def requests_running(self, target: Target) -> int | None:
        try:
            status, body = target.get("/metrics", timeout_s=2.0)
        except NotYetError:
            return None
        names = ("llamacpp:requests_processing", "llamacpp:requests_deferred")
        return metric_sum(body.decode(errors="replace"), names) if status == 200 else None

    def start_split(self, log: str) -> dict[str, float]:
        return {}  # it does not say

    def version(self, target: Target) -> str | None:
        with contextlib.suppress(NotYetError, ValueError, AttributeError):
            status, body = target.get("/props")
            if status == 200:
                info = json.loads(body).get("build_info")
                return f"llama.cpp {info}" if info else None
        return None


class EmbeddedLlamaCpp(LlamaCpp):
    """The same server inside our own Python (:mod:`modeltainer.jobs.engines.llamacpp_embedded`)."""

    def command(self, start: EngineStart) -> EngineCommand:
        spec = start.spec
        settings = {
            "model": spec.source.value,
            "aliases": [spec.model, start.nonce],
            "host": start.bind,
            "port": start.port,
            "context": spec.context,
            "threads": spec.resources.cpus,
            "options": spec.engine_args,
        }
        argv = (sys.executable, "-m", "modeltainer.jobs.engines.llamacpp_embedded")
        cache = cache_environment(spec.site.cache, spec.engine)
        return EngineCommand(argv, {**cache, EMBEDDED_SETTINGS: json.dumps(settings)})

    def version(self, target: Target) -> str | None:
        from importlib.metadata import version

        return f"xllamacpp {version('xllamacpp')}"


def _model(start: EngineStart) -> list[str]:
    source = start.spec.source
    if source.kind == "path":
        return ["--model", source.value]
    return ["--hf-repo", source.value, *(["--hf-file", source.file] if source.file else [])]
