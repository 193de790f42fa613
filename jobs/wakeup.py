"""The main loop's sleep, and what ends it: the job's signals, a child's end, another thread."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
from collections.abc import Callable
from types import FrameType


class Wakeup:
    """Lets the main loop sleep, and wakes it at a signal, at a child's end or from a thread."""

    def __init__(self) -> None:
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)

    def install(self, on_signal: Callable[[int], None]) -> None:
        """Take over the job's signals (submitit set its own before; its payload runs in the main
        thread). SIGINT and SIGHUP reach a bare machine's agent from a terminal that is not its own
        concern, so they do nothing."""

        def handle(number: int, frame: FrameType | None) -> None:
            on_signal(number)

        for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGURG):
            signal.signal(number, handle)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD):
            signal.signal(number, lambda number, frame: None)
        signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())

    def sleep(self, seconds: float) -> None:
        """Sleep, at most this long."""
        ready, _, _ = select.select([self._read], [], [], seconds)
        if ready:
            with contextlib.suppress(BlockingIOError):
                self._read.recv(4096)

    def wake(self) -> None:
        """End the sleep; from any thread."""
        with contextlib.suppress(BlockingIOError):
            self._write.send(b"\0")
