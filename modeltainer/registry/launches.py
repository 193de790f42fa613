"""Launch folders: what the login side writes, and how both sides read it."""

from __future__ import annotations

import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec

from modeltainer import spec as spec_file
from modeltainer.registry.atomic import fsync_folder, read_bounded, write_whole
from modeltainer.registry.layout import LAUNCH_ID, Layout
from modeltainer.registry.records import (
    MAX_RECORD_BYTES,
    BadRecordError,
    LaunchSecret,
    Submission,
    decode,
    encode,
)
from modeltainer.spec import LaunchSpec
from modeltainer.tls import new_certificate

MAX_SPEC_BYTES = 1024 * 1024


STOPPED = "mt-submit stop"
"""The reason in a request to drain that comes from a stop: nothing takes this launch's place."""


@dataclass(frozen=True)
class Launch:
    """One launch folder as found; ``submission`` is None between planning and sbatch's answer."""

    spec: LaunchSpec
    submission: Submission | None


NONCE = "~nonce-"
"""What a launch's second name begins with. llama.cpp signs its answers with the first of its names
in the order of their bytes."""


def new_secret(env: dict[str, str] | None = None, *, tls: bool = False) -> LaunchSecret:
    """Fresh credentials: 256 random bits of key, 128 of nonce; with a certificate for TLS.

    Raises:
        NoTlsError: certificates cannot be made here.
    """
    made = new_certificate("modeltainer engine") if tls else None
    return LaunchSecret(
        key=f"mte-{secrets.token_urlsafe(32)}",
        nonce=f"{NONCE}{secrets.token_hex(16)}",
        env=env or {},
        certificate=made.certificate if made else None,
        private_key=made.private_key if made else None,
    )


def create(layout: Layout, spec: LaunchSpec, secret: LaunchSecret) -> Path:
    """Make the launch folder before anything is submitted; returns it.

    Raises:
        OSError: the registry is read-only, full or missing; nothing is left behind.
    """
    layout.create()
    folder = layout.launch(spec.launch_id)
    folder.mkdir(mode=0o700)
    try:
        layout.log(spec.launch_id).mkdir(mode=0o700)
        write_whole(layout.secret(spec.launch_id), encode(secret))
        write_whole(layout.spec(spec.launch_id), spec_file.encode(spec))
        fsync_folder(layout.launches)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def record_submission(layout: Layout, submission: Submission) -> None:
    """Note which job a launch became.

    Raises:
        OSError: the registry cannot be written.
    """
    write_whole(layout.submission(submission.launch_id), encode(submission))


def read_spec(folder: Path) -> LaunchSpec:
    """The spec of one launch folder.

    Raises:
        OSError: the file cannot be read.
        BadRecordError: it is not a spec.
    """
    data, _ = read_bounded(folder / "spec.json", MAX_SPEC_BYTES)
    try:
        return spec_file.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadRecordError(f"{folder / 'spec.json'}: {error}") from error


def read_secret(folder: Path) -> LaunchSecret:
    """The credentials of one launch folder.

    Raises:
        OSError: the file cannot be read.
        BadRecordError: it is damaged, or others than its owner may read it.
    """
    path = folder / "secret.json"
    data, stat = read_bounded(path, MAX_RECORD_BYTES)
    if stat.st_mode & 0o077:
        raise BadRecordError(f"{path} is open to others (mode {stat.st_mode & 0o777:o}); not used")
    return decode(data, LaunchSecret)


def read_submission(folder: Path) -> Submission | None:
    """Which job the launch became; None when not submitted yet (or the file is damaged)."""
    try:
        return decode(read_bounded(folder / "submission.json", MAX_RECORD_BYTES)[0], Submission)
    except (OSError, BadRecordError):
        return None


def read_all(layout: Layout) -> list[Launch]:
    """Every readable launch, ordered by name; foreign and half-made folders are left out."""
    try:
        names = sorted(name for name in os.listdir(layout.launches) if LAUNCH_ID.fullmatch(name))
    except FileNotFoundError:
        return []
    found = []
    for name in names:
        folder = layout.launches / name
        try:
            found.append(Launch(read_spec(folder), read_submission(folder)))
        except (OSError, BadRecordError):
            continue
    return found


def request_drain(layout: Layout, launch_id: str, reason: str) -> None:
    """Ask a launch's agent to finish what runs and end; asking twice is fine.

    Raises:
        OSError: the launch is gone, or the registry cannot be written.
    """
    write_whole(layout.drain(launch_id), reason.encode() + b"\n")


def drain_reason(folder: Path) -> str | None:
    """Why this launch was asked to drain; None when it was not. Never raises."""
    try:
        data, _ = read_bounded(folder / "drain", MAX_RECORD_BYTES)
    except OSError:
        return None
    return data.decode(errors="replace").strip() or "it was asked to drain"


class LaunchReader:
    """:func:`read_all` again and again: what is written once is read once."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._known: dict[str, Launch] = {}

    def read_all(self) -> list[Launch]:
        """Every readable launch, ordered by name.

        Raises:
            OSError: the folder is out of reach.
        """
        try:
            listed = os.listdir(self._layout.launches)
        except FileNotFoundError:
            return []
        known = self._known
        self._known = {}
        for name in sorted(name for name in listed if LAUNCH_ID.fullmatch(name)):
            folder = self._layout.launches / name
            one = known.get(name)
            try:
                if one is None:
                    one = Launch(read_spec(folder), read_submission(folder))
                elif one.submission is None:
                    one = Launch(one.spec, read_submission(folder))
            except (OSError, BadRecordError):
                continue
            self._known[name] = one
        return list(self._known.values())

    def drop(self, launch_id: str) -> None:
        """It was removed."""
        self._known.pop(launch_id, None)


def remove(layout: Layout, launch_id: str) -> None:
    """Delete a launch's folder with its logs; missing is fine."""
    shutil.rmtree(layout.launch(launch_id), ignore_errors=True)
