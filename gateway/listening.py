"""Where the gateway listens: a Unix socket in a folder only its owner can enter, or TCP.

The socket and the lock that keeps a second gateway away lie on a filesystem of this host: shared
ones have no sockets, and locks on them cannot be trusted.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import hashlib
import os
import shutil
import socket
import stat
from pathlib import Path

from modeltainer.gateway.settings import GatewaySettings
from modeltainer.registry.layout import Layout

MAX_SOCKET_PATH = 107
"""Bytes, unix(7)."""


class CannotStartError(RuntimeError):
    """The gateway cannot start; the message says why and what to do."""


def runtime_folder() -> Path:
    """A folder of this host for this user alone, made where it is missing.

    ``$XDG_RUNTIME_DIR`` goes away at logout unless the user lingers (loginctl(1)), and the gateway
    is meant to stay; so it is taken only then, else ``/tmp/modeltainer-UID``.

    Raises:
        CannotStartError: somebody else made the folder, or others may enter it.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and _lingers():
        return private_folder(Path(runtime) / "modeltainer")
    return private_folder(Path(f"/tmp/modeltainer-{os.getuid()}"))  # noqa: S108 (checked below)


def private_folder(folder: Path) -> Path:
    """Make a folder, or check that it is a real one, ours, and closed to others.

    Raises:
        CannotStartError: it is not.
    """
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
    except OSError as error:
        raise CannotStartError(
            f"cannot use {folder}: {error.strerror}; set gateway.socket to a path in a folder of "
            "this host that only you can enter"
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise CannotStartError(
            f"{folder} is not a folder of yours (owner: uid {found.st_uid}); set gateway.socket to "
            "a path in a folder that only you can enter"
        )
    if found.st_mode & 0o077:
        raise CannotStartError(
            f"{folder} is open to others (mode {found.st_mode & 0o777:o}); run: chmod 700 {folder}"
        )
    return folder


def _lingers() -> bool:
    with contextlib.suppress(OSError, KeyError):
        return Path("/var/lib/systemd/linger", getpass.getuser()).exists()
    return False


def _tag(layout: Layout) -> str:
    return hashlib.sha256(os.fsencode(layout.root.absolute())).hexdigest()[:8]


def socket_path(settings: GatewaySettings, layout: Layout) -> Path:
    """Where the Unix socket goes; the default has a mark of the registry in its name, since one
    user may have several.

    Raises:
        CannotStartError: no safe folder, or the path is too long for a socket.
    """
    if settings.socket is None:
        path = runtime_folder() / f"gateway-{_tag(layout)}.sock"
    else:
        chosen = Path(os.path.expandvars(settings.socket)).expanduser().absolute()
        path = private_folder(chosen.parent) / chosen.name
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise CannotStartError(
            f"{path} is too long for a Unix socket ({MAX_SOCKET_PATH} bytes); set gateway.socket"
        )
    return path


def take_lock(layout: Layout) -> int | None:
    """Claim this registry on this host for one gateway; the descriptor is to be kept open. None
    when another process has it. The kernel lets go when the process ends, however it ends.

    Raises:
        CannotStartError: no safe folder.
    """
    path = runtime_folder() / f"gateway-{_tag(layout)}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def workers_folder(layout: Layout) -> Path:
    """An empty folder for the reports of this registry's workers on this host; the lock must be
    held, as what a killed gateway has left there goes.

    Raises:
        CannotStartError: no safe folder.
    """
    folder = runtime_folder() / f"workers-{_tag(layout)}"
    shutil.rmtree(folder, ignore_errors=True)
    return private_folder(folder)


def bind(settings: GatewaySettings, layout: Layout) -> socket.socket:
    """A bound socket; the lock must be held, as a leftover socket file is replaced.

    Raises:
        CannotStartError: the address is taken or not ours to use.
    """
    if settings.listen == "unix":
        return _bind_unix(socket_path(settings, layout))
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise CannotStartError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; set gateway.port "
            "(0 takes any free one), or gateway.listen: unix"
        ) from error
    return listener


def _bind_unix(path: Path) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise CannotStartError(f"{path} exists and is not a socket; set gateway.socket")
        if _answers(path):
            raise CannotStartError(f"another program listens on {path}; set gateway.socket")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise CannotStartError(f"cannot listen on {path}: {error.strerror}") from error
    finally:
        os.umask(before)
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
