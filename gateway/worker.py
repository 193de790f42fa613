"""``python -m modeltainer.gateway.worker``: one of several processes that serve one gateway.

Started by :mod:`.supervisor`, which writes a :class:`WorkerStart` to its standard input and keeps
that open: when it closes, the supervisor is gone and the worker ends.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from modeltainer import core_files
from modeltainer.gateway.app import build
from modeltainer.gateway.log import JsonLog
from modeltainer.gateway.peers import Peers
from modeltainer.gateway.serve import route_server_log, run
from modeltainer.gateway.settings import GatewaySettings
from modeltainer.gateway.shared_limits import SharedLimiter
from modeltainer.registry.layout import Layout

READY = b"ready\n"
"""Written to standard output when connections are taken."""


class WorkerStart(msgspec.Struct, frozen=True):
    """What a worker is told."""

    number: int
    """From 0."""
    workers: int
    settings: str
    """:class:`GatewaySettings` as JSON."""
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
    start = msgspec.json.decode(sys.stdin.buffer.readline(), type=WorkerStart)
    from modeltainer.config.load import find, load, user_folder

    core_files.forbid()
    config_file = Path(start.config_file) if start.config_file else None
    log = JsonLog(Path(start.log_file) if start.log_file else None)
    gateway = build(
        GatewaySettings.model_validate_json(start.settings),
        Layout(Path(start.root)),
        lambda: load(config_file),
        log=log,
        owner_token=start.owner_token,
        config_files=(config_file or find(), user_folder(os.environ) / "site.yaml"),
        peers=Peers(Path(start.folder), start.number, start.workers),
        limiter=SharedLimiter(start.limits, start.number),
    )
    route_server_log(log)

    def announce() -> None:
        os.write(1, READY)

    channel = socket.socket(fileno=start.channel)
    run(gateway, [], announce, channel=channel, until=_supervisor_gone)
    return 0


def _supervisor_gone(tell: Callable[[], None]) -> None:
    """Have ``tell`` called, from a thread, when standard input closes."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        tell()

    threading.Thread(target=wait, name="supervisor", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
