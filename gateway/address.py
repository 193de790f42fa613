"""Where the gateway of a registry is: its state file, written by the gateway, read by mt-submit.

Light imports only: the CLI reads this on each start.
"""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path

import msgspec

from modeltainer.registry.atomic import read_bounded, write_whole
from modeltainer.registry.layout import Layout
from modeltainer.scheduler import start_ticks

_MAX_BYTES = 64 * 1024


@dataclass(frozen=True)
class GatewayAddress:
    """One running gateway, as its state file tells."""

    host: str
    """The login node it runs on."""
    pid: int
    start_ticks: int
    """Start time of the process in clock ticks, so that a reused pid is not taken for it."""
    started_unix: float
    socket: str | None = None
    """Path of its Unix socket on that node; None when it listens on TCP."""
    url: str = "http://localhost"
    """Base URL; for a Unix socket the host name in it means nothing."""
    token: str = ""
    """A key for mt-submit of the same user (the file is readable by its owner only)."""

    @property
    def here(self) -> bool:
        """It runs on this host."""
        return self.host == socket.gethostname()

    @property
    def alive(self) -> bool | None:
        """Whether its process runs; None when it is on another host and cannot be seen."""
        if not self.here:
            return None
        return start_ticks(self.pid) == self.start_ticks


def state_file(layout: Layout) -> Path:
    """Where the state is kept."""
    return layout.gateway / "gateway.json"


def read(layout: Layout) -> GatewayAddress | None:
    """The gateway that a registry knows of, alive or not; None without one (or with a damaged or
    foreign file)."""
    try:
        data, stat = read_bounded(state_file(layout), _MAX_BYTES)
        if stat.st_uid != os.getuid():
            return None
        return msgspec.json.decode(data, type=GatewayAddress)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def write(layout: Layout, address: GatewayAddress) -> None:
    """Publish, owner-only.

    Raises:
        OSError: the registry cannot be written.
    """
    layout.create()
    write_whole(state_file(layout), msgspec.json.encode(address) + b"\n")


def remove(layout: Layout, address: GatewayAddress) -> None:
    """Take the state away, unless another gateway has written its own since."""
    if read(layout) == address:
        with contextlib.suppress(OSError):
            state_file(layout).unlink()
