"""Ports on a shared node, without a race.

Between choosing a free port and the engine's bind, another job could take it. So the agent keeps
the port itself, on a socket that never listens. Among agents of one node, of whichever user, an
abstract Unix socket named after the port decides; like ports, these names belong to the network
namespace, and they vanish with their holder (unix(7)). The engine may share the address: Linux
allows it where both sockets have ``SO_REUSEADDR`` and none listens yet (vLLM), or both have
``SO_REUSEPORT`` and one owner (llama-server); socket(7), ip(7). An engine with neither finds the
port taken; the agent then lets go of it just before the next try, on another port.
"""

from __future__ import annotations

import contextlib
import errno
import random
import socket
from dataclasses import dataclass

ANY_PORT_TRIES = 20
INTERNAL_BASE = 20_000
INTERNAL_BLOCK = 64
"""Ports one vLLM server may need for its own processes, counted up from ``VLLM_PORT``."""
INTERNAL_BLOCKS = 180


class NoFreePortError(RuntimeError):
    """Every port the site allows is taken on this node."""


@dataclass
class HeldPort:
    """A port that is ours until :meth:`release`."""

    port: int
    _socket: socket.socket
    _name: socket.socket

    def share(self) -> None:
        """Let go of the address, for an engine that cannot share it; other agents keep off."""
        self._socket.close()

    def release(self) -> None:
        """Let go of the port; twice is fine."""
        self._socket.close()
        self._name.close()


def hold_port(address: str, allowed: tuple[int, int] | None) -> HeldPort:
    """Take a port on ``address`` (an IPv4 address, ``0.0.0.0`` for all).

    Args:
        allowed: inclusive range; None takes any port the kernel hands out.

    Raises:
        NoFreePortError: all ports of the range are taken.
        OSError: the address is not this node's.
    """
    if allowed is None:
        for _ in range(ANY_PORT_TRIES):
            with contextlib.suppress(OSError):
                return _hold(address, 0)
        return _hold(address, 0)
    low, high = allowed
    # Random order: agents that start together on one node seldom meet.
    for port in random.sample(range(low, high + 1), high - low + 1):
        try:
            return _hold(address, port)
        except OSError as error:
            if error.errno not in {errno.EADDRINUSE, errno.EACCES}:
                raise
    raise NoFreePortError(f"every port from {low} to {high} is taken on this node")


def _hold(address: str, port: int) -> HeldPort:
    holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # Without this, a port whose last connections are still in TIME_WAIT counts as taken.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((address, port))
        # Only now: set before, it would let us in beside an engine of ours that listens there.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        got: int = holder.getsockname()[1]
        return HeldPort(got, holder, _take_name(f"port-{got}"))
    except BaseException:
        holder.close()
        raise


def _take_name(name: str) -> socket.socket:
    """Take a name on this node. Raises OSError (EADDRINUSE) when somebody has it."""
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        holder.bind(f"\0modeltainer-{name}")
    except BaseException:
        holder.close()
        raise
    return holder


@dataclass
class InternalPorts:
    """A block of port numbers that no other agent on this node uses as its base."""

    base: int
    _holder: socket.socket

    def release(self) -> None:
        self._holder.close()


def hold_internal_ports() -> InternalPorts:
    """Reserve a disjoint ``VLLM_PORT`` base among the agents of this node.

    Raises:
        NoFreePortError: all blocks are reserved.
    """
    for block in random.sample(range(INTERNAL_BLOCKS), INTERNAL_BLOCKS):
        with contextlib.suppress(OSError):
            holder = _take_name(f"block-{block}")
            return InternalPorts(INTERNAL_BASE + block * INTERNAL_BLOCK, holder)
    raise NoFreePortError("every block of internal ports is reserved on this node")
