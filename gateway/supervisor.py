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
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
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


_Started = tuple[asyncio.subprocess.Process, socket.socket]
"""A worker, and the end of its channel."""


class _Workers:
    """Those that run, and what they are told."""

    def __init__(self, start: Callable[[int], Awaitable[_Started]]) -> None:
        self._start = start
        self.running: dict[int, asyncio.subprocess.Process] = {}
        self.ending = asyncio.Event()
        self._starting: dict[int, bool] = {}
        """Whether one that is not ready yet is to be told of a new configuration."""

    def tell(self, told: int) -> None:
        """Pass a signal on."""
        if told != signal.SIGHUP:
            self.ending.set()
        for number, process in self.running.items():
            if told == signal.SIGHUP and number in self._starting:
                self._starting[number] = True  # the signal might end it now
            else:
                _tell(process, told)

    async def begin(self, number: int) -> _Started:
        """Start one."""
        self._starting[number] = False
        process, ours = await self._start(number)
        self.running[number] = process
        if self.ending.is_set():  # it was not there to be told
            _tell(process, signal.SIGTERM)
        return process, ours

    async def ready(self, number: int) -> None:
        """Wait until one is ready.

        Raises:
            CannotStartError: it never will be.
        """
        process = self.running[number]
        await _ready(process)
        if self._starting.pop(number):
            _tell(process, signal.SIGHUP)


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
        self.log.start()
        try:
            asyncio.run(self._run(folder, limits, announce, companions))
        finally:
            self.log.stop()
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
        workers = _Workers(partial(self._start, folder=folder, limits=limits))
        ending = workers.ending
        for caught in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            told = signal.SIGHUP if caught == signal.SIGHUP else signal.SIGTERM
            loop.add_signal_handler(caught, workers.tell, told)

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
                process, ours = await workers.begin(number)
                try:
                    await workers.ready(number)
                except CannotStartError:
                    ours.close()  # so that it ends, if it has not already
                    _tell(process, signal.SIGKILL)
                else:
                    dispatcher.add(number, ours)

        try:
            channels = {}
            for number in range(self.settings.workers):
                _, channels[number] = await workers.begin(number)
            try:
                await asyncio.gather(*map(workers.ready, channels))
            except CannotStartError:
                if ending.is_set():
                    return
                raise
            for number, ours in channels.items():
                dispatcher.add(number, ours)
            dispatcher.start()
            announce()
            beside = [loop.create_task(one.run()) for one in companions]
            await asyncio.gather(*(keep(number, one) for number, one in workers.running.items()))
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
        finally:
            dispatcher.close()
            for process in workers.running.values():
                _tell(process, signal.SIGKILL)

    async def _start(self, number: int, *, folder: Path, limits: int) -> _Started:
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


def _tell(process: asyncio.subprocess.Process, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended
        process.send_signal(number)


async def _ready(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    try:
        said = await asyncio.wait_for(process.stdout.readline(), READY_S)
    except asyncio.TimeoutError:
        raise CannotStartError(f"a worker did not start within {READY_S:g} s") from None
    if said != READY:
        raise CannotStartError("a worker could not start; the gateway's log says why")
