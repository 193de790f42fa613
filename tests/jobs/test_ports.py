"""A held port is refused to a second agent and open to the engine."""

from __future__ import annotations

import itertools
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


def test_an_engine_that_cannot_share_is_refused_until_it_is_let_in() -> None:
    held = hold_port("127.0.0.1", None)
    with socket.socket() as engine:
        with pytest.raises(OSError, match="in use"):
            engine.bind(("127.0.0.1", held.port))
        held.share()
        engine.bind(("127.0.0.1", held.port))
        with pytest.raises(NoFreePortError):  # other agents keep off all the same
            hold_port("127.0.0.1", (held.port, held.port))
    held.release()


def test_a_port_whose_last_connections_are_in_time_wait_can_be_had() -> None:
    with socket.socket() as engine:
        engine.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        engine.bind(("127.0.0.1", 0))
        engine.listen()
        port = engine.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            engine.accept()[0].close()  # the server's end closes first, and so has to wait
    again = hold_port("127.0.0.1", (port, port))
    assert again.port == port
    again.release()


def test_a_port_where_an_engine_of_ours_listens_is_taken() -> None:
    with socket.socket() as engine:
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            engine.setsockopt(socket.SOL_SOCKET, option, 1)
        engine.bind(("127.0.0.1", 0))
        engine.listen()
        port = engine.getsockname()[1]
        with pytest.raises(NoFreePortError):
            hold_port("127.0.0.1", (port, port))


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
    assert all(b - a >= INTERNAL_BLOCK for a, b in itertools.pairwise(bases))
    for block in blocks:
        block.release()
