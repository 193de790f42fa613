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


def state_file(layout: Layout, host: str | None = None) -> Path:
    """Where the state of a host's gateway is kept, by default this host's: login nodes share the
    registry, and each may run one."""
    return of_host(layout, "gateway", "json", host)


def of_host(layout: Layout, name: str, kind: str, host: str | None = None) -> Path:
    """A file that one host alone writes, by default this one: what several append to over NFS does
    not stay whole (open(2), O_APPEND)."""
    return layout.gateway / f"{name}.{host or socket.gethostname()}.{kind}"


def read_all(layout: Layout) -> list[GatewayAddress]:
    """Every gateway that a registry knows of, alive or not: this host's first, then those that
    started last. Damaged and foreign files are left out."""
    found = [_read(file) for file in layout.gateway.glob("gateway.*.json")]
    known = [one for one in found if one is not None]
    return sorted(known, key=lambda one: (not one.here, -one.started_unix))


def read(layout: Layout) -> GatewayAddress | None:
    """The gateway to use from here, alive or not: this host's unless it is dead and another host
    has one; None without any."""
    known = read_all(layout)
    return next((one for one in known if one.alive is not False), known[0] if known else None)


def _read(file: Path) -> GatewayAddress | None:
    try:
        data, stat = read_bounded(file, _MAX_BYTES)
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
    write_whole(state_file(layout, address.host), msgspec.json.encode(address) + b"\n")


def remove(layout: Layout, address: GatewayAddress) -> None:
    """Take the state away, unless another gateway has written its own since."""
    file = state_file(layout, address.host)
    if _read(file) == address:
        with contextlib.suppress(OSError):
            file.unlink()
