"""What processes have in common that a gateway runs beside it (``gateway/companion_process.py``).

They end at SIGTERM and when standard input closes, so also when the gateway is killed; and of those
of several hosts that share a registry, one works.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

LEASE_RENEW_S, LEASE_STALE_S = 3.0, 30.0
"""Of the lock that the working one holds."""


def config_option(module: str, text: str | None, argv: Sequence[str] | None) -> Path | None:
    """The ``--config`` of ``python -m MODULE``."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=text)
    parser.add_argument("--config", type=Path, help="models.yaml; found as mt-submit does if unset")
    found: Path | None = parser.parse_args(argv).config
    return found


def told_to_end() -> threading.Event:
    """Set when this process is to end. Takes over its signals and its standard input."""
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: over.set())

    def until_closed() -> None:
        while os.read(0, 4096):
            pass
        over.set()

    threading.Thread(target=until_closed, name="stdin", daemon=True).start()
    return over


def say(line: str) -> None:
    """One line with the time, flushed."""
    print(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {line}", flush=True)
