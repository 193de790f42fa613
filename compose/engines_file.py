"""``engines.json``: what the registrar knows of the project's engines. No secrets in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from modeltainer.compose.project import Identity
from modeltainer.spec import LaunchSpec


@dataclass(frozen=True)
class EngineEntry:
    """One engine of the project."""

    service: str
    """Its host name in the project's networks."""
    port: int
    key_secret: str
    """Name of the file with its key, in the folder of secrets."""
    identity: Identity
    spec: LaunchSpec


def encode_engines(entries: Sequence[EngineEntry]) -> bytes:
    """The file's content, indented for people."""
    return msgspec.json.format(msgspec.json.encode(list(entries)), indent=2) + b"\n"


def read_engines(file: Path) -> list[EngineEntry]:
    """Read :func:`encode_engines`' file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not such a file; the message says where.
    """
    try:
        return msgspec.json.decode(file.read_bytes(), type=list[EngineEntry])
    except msgspec.MsgspecError as error:
        raise ValueError(f"{file}: {error}") from error
