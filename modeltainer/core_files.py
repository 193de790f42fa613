"""No core files: a crash would leave keys and prompts in one, wherever the site puts them."""

from __future__ import annotations

import contextlib
import resource


def forbid() -> None:
    """None for this process and those it starts. The hard limit stays: whoever debugs an engine
    raises the soft one again in ``command`` (``ulimit -c unlimited``)."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
