"""A launch as most tests need it; each says only what matters to it."""

from __future__ import annotations

from typing import Any

from modeltainer.spec import LaunchSpec, Resources, Site, Source


def launch_spec(**fields: Any) -> LaunchSpec:
    """llama.cpp on the node itself with a file, unless told otherwise."""
    given = {
        "launch_id": "m-r0-abcdef",
        "model": "m",
        "replica": 0,
        "engine": "llamacpp",
        "runtime": "native",
        "source": Source("path", "/m.gguf"),
        "resources": Resources(),
        "site": Site(registry="/r", cache="/c"),
        **fields,
    }
    return LaunchSpec(**given)
