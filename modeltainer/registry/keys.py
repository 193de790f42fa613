"""The clients' keys: one file per key, holding a hash and never the key itself.

A key file is written once and removed to revoke it, so the folder's listing alone tells a reader
what changed; opening a folder asks an NFS server anew, whatever it has cached.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from modeltainer.registry.atomic import read_bounded, write_whole
from modeltainer.registry.layout import Layout

KEY_SCHEMA = 1
_KEY_FILE = re.compile(r"k[a-z0-9]{8}\.json")
_MAX_BYTES = 64 * 1024
_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"


@dataclass(frozen=True)
class KeyRecord:
    """What is kept of one client key."""

    id: str
    name: str
    sha256: str
    """Of the plain key, in hex. A plain hash will do: the key is 256 random bits."""
    models: tuple[str, ...] = ()
    """Models it may use; empty allows all, and the gateway's status page too."""
    created_unix: float = 0.0
    expires_unix: float | None = None
    rpm: int | None = None
    """Requests a minute; None: no limit, as for the next two."""
    tpm: int | None = None
    """Tokens a minute, those of prompts included."""
    concurrent: int | None = None
    """Requests at once."""
    schema: int = KEY_SCHEMA

    @property
    def limited(self) -> bool:
        """Whether it has any limit but its models and its time."""
        return bool(self.rpm or self.tpm or self.concurrent)

    def allows(self, model: str) -> bool:
        """Whether a model of this name in models.yaml may be used."""
        return not self.models or model in self.models

    def allows_by(self, name: str, model: str) -> bool:
        """Whether a model may be used under a name that is its own, its alias or split among
        several: a key for the name of a split may use all that stands behind it."""
        return self.allows(model) or name in self.models

    def expired(self, now_unix: float) -> bool:
        """Whether the key's time is over (wall clock)."""
        return self.expires_unix is not None and now_unix >= self.expires_unix


def digest(plain: str) -> str:
    """The hash that stands for a key in its file."""
    return hashlib.sha256(plain.encode("utf-8", "surrogateescape")).hexdigest()


def create(
    layout: Layout,
    name: str,
    models: Sequence[str] = (),
    expires_unix: float | None = None,
    *,
    rpm: int | None = None,
    tpm: int | None = None,
    concurrent: int | None = None,
) -> tuple[KeyRecord, str]:
    """Make a key; the plain form is returned here and never again.

    Args:
        name: for people (whom or what it is for).
        models: names in models.yaml it may use; empty allows all.
        expires_unix: when it stops working; None never.
        rpm: requests a minute; None: no limit, as for the next two.
        tpm: tokens a minute.
        concurrent: requests at once.

    Raises:
        OSError: the registry cannot be written.
    """
    plain = f"mt-{secrets.token_urlsafe(32)}"
    record = KeyRecord(
        id="k" + "".join(secrets.choice(_ALPHABET) for _ in range(8)),
        name=name,
        sha256=digest(plain),
        models=tuple(models),
        created_unix=time.time(),
        expires_unix=expires_unix,
        rpm=rpm,
        tpm=tpm,
        concurrent=concurrent,
    )
    layout.create()
    write_whole(layout.keys / f"{record.id}.json", msgspec.json.encode(record) + b"\n")
    return record, plain


def list_keys(layout: Layout) -> list[KeyRecord]:
    """Every readable key, oldest first; damaged and foreign files are left out."""
    found = [record for name in _names(layout) if (record := _read(layout, name)) is not None]
    return sorted(found, key=lambda record: (record.created_unix, record.id))


def revoke(layout: Layout, key: str) -> KeyRecord | None:
    """Remove a key, given its id or its name; None when there is no such key, or when the name
    stands for more than one.

    Raises:
        OSError: the registry cannot be written.
    """
    records = list_keys(layout)
    hits = [one for one in records if one.id == key] or [one for one in records if one.name == key]
    if len(hits) != 1:
        return None
    (layout.keys / f"{hits[0].id}.json").unlink(missing_ok=True)
    return hits[0]


class KeyRing:
    """The keys as a gateway holds them: looked up by hash, refreshed from the folder's listing."""

    def __init__(self, layout: Layout, clock: Callable[[], float] = time.time) -> None:
        self._layout = layout
        self._clock = clock
        self._by_file: dict[str, KeyRecord] = {}
        self._by_hash: dict[str, KeyRecord] = {}
        self.generation = 0
        """Grows with each change: a record found before the last one may be revoked."""

    def refresh(self) -> bool:
        """Read the folder again, and only the files that are new; True when anything changed.

        A folder that is out of reach for the moment changes nothing.
        """
        try:
            names = _names(self._layout)
        except OSError:
            return False
        by_file = {}
        for name in names:
            record = self._by_file.get(name) or _read(self._layout, name)
            if record is not None:
                by_file[name] = record
        if by_file == self._by_file:
            return False
        # One assignment each: lookups run in another thread.
        self._by_hash = {record.sha256: record for record in by_file.values()}
        self._by_file = by_file
        self.generation += 1
        return True

    def find(self, plain: str) -> KeyRecord | None:
        """The record of a key that is valid now."""
        hashed = digest(plain)
        record = self._by_hash.get(hashed)
        if record is None or not hmac.compare_digest(record.sha256, hashed):
            return None
        return None if record.expired(self._clock()) else record

    def still_valid(self, record: KeyRecord, generation: int) -> bool:
        """Whether a record that was found when the ring had this :attr:`generation` is valid now,
        which takes less than to find it again."""
        return generation == self.generation and not record.expired(self._clock())

    def named(self, key_id: str) -> KeyRecord | None:
        """The record of a key that is valid now, by its id."""
        record = self._by_file.get(f"{key_id}.json")
        return None if record is None or record.expired(self._clock()) else record

    def __len__(self) -> int:
        return len(self._by_hash)


def _names(layout: Layout) -> list[str]:
    try:
        listed = os.listdir(layout.keys)
    except FileNotFoundError:
        return []
    return sorted(name for name in listed if _KEY_FILE.fullmatch(name))


def _read(layout: Layout, name: str) -> KeyRecord | None:
    try:
        data, stat = read_bounded(layout.keys / name, _MAX_BYTES)
        record = msgspec.json.decode(data, type=KeyRecord)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    if stat.st_uid != os.getuid() or stat.st_mode & 0o022:
        return None  # others could have written it
    whole = record.schema == KEY_SCHEMA and f"{record.id}.json" == name
    return record if whole else None
