"""A held port is refused to a second agent and open to the engine."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from modeltainer.jobs.ports import (
    INTERNAL_BLOCK,
    NoFreePortError,
    hold_internal_ports,
    hold_port,
)


def test_a_second_agent_gets_another_port() -> None:
    first = hold_port("127.0.0.1", None)
    with pytest.raises(NoFreePortError, match="taken"):
        hold_port("127.0.0.1", (first.port, first.port))
    first.release()
    again = hold_port("127.0.0.1", (first.port, first.port))
    assert again.port == first.port
    again.release()


@pytest.mark.parametrize("option", [socket.SO_REUSEADDR, socket.SO_REUSEPORT])
def test_an_engine_that_can_share_serves_on_the_held_port(option: int) -> None:
    held = hold_port("127.0.0.1", None)
    with socket.socket() as engine:
        engine.setsockopt(socket.SOL_SOCKET, option, 1)
        engine.bind(("127.0.0.1", held.port))
        engine.listen()
        for _ in range(20):  # every connection reaches the engine: the holder never listens
            with socket.create_connection(("127.0.0.1", held.port), timeout=2):
                engine.settimeout(2)
                engine.accept()[0].close()
    held.release()


def test_an_engine_that_cannot_is_refused_while_the_port_is_held() -> None:
    held = hold_port("127.0.0.1", None)
    with socket.socket() as engine, pytest.raises(OSError, match="in use"):
        engine.bind(("127.0.0.1", held.port))
    held.release()


def test_many_processes_at_the_same_moment_get_different_ports() -> None:
    low = hold_port("127.0.0.1", None)
    base = max(20000, min(low.port, 60000))
    low.release()
    code = (
        "import sys, time; from modeltainer.jobs.ports import hold_port;"
        f"held = hold_port('127.0.0.1', ({base}, {base + 40}));"
        "print(held.port, flush=True); sys.stdin.read()"
    )
    agents = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(12)
    ]
    taken = [int(agent.stdout.readline()) for agent in agents if agent.stdout]
    for agent in agents:
        agent.communicate("")
    assert len(set(taken)) == len(agents)


def test_internal_ports_are_disjoint() -> None:
    blocks = [hold_internal_ports() for _ in range(50)]
    bases = sorted(block.base for block in blocks)
    assert all(b - a >= INTERNAL_BLOCK for a, b in zip(bases, bases[1:], strict=False))
    for block in blocks:
        block.release()
