"""ModelTainer: LLM inference servers as Slurm + Apptainer jobs behind one OpenAI-compatible URL.

The public API; each name is imported when it is first used, so the package is cheap to import::

    from modeltainer import launch, wait, stop, list_launches

    rows = launch("qwen2.5-7b")
    wait([row.launch_id for row in rows])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modeltainer.__about__ import __version__

if TYPE_CHECKING:
    from modeltainer.config.load import load as load_config
    from modeltainer.config.resolve import Overrides
    from modeltainer.service import launch, list_launches, stop, wait
    from modeltainer.view import Row

_HOMES = {
    "Overrides": "modeltainer.config.resolve",
    "Row": "modeltainer.view",
    "launch": "modeltainer.service",
    "list_launches": "modeltainer.service",
    "stop": "modeltainer.service",
    "wait": "modeltainer.service",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "load_config":
        return import_module("modeltainer.config.load").load
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'modeltainer' has no attribute {name!r}")
    return getattr(import_module(home), name)


__all__ = [
    "Overrides",
    "Row",
    "__version__",
    "launch",
    "list_launches",
    "load_config",
    "stop",
    "wait",
]
