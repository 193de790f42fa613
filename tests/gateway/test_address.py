"""State files: one per host, since login nodes share the registry."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from modeltainer.gateway import address
from modeltainer.gateway.address import GatewayAddress
from modeltainer.registry.layout import Layout
from modeltainer.scheduler import start_ticks

HERE = GatewayAddress(
    socket.gethostname(), os.getpid(), start_ticks(os.getpid()) or 0, time.time(), "/s", token="t"
)


def test_two_login_nodes_do_not_take_each_others_place(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    other = GatewayAddress("login2", 7, 7, time.time() + 5)
    address.write(layout, HERE)
    address.write(layout, other)
    assert address.read_all(layout) == [HERE, other]
    assert address.read(layout) == HERE
    address.remove(layout, HERE)
    assert address.read(layout) == other
    address.remove(layout, other)
    assert address.read(layout) is None


def test_a_dead_one_here_gives_way_to_one_elsewhere(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    dead = GatewayAddress(HERE.host, HERE.pid, HERE.start_ticks + 1, 1.0)
    address.write(layout, dead)
    assert address.read(layout) == dead
    other = GatewayAddress("login2", 7, 7, 0.5)
    address.write(layout, other)
    assert address.read(layout) == other


def test_another_gateways_file_is_not_removed(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    address.write(layout, HERE)
    address.remove(layout, GatewayAddress(HERE.host, 1, 1, 1.0))
    (layout.gateway / "gateway.broken.json").write_text("{")
    assert address.read_all(layout) == [HERE]
