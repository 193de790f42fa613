"""Several workers for one gateway: started and ended together, and started again when they die."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from modeltainer.gateway import peers, shared_limits
from modeltainer.gateway.companion_process import CompanionProcess
from modeltainer.gateway.dispatch import Dispatcher, channel
from modeltainer.gateway.listening import CannotStartError, workers_folder
from modeltainer.gateway.log import JsonLog
from modeltainer.gateway.settings import GatewaySettings
from modeltainer.gateway.worker import READY, WorkerStart
from modeltainer.registry.layout import Layout

READY_S = 60.0
"""For a worker to take connections; its imports come from a shared filesystem."""
LEAST_LIFE_S = 5.0
"""A worker that died sooner is started again only after so long."""


@dataclass
class Supervisor:
    """What its workers have in common."""

    settings: GatewaySettings
    layout: Layout
    config_file: Path | None
    log_file: Path | None
    log: JsonLog
    token: str
    listener: socket.socket

    def run(self, announce: Callable[[], None], companions: Sequence[CompanionProcess]) -> None:
        """Serve until SIGTERM or SIGINT; the first drains, the second ends at once.

        Raises:
            CannotStartError: a worker ended before it was ready, or never was.
        """
        folder = workers_folder(self.layout)
        limits = shared_limits.create()
        try:
            asyncio.run(self._run(folder, limits, announce, companions))
        finally:
            os.close(limits)
            shutil.rmtree(folder, ignore_errors=True)

    async def _run(
        self,
        folder: Path,
        limits: int,
        announce: Callable[[], None],
        companions: Sequence[CompanionProcess],
    ) -> None:
        loop = asyncio.get_running_loop()
        dispatcher = Dispatcher(self.listener)
        running: dict[int, asyncio.subprocess.Process] = {}
        ending = asyncio.Event()

        def pass_on(number: int) -> None:
            if number != signal.SIGHUP:
                ending.set()
            for process in running.values():
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(number)

        for caught in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            told = signal.SIGHUP if caught == signal.SIGHUP else signal.SIGTERM
            loop.add_signal_handler(caught, pass_on, told)

        async def keep(number: int, first: asyncio.subprocess.Process) -> None:
            process = first
            while True:
                began = time.monotonic()
                status = await process.wait()
                dispatcher.remove(number)
                peers.keep_ended(folder, number, process.pid)
                await asyncio.to_thread(shared_limits.forget_worker, limits, number)
                if ending.is_set():
                    return
                self.log.warning("worker_ended", worker=number, pid=process.pid, status=status)
                if time.monotonic() - began < LEAST_LIFE_S:
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(ending.wait(), LEAST_LIFE_S)
                        return
                process, ours = await self._start(number, folder, limits)
                running[number] = process
                try:
                    await _ready(process)
                except CannotStartError:
                    ours.close()  # so that it ends, if it has not already
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
                else:
                    dispatcher.add(number, ours)

        try:
            channels = {}
            for number in range(self.settings.workers):
                running[number], channels[number] = await self._start(number, folder, limits)
            await asyncio.gather(*(_ready(one) for one in running.values()))
            for number, ours in channels.items():
                dispatcher.add(number, ours)
            dispatcher.start()
            announce()
            beside = [loop.create_task(one.run()) for one in companions]
            await asyncio.gather(*(keep(number, one) for number, one in running.items()))
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
        finally:
            dispatcher.close()
            for process in running.values():
                with contextlib.suppress(ProcessLookupError):
                    process.kill()

    async def _start(
        self, number: int, folder: Path, limits: int
    ) -> tuple[asyncio.subprocess.Process, socket.socket]:
        """A worker that begins to start, and the end of its channel."""
        ours, theirs = channel()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "modeltainer.gateway.worker"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=(theirs.fileno(), limits),
            start_new_session=True,  # a terminal's Ctrl-C comes through the supervisor
        )
        assert process.stdin is not None
        start = WorkerStart(
            number=number,
            workers=self.settings.workers,
            settings=self.settings.model_dump_json(),
            root=str(self.layout.root),
            config_file=None if self.config_file is None else str(self.config_file),
            log_file=None if self.log_file is None else str(self.log_file),
            owner_token=self.token,
            folder=str(folder),
            channel=theirs.fileno(),
            limits=limits,
        )
        process.stdin.write(msgspec.json.encode(start) + b"\n")
        theirs.close()
        self.log.info("worker_started", worker=number, pid=process.pid)
        return process, ours


async def _ready(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    try:
        said = await asyncio.wait_for(process.stdout.readline(), READY_S)
    except asyncio.TimeoutError:
        raise CannotStartError(f"a worker did not start within {READY_S:g} s") from None
    if said != READY:
        raise CannotStartError("a worker could not start; the gateway's log says why")
