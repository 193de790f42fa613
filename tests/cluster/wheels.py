"""A package index for hosts that reach nothing outside: wheels of what ModelTainer needs."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from tests.cluster.environment import SOURCE, dependencies, pip_paths, pip_settings
from tests.cluster.layers import Layer
from tests.cluster.rootfs import FLAVOURS

SCRIPT = """
python3 -m venv /tmp/pip
/tmp/pip/bin/python -m pip wheel --no-cache-dir --wheel-dir /wheels {}
rm -rf /tmp/pip
"""


def wheels(flavour: str) -> Path:
    """A folder for pip's ``--find-links``, for the Python of a flavour's hosts: with it
    ``pip install .`` works in a checkout, and what that builds with is there as well."""
    wanted = (*dependencies(SOURCE / "pyproject.toml"), "setuptools>=77")
    layer = Layer(
        f"{flavour}-wheels",
        FLAVOURS[flavour].system,
        SCRIPT.format(" ".join(quote(name) for name in wanted)),
        prelude=pip_settings(),
        binds=tuple((path, str(path)) for path in pip_paths()),
    )
    return layer.stack[0] / "wheels"
