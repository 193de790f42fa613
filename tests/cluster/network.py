"""The cluster's network: a bridge in a namespace of its own, which nothing leaves or enters."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

PREFIX = "10.77.0"
"""The same in every cluster: each has its own outer namespace."""


def address(number: int) -> str:
    """The address of the host with this number."""
    return f"{PREFIX}.{number}"


@dataclass(frozen=True)
class Network:
    """The outer network namespace, held open by process ``pid``."""

    pid: int

    def create(self) -> None:
        """Make the bridge."""
        self._ip("link set lo up", "link add bridge type bridge", "link set bridge up")

    def join(self, host: str, host_pid: int, number: int) -> None:
        """Join the network namespace of ``host_pid`` by a veth pair."""
        self._ip(
            f"link add {host} type veth peer name eth0 netns {host_pid}",
            f"link set {host} master bridge up",
        )
        ip_in(
            host_pid,
            "link set lo up",
            f"addr add {address(number)}/24 dev eth0",
            "link set eth0 up",
        )

    def cut(self, host: str) -> None:
        """Take the host's cable out: packets vanish, connections stay half-open."""
        self._ip(f"link set {host} down")

    def restore(self, host: str) -> None:
        """Put the host's cable back in."""
        self._ip(f"link set {host} up")

    def _ip(self, *commands: str) -> None:
        ip_in(self.pid, *commands)


def ip_in(pid: int, *commands: str) -> None:
    """Run ip(8) commands in the network namespace of ``pid``."""
    subprocess.run(
        ["nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-batch", "-"],
        input="".join(f"{command}\n" for command in commands),
        text=True,
        check=True,
        capture_output=True,
    )
