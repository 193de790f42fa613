"""``python -m modeltainer.gateway.worker``: one of several processes that serve one gateway.

Started by :mod:`.supervisor`, which writes a :class:`WorkerStart` to its standard input. When the
channel through which connections come is closed, the supervisor is gone and the worker ends.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import msgspec

READY = b"ready\n"
"""Written to standard output when connections are taken."""


class WorkerStart(msgspec.Struct, frozen=True):
    """What a worker is told."""

    number: int
    """From 0."""
    workers: int
    settings: str
    """:class:`.settings.GatewaySettings` as JSON."""
    root: str
    """Of the registry."""
    config_file: str | None
    log_file: str | None
    owner_token: str
    folder: str
    """Of :mod:`.peers`."""
    channel: int
    """Descriptor of this worker's end of :mod:`.dispatch`'s channel."""
    limits: int
    """Descriptor of :mod:`.shared_limits`."""


def main() -> int:
    """Serve until told to end, or until the supervisor is gone."""
    # One that only starts reads the newest configuration anyway; the imports take their time.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from modeltainer import core_files
    from modeltainer.gateway.log import JsonLog
    from modeltainer.gateway.peers import Peers
    from modeltainer.gateway.serve import gateway_of, run
    from modeltainer.gateway.settings import GatewaySettings
    from modeltainer.gateway.shared_limits import KEYS, SharedLimiter
    from modeltainer.registry.layout import Layout

    start = msgspec.json.decode(sys.stdin.buffer.readline(), type=WorkerStart)
    core_files.forbid()
    settings = GatewaySettings.model_validate_json(start.settings)
    log_file = Path(start.log_file) if start.log_file else None
    log = JsonLog(log_file, max_bytes=settings.log_max_bytes, kept=settings.log_kept)

    def full() -> None:
        log.warning("limits_full", keys=KEYS)

    gateway = gateway_of(
        settings,
        Layout(Path(start.root)),
        Path(start.config_file) if start.config_file else None,
        log,
        start.owner_token,
        peers=Peers(Path(start.folder), start.number, start.workers),
        limiter=SharedLimiter(start.limits, start.number, full),
    )

    def announce() -> None:
        os.write(1, READY)

    run(gateway, [], announce, channel=socket.socket(fileno=start.channel))
    return 0


if __name__ == "__main__":
    sys.exit(main())
