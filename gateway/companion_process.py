"""Processes that a gateway keeps running beside it while there is work for them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

from modeltainer.batch.orders import BatchBook
from modeltainer.gateway.address import of_host
from modeltainer.gateway.log import JsonLog
from modeltainer.registry.layout import Layout

LOOK_S = 1.0
"""Between two looks whether there is work."""
PAUSE_S = 5.0
"""Before it is started again when it ended."""


class CompanionProcess:
    """``python -m MODULE`` as a child; it ends when its standard input does, so also when the
    gateway is killed. Its output goes to a log of its own in the registry, one a host: it says
    what keeps it from working also where another host's works."""

    def __init__(
        self,
        module: str,
        name: str,
        layout: Layout,
        config_file: Path | None,
        log: JsonLog,
        *,
        needed: Callable[[], bool],
    ) -> None:
        """``needed`` is asked in a thread, and may raise OSError."""
        self._name, self._log, self._needed = name, log, needed
        self._output = of_host(layout, name, "log")
        self._argv = [sys.executable, "-m", module]
        if config_file is not None:
            self._argv += ["--config", str(config_file)]

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            if await asyncio.to_thread(self._is_needed):
                await self._live()
                await asyncio.sleep(PAUSE_S)
            await asyncio.sleep(LOOK_S)

    def _is_needed(self) -> bool:
        with contextlib.suppress(OSError):
            return self._needed()
        return False

    async def _live(self) -> None:
        descriptor = os.open(self._output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "ab") as out:
            # A session of its own: Ctrl-C in the gateway's terminal is the gateway's to answer.
            child = await asyncio.create_subprocess_exec(
                *self._argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._log.info("process_started", name=self._name, pid=child.pid)
        try:
            status = await child.wait()
        except asyncio.CancelledError:
            if child.stdin is not None:
                child.stdin.close()  # it finishes its look
            raise
        level = "warning" if status else "info"
        self._log.event(level, "process_ended", name=self._name, status=status)


def reconciler(layout: Layout, config_file: Path | None, log: JsonLog) -> CompanionProcess:
    """Keeps up what is declared."""

    def anything_declared() -> bool:
        return any(name.endswith(".json") for name in os.listdir(layout.deployments))

    return CompanionProcess(
        "modeltainer.reconcile", "reconcile", layout, config_file, log, needed=anything_declared
    )


def batches(layout: Layout, config_file: Path | None, log: JsonLog) -> CompanionProcess:
    """Carries out batches that were ordered."""
    needed = BatchBook(layout).anything_open
    return CompanionProcess("modeltainer.batch", "batches", layout, config_file, log, needed=needed)
