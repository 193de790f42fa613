"""A client that leaves frees its engine within a second, wherever its request stands."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest

from modeltainer.gateway.paths import PROXIED
from tests.engine.scripted import STREAM_HEAD, Gate, Send, piece, token
from tests.gateway.setup import World

BEFORE_HEAD: list[Send] = []
AFTER_HEAD = [Send(STREAM_HEAD)]
MID_STREAM = [Send(STREAM_HEAD), piece(token("a"))]
AFTER_GATE = [piece(b"data: [DONE]\n\n"), Send(b"0\r\n\r\n")]
MID_JSON = [Send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{")]


@pytest.mark.parametrize("path", PROXIED)
@pytest.mark.parametrize("steps", [BEFORE_HEAD, AFTER_HEAD, MID_STREAM, MID_JSON])
def test_engine_sees_the_close(world: World, steps: list[Send], path: str) -> None:
    engine = world.launch().engine
    engine.answer = [*steps, Gate()]
    with world.serving():
        connection = world.raw()
        connection.sendall(world.smallest_request(path))
        request = engine.wait_request()
        if steps in (MID_STREAM, MID_JSON):
            connection.recv(1000)
        left = time.monotonic()
        connection.close()
        assert request.gone.wait(2)
        assert request.gone_at - left < 1
        world.settled()
        world.until(lambda: bool(world.log("request")))
        [line] = world.log("request")
        assert line["client_gone"] is True
        assert line["status"] == (200 if steps in (MID_STREAM, MID_JSON) else 499)


def test_leaving_while_waiting_for_a_connection(world: World) -> None:
    engine = world.launch().engine
    engine.answer = [Gate()]
    with world.serving(max_connections=1):
        first, second = world.raw(), world.raw()
        first.sendall(world.raw_request(b'{"model":"m"}'))
        engine.wait_request()
        second.sendall(world.raw_request(b'{"model":"m"}'))
        [live] = world.gateway.endpoints.all
        world.until(lambda: live.outstanding == 2)
        second.close()
        world.until(lambda: live.outstanding == 1, within=1)
        first.close()
        world.settled()
        assert len(engine.requests) == 1


def test_leaving_in_the_middle_of_the_body(world: World) -> None:
    engine = world.launch().engine
    with world.serving():
        connection = world.raw()
        connection.sendall(world.raw_request(b'{"model":"m"}')[:-4])
        world.until(lambda: world.gateway.proxy.in_flight == 1)
        connection.close()
        world.settled()
        assert not engine.requests


def test_five_hundred_streams_leave_nothing(world: World) -> None:
    engine = world.launch().engine
    engine.answer = [*MID_STREAM, *AFTER_GATE]
    with world.serving():
        for _ in range(500):
            assert world.chat(stream=True).content.endswith(b"[DONE]\n\n")
        world.settled()
        [live] = world.gateway.endpoints.all
        assert live.pool.idle == 1
        assert engine.open == 1


def test_a_thousand_streams_at_once(world: World) -> None:
    engine = world.launch().engine
    gate = Gate()
    engine.answer = [Send(STREAM_HEAD), piece(token("a")), gate, *AFTER_GATE]
    request = b'{"model":"m","stream":true}'
    # The engine, the gateway and the clients share one interpreter here: a connection that waits
    # for its turn is not one that the engine refused.
    patient: dict[str, Any] = {
        "max_connections": 1000,
        "connect_timeout": 60.0,
        "pool_timeout": 60.0,
    }
    with world.serving(**patient), contextlib.ExitStack() as held:
        connections = [held.enter_context(world.raw()) for _ in range(1000)]
        for connection in connections:
            connection.sendall(world.raw_request(request))
        world.until(lambda: len(engine.requests) == 1000, within=60)
        assert world.gateway.proxy.in_flight == 1000
        gate.event.set()
        for connection in connections:
            answer = b""
            while not answer.endswith(b"0\r\n\r\n"):
                piece_of_it = connection.recv(65536)
                assert piece_of_it
                answer += piece_of_it
            assert answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        world.settled()
