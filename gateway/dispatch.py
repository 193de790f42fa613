"""Connections handed out to workers in turn.

Workers that all accept from one socket get them unevenly: the kernel wakes the same one again and
again, and streams last for minutes. So the supervisor accepts, and passes each connection's
descriptor on through a channel (unix(7), SCM_RIGHTS).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

AT_ONCE = 64
"""Connections taken before the event loop has its next turn."""
RETRY_S = 0.01
"""Before a connection that nobody could take is tried again."""
_MARK = b"c"


def channel() -> tuple[socket.socket, socket.socket]:
    """The supervisor's and the worker's end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return ours, theirs


class Dispatcher:
    """Accepts on a listening socket; one per gateway."""

    def __init__(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._channels: dict[int, socket.socket] = {}
        self._turn = 0
        self._kept: socket.socket | None = None
        """A connection that no worker could take at the moment."""

    def add(self, worker: int, ours: socket.socket) -> None:
        """A worker takes connections from now on."""
        self._channels[worker] = ours

    def remove(self, worker: int) -> None:
        """It takes none any more."""
        ours = self._channels.pop(worker, None)
        if ours is not None:
            ours.close()

    def start(self) -> None:
        """Accept from now on, on the running loop."""
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def close(self) -> None:
        """Accept no more."""
        asyncio.get_running_loop().remove_reader(self._listener)
        if self._kept is not None:
            self._kept.close()
        for worker in list(self._channels):
            self.remove(worker)

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            if self._kept is None:
                try:
                    self._kept, _ = self._listener.accept()
                except BlockingIOError:
                    return
                except OSError:  # no descriptor left, or a client that is gone already
                    self._pause()
                    return
            if not self._hand_over(self._kept):
                self._pause()
                return
            self._kept.close()
            self._kept = None

    def _pause(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listener)

        def go_on() -> None:
            if self._listener.fileno() >= 0:
                loop.add_reader(self._listener, self._accept)
                self._accept()

        loop.call_later(RETRY_S, go_on)

    def _hand_over(self, connection: socket.socket) -> bool:
        """Give it to the next worker that can take it; False when none can."""
        workers = sorted(self._channels)
        for step in range(len(workers)):
            worker = workers[(self._turn + step) % len(workers)]
            with contextlib.suppress(OSError):  # its queue is full, or it ends
                socket.send_fds(self._channels[worker], [_MARK], [connection.fileno()])
                self._turn += step + 1
                return True
        return False


def receive(
    theirs: socket.socket, take: Callable[[socket.socket], None], closed: Callable[[], None]
) -> None:
    """Take what has come through a worker's end, which must not block.

    Args:
        take: is given each connection.
        closed: called when the supervisor has closed its end.
    """
    while True:
        try:
            data, descriptors, _, _ = socket.recv_fds(theirs, len(_MARK), 1)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        if not data:
            closed()
            return
        for descriptor in descriptors:
            take(socket.socket(fileno=descriptor))
