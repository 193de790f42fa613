"""One file an engine: how its server is started, and how it tells what it is doing."""

from __future__ import annotations

from modeltainer.jobs.engines.base import Engine, EngineStart
from modeltainer.spec import EngineName, RuntimeName


def engine_for(name: EngineName, runtime: RuntimeName) -> Engine:
    """The engine of a launch."""
    if name == "vllm":
        from modeltainer.jobs.engines.vllm import Vllm

        return Vllm()
    if runtime == "embedded":
        from modeltainer.jobs.engines.llamacpp import EmbeddedLlamaCpp

        return EmbeddedLlamaCpp()
    from modeltainer.jobs.engines.llamacpp import LlamaCpp

    return LlamaCpp()


__all__ = ["Engine", "EngineStart", "engine_for"]
