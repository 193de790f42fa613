"""Starting and ending the gateway as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modeltainer.cli.exit_codes import TIMEOUT
from modeltainer.cli.failures import Failure
from modeltainer.cli.text import indented

if TYPE_CHECKING:
    from modeltainer.gateway.address import GatewayAddress
    from modeltainer.registry.layout import Layout

START_S = 30.0
"""For a gateway to answer; its imports come from a shared filesystem."""
LOG_LINES = 15


def spawn(
    config_file: Path,
    layout: Layout,
    changes: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> GatewayAddress:
    """Run ``mt-submit gateway start --foreground`` in a session of its own, and see it answer.

    Args:
        changes: its ``--listen``, ``--host`` and ``--port``.
        environ: by default this process's own.

    Raises:
        Failure: it ended, or gave no answer; with what it said.
        OSError: the registry cannot be written.
    """
    from modeltainer.cli.gateway_client import answers, door_of
    from modeltainer.gateway import address

    layout.create()
    log = address.of_host(layout, "gateway", "log")
    argv = [sys.executable, "-m", "modeltainer.cli.main"]
    argv += ["--config", str(config_file), "gateway", "start", "--foreground", "--log", str(log)]
    for name, value in (changes or {}).items():
        argv += [f"--{name}", str(value)]
    # The log is JSON lines only; what else the process says, as when it cannot start, goes beside.
    said_to = address.of_host(layout, "gateway", "out")
    with os.fdopen(os.open(said_to, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "ab") as out:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=environ,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_S
        while process.poll() is None and time.monotonic() < deadline:
            found = address.read(layout)
            if found is not None and found.pid == process.pid and answers(door_of(found)):
                return found
            time.sleep(0.05)
    except BaseException:
        process.terminate()
        raise
    status = process.poll()
    process.terminate()
    how = f"gave no answer within {START_S:g} s" if status is None else "could not start"
    said = said_to.read_text(errors="replace").splitlines()[-LOG_LINES:]
    raise Failure(
        f"the gateway {how}" + (f"; it said:\n{indented(said)}" if said else ""),
        f"all of it is in {log} and {said_to}",
    )


def end(found: GatewayAddress, limit_s: float) -> None:
    """Ask a gateway of this host to end, and see it gone.

    Raises:
        Failure: it still has answers under way when the time is up.
    """
    try:
        os.kill(found.pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    deadline = time.monotonic() + limit_s
    while found.alive:
        if time.monotonic() >= deadline:
            raise Failure(
                f"the gateway (pid {found.pid}) still has answers under way after {limit_s:g} s",
                f"wait, or run: kill {found.pid}   (a second signal breaks them off)",
                TIMEOUT,
            )
        time.sleep(0.05)
