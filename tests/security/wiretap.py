"""Reads along on a host's network, as root or a switch can. One word a line comes on standard
input; at SIGTERM it prints a JSON list of those that went over the wire."""

from __future__ import annotations

import json
import signal
import socket
import sys

ETH_P_ALL = 3
"""Every protocol (linux/if_ether.h)."""


def main() -> None:
    words = [line.strip().encode() for line in sys.stdin]
    found: set[bytes] = set()

    def tell(number: int, frame: object) -> None:
        print(json.dumps([word.decode() for word in words if word in found]), flush=True)
        sys.exit()

    signal.signal(signal.SIGTERM, tell)
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(ETH_P_ALL))
    tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * 1024 * 1024)
    print("listening", flush=True)
    while True:
        packet = tap.recv(65536)
        found.update(word for word in words if word in packet)


if __name__ == "__main__":
    main()
