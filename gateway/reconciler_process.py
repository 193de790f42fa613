"""Keeps a reconciler running beside the gateway while anything is declared."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path

from modeltainer.gateway.log import JsonLog
from modeltainer.registry.layout import Layout

LOOK_S = 1.0
"""Between two looks whether anything is declared."""
PAUSE_S = 5.0
"""Before it is started again when it ended."""


class ReconcilerProcess:
    """``python -m modeltainer.reconcile`` as a child; it ends when its standard input does, so
    also when the gateway is killed."""

    def __init__(self, layout: Layout, config_file: Path | None, log: JsonLog) -> None:
        self._layout, self._log = layout, log
        self._argv = [sys.executable, "-m", "modeltainer.reconcile"]
        if config_file is not None:
            self._argv += ["--config", str(config_file)]

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            if await asyncio.to_thread(self._anything_declared):
                await self._live()
                await asyncio.sleep(PAUSE_S)
            await asyncio.sleep(LOOK_S)

    def _anything_declared(self) -> bool:
        with contextlib.suppress(OSError):
            return any(name.endswith(".json") for name in os.listdir(self._layout.deployments))
        return False

    async def _live(self) -> None:
        log = self._layout.gateway / "reconcile.log"
        with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as out:
            # A session of its own: Ctrl-C in the gateway's terminal is the gateway's to answer.
            child = await asyncio.create_subprocess_exec(
                *self._argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._log.info("reconciler_started", pid=child.pid)
        try:
            status = await child.wait()
        except asyncio.CancelledError:
            if child.stdin is not None:
                child.stdin.close()  # it finishes its look
            raise
        self._log.warning("reconciler_ended", status=status)
