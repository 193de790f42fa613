"""The folder of a compose project, and what is in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GATEWAY_PORT = 8000
"""Inside the project's networks."""


@dataclass(frozen=True)
class Identity:
    """What makes an engine provably ours; kept when a project is rendered again."""

    launch_id: str
    nonce: str
    """A second name that only this project's engine serves."""


@dataclass(frozen=True)
class Project:
    """Where a project lives and how it is published."""

    folder: Path
    cache: Path
    """Downloads and compiled kernels, on this machine."""
    user: str
    """``UID:GID`` of every service's processes; never root."""
    bind: str = "127.0.0.1"
    """Address of this machine on which the gateway (and the proxy) are published."""
    port: int = 8000
    tls_port: int = 8443
    grafana_port: int = 3000
    build_context: Path | None = None
    """The source tree, where the gateway's image can be built from it."""
    file_name: str = "compose.yaml"
    identities: dict[str, Identity] = field(default_factory=dict)
    """By service."""

    @property
    def file(self) -> Path:
        return self.folder / self.file_name

    @property
    def registry(self) -> Path:
        return self.folder / "registry"

    @property
    def secrets(self) -> Path:
        return self.folder / "secrets"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"


def bind_mount(source: object, target: str, *, read_only: bool = True) -> dict[str, Any]:
    """A file or folder of this machine at ``target``."""
    mount: dict[str, Any] = {"type": "bind", "source": str(source), "target": target}
    if read_only:
        mount["read_only"] = True
    return mount


def published(address: str, port: int, target: int) -> dict[str, Any]:
    """Port ``target`` of a service on this machine's ``address:port``."""
    return {
        "target": target,
        "published": str(port),
        "host_ip": address,
        "protocol": "tcp",
        "mode": "host",
    }
