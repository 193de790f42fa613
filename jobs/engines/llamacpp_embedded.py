"""llama.cpp's server in a process of our own Python, by xllamacpp: the engine of a bare machine.

Run by the agent as ``python -m modeltainer.jobs.engines.llamacpp_embedded``. Its environment has
the settings, JSON that :class:`modeltainer.jobs.engines.llamacpp.EmbeddedLlamaCpp` writes, and the
key as ``LLAMA_API_KEY``.
"""

from __future__ import annotations

import difflib
import json
import os
import signal
from typing import Any

from modeltainer.jobs.engines.llamacpp import EMBEDDED_SETTINGS, HTTP_THREADS

FIELDS = {
    "batch_size": "n_batch",
    "cache_ram": "cache_ram_mib",
    "cache_reuse": "n_cache_reuse",
    "context_shift": "ctx_shift",
    "ctx_size": "n_ctx",
    "embeddings": "embedding",
    "gpu_layers": "n_gpu_layers",
    "jinja": "use_jinja",
    "keep": "n_keep",
    "metrics": "endpoint_metrics",
    "parallel": "n_parallel",
    "predict": "n_predict",
    "slots": "endpoint_slots",
    "threads_http": "n_threads_http",
    "ubatch_size": "n_ubatch",
}
"""llama-server's options (its --help), and what xllamacpp calls them where it says it otherwise:
the same models.yaml runs with either."""


def serve(settings: dict[str, Any], key: str) -> None:
    """Serve until SIGTERM or SIGINT. Raises SystemExit with a line that says why it cannot."""
    try:
        import xllamacpp
    except ImportError as error:
        raise SystemExit(
            f"error: xllamacpp is not installed ({error}); run: pip install 'modeltainer[embedded]'"
        ) from error
    params = xllamacpp.CommonParams()
    params.model.path = settings["model"]
    params.model_alias = set(settings["aliases"])
    params.hostnames = [settings["host"]]
    params.port = settings["port"]
    params.reuse_port = True
    params.api_keys = [key]
    params.endpoint_metrics = True
    params.ui = False
    params.n_threads_http = HTTP_THREADS
    if settings["context"] is not None:
        params.n_ctx = settings["context"]
    params.cpuparams.n_threads = settings["threads"]
    for name, value in settings["options"].items():
        _set(params, name, value)
    stopped = {signal.SIGTERM, signal.SIGINT}
    # Blocked before the server's threads start, so that they all leave the signals to sigwait.
    signal.pthread_sigmask(signal.SIG_BLOCK, stopped)
    server = xllamacpp.Server(params)
    signal.sigwait(stopped)
    del server
    os._exit(
        0
    )  # the server's threads have no more to say; a slow teardown would only delay the job


def _set(params: Any, option: str, value: Any) -> None:
    name = option.replace("-", "_")
    name = FIELDS.get(name, name)
    if not hasattr(params, name) and name.startswith("no_") and isinstance(value, bool):
        name, value = FIELDS.get(name[3:], name[3:]), not value
    if not hasattr(params, name):
        known = [*FIELDS, *(field for field in dir(params) if not field.startswith("_"))]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0].replace('_', '-')}?" if near else ""
        raise SystemExit(f"error: unknown engine argument {option} for the embedded runtime{hint}")
    try:
        setattr(params, name, value)
    except (TypeError, ValueError, AttributeError) as error:
        raise SystemExit(f"error: engine argument {option}: {error}") from error


if __name__ == "__main__":
    serve(json.loads(os.environ[EMBEDDED_SETTINGS]), os.environ["LLAMA_API_KEY"])
