"""Endpoints that are dead without a word: no refused connection says so.

The gateway is a process with its own settings, but for what a test names, or patches.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from modeltainer.gateway.breaker import FAILURES
from modeltainer.registry import launches
from tests.engine.scripted import DONE, ScriptedEngine, stream, token
from tests.gateway.setup import World
from tests.gateway.test_lifecycle import Process

OUT_WITHIN_S = 5.0
STREAM = {"model": "m", "stream": True}


@contextmanager
def gateway(world: World, root: Path, **settings: object) -> Iterator[Process]:
    """A gateway that gives requests to all that was launched."""
    alone: dict[str, object] = {"reconcile": False, "batches": {"enabled": False}}
    made = Process(world, root, log=None, **alone, **settings)
    try:
        launched = len(list(world.layout.endpoints.iterdir()))
        World.until(lambda: sum(routed(made).values()) == launched, within=20)
        yield made
    finally:
        made.process.kill()
        made.process.communicate()


def routed(process: Process) -> dict[str, bool]:
    """By launch, whether it gets requests."""
    with process.client() as client:
        listed = client.get("/admin/status").json()["endpoints"]
    return {one["launch_id"]: one["routed"] for one in listed}


def ask(process: Process, body: dict[str, object]) -> httpx.Response:
    with process.client() as client:
        return client.post("/v1/completions", json=body)


@contextmanager
def black_hole(port: int) -> Iterator[None]:
    """Nothing that connects to the port is answered, as if its host had lost its power."""
    with socket.socket() as hole:
        hole.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        hole.bind(("127.0.0.1", port))
        hole.listen(0)
        fill = [socket.socket() for _ in range(4)]
        for one in fill:
            one.setblocking(False)
            one.connect_ex(hole.getsockname())
        try:
            yield
        finally:
            for one in fill:
                one.close()


@contextmanager
def engine_process(world: World) -> Iterator[subprocess.Popen[str]]:
    """One that can be stopped by a signal, and its endpoint."""
    secret = launches.new_secret()
    program = [sys.executable, "-m", "tests.engine.scripted", "m", secret.nonce]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as engine:
        try:
            assert engine.stdout is not None
            world.launch(engine=ScriptedEngine(port=int(engine.stdout.readline())), secret=secret)
            yield engine
        finally:
            engine.kill()


@pytest.mark.parametrize("streamed", [False, True])
def test_a_host_that_vanished_is_out_at_once_and_fails_no_request(
    world: World, tmp_path: Path, streamed: bool
) -> None:
    gone, there = world.launch(), world.launch()
    with gateway(world, tmp_path) as process:
        gone.engine.stop()
        with black_hole(gone.engine.port):
            began, tries = time.monotonic(), []
            while routed(process)[gone.launch_id]:
                answer = ask(process, {"model": "m", "stream": streamed})
                assert answer.status_code == 200
                tries.append(answer.headers["x-modeltainer-attempts"])
                assert time.monotonic() - began < OUT_WITHIN_S
            assert tries.count("2") == 1
            for _ in range(4):
                answer = ask(process, {"model": "m", "stream": streamed})
                assert (answer.status_code, answer.headers["x-modeltainer-attempts"]) == (200, "1")
            assert not gone.engine.requests
            assert len(there.engine.requests) == len(tries) + 4


def test_nobody_has_to_ask_for_a_host_that_vanished(world: World, tmp_path: Path) -> None:
    gone, there = world.launch(), world.launch()
    with gateway(world, tmp_path) as process:
        gone.writer.write(period_s=0.5)  # its last words
        gone.engine.stop()
        with black_hole(gone.engine.port):
            World.until(lambda: not routed(process)[gone.launch_id], within=20)
            assert routed(process)[there.launch_id]


def test_no_request_fails_while_a_lease_runs_out(world: World, tmp_path: Path) -> None:
    orphan = world.launch()
    world.launch()
    with gateway(world, tmp_path) as process:
        World.until(
            lambda: ask(process, {"model": "m"}).is_success and bool(orphan.engine.requests)
        )
        orphan.writer.write(period_s=0.5)  # its last words
        began = time.monotonic()
        while routed(process)[orphan.launch_id]:
            assert ask(process, {"model": "m"}).status_code == 200
            assert time.monotonic() - began < 20
        asked = len(orphan.engine.requests)
        assert [ask(process, {"model": "m"}).status_code for _ in range(4)] == [200] * 4
        assert len(orphan.engine.requests) == asked


def test_a_stopped_engine_holds_up_streams_for_the_first_token_timeout_only(
    world: World, tmp_path: Path
) -> None:
    world.launch().engine.answer = stream(token("a"), DONE)
    with (
        engine_process(world) as engine,
        gateway(world, tmp_path, first_token_timeout=1.5) as process,
    ):
        engine.send_signal(signal.SIGSTOP)
        answers = [ask(process, STREAM) for _ in range(4)]
        assert {one.content for one in answers} == {token("a") + DONE}
        tries = [one.headers["x-modeltainer-attempts"] for one in answers]
        assert set(tries) == {"1", "2"}
        assert all(routed(process).values()), "it may be reading a long prompt, for all one knows"
        engine.send_signal(signal.SIGCONT)
        World.until(lambda: b'"63 "' in ask(process, STREAM).content, within=20)


def test_a_stopped_engine_is_left_out_after_five_first_byte_timeouts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modeltainer.gateway.breaker.FIRST_PAUSE_S", 60.0)
    other = world.launch().engine

    def answered() -> int:
        return world.client.post("/v1/completions", json={"model": "m"}).status_code

    with engine_process(world) as engine, world.serving(first_byte_timeout=1.0):
        engine.send_signal(signal.SIGSTOP)
        statuses: list[int] = []
        while statuses.count(504) < FAILURES:
            statuses.append(answered())
        assert set(statuses) == {200, 504}
        asked = len(other.requests)
        assert asked >= FAILURES - 1, "they take turns"
        assert [answered() for _ in range(3)] == [200] * 3
        assert len(other.requests) == asked + 3


def test_who_waits_for_a_stopped_engine_keeps_others_from_it(world: World, tmp_path: Path) -> None:
    other = world.launch()
    with engine_process(world) as engine, gateway(world, tmp_path) as process:
        engine.send_signal(signal.SIGSTOP)

        def wait() -> None:
            with contextlib.suppress(httpx.TransportError):  # until the gateway is ended
                ask(process, {"model": "m"})

        def held() -> bool:
            with process.client() as client:
                listed = client.get("/admin/status").json()["endpoints"]
            return any(one["in_flight"] for one in listed if one["launch_id"] != other.launch_id)

        while not held():
            waiting = threading.Thread(target=wait)
            waiting.start()
            World.until(lambda: held() or not waiting.is_alive(), within=20)  # noqa: B023
        before = len(other.engine.requests)
        assert [ask(process, {"model": "m"}).status_code for _ in range(6)] == [200] * 6
        assert len(other.engine.requests) == before + 6
    waiting.join(20)
