"""Where plain requests meet slow clients, limits, pings, timeouts and the gateway's end: as all
others do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from modeltainer.gateway.endpoint_set import LiveEndpoint
from modeltainer.gateway.log import JsonLog
from modeltainer.gateway.timed_connection import TimedProtocol
from modeltainer.gateway.upstream import connect
from modeltainer.registry import keys
from tests.engine.scripted import (
    DONE,
    END,
    STREAM_HEAD,
    Gate,
    Pause,
    Request,
    Send,
    Step,
    piece,
    stream,
    token,
    whole,
)
from tests.gateway.setup import World, read_until

STREAMED = b'{"model":"m","stream":true}'


@pytest.fixture(params=["plain", "not plain"])
def request_of(world: World, request: pytest.FixtureRequest) -> Callable[[bytes], bytes]:
    """Makes a request's bytes; one that expects something is not plain, whatever it is."""
    more = "" if request.param == "plain" else "expect: nothing\r\n"
    return lambda body: world.raw_request(body, more=more)


def test_a_client_that_reads_nothing_gets_no_more_answers(
    world: World, request_of: Callable[[bytes], bytes]
) -> None:
    engine = world.launch().engine
    engine.answer = whole({"x": "y" * 60_000})
    with world.serving(), socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = world.url.removeprefix("http://").split(":")
        connection.connect((host, int(port)))
        connection.setblocking(False)
        for _ in range(200):
            with contextlib.suppress(BlockingIOError):
                connection.send(request_of(b'{"model":"m"}'))
            time.sleep(0.005)
        # What fills the kernel's buffers (Linux takes up to 4 MiB and more), and not all.
        assert len(engine.requests) < 150


def test_leaving_after_a_large_request_was_handed_over(
    world: World, request_of: Callable[[bytes], bytes]
) -> None:
    engine = world.launch().engine
    engine.answer = [Send(STREAM_HEAD), piece(b": ping\n\n"), Gate()]
    body = json.dumps({"model": "m", "stream": True, "x": "y" * 100_000}).encode()
    with world.serving():
        with world.raw() as connection:
            connection.sendall(request_of(body))
            asked = engine.wait_request()
            time.sleep(0.1)
        assert asked.gone.wait(1)
        world.settled()
        assert [one["status"] for one in world.log("request")] == [499]


@pytest.mark.parametrize("plain", [True, False])
def test_a_request_that_no_endpoint_may_have_counts_once(world: World, plain: bool) -> None:
    world.launch().engine.answer = whole({"error": "x"}, "503 Service Unavailable")
    _, key = keys.create(world.layout, "two", rpm=2)
    body = b'{"model":"m"}'
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    with world.serving():
        for _ in range(5):
            assert world.chat().status_code == 503  # now the breaker is open
        found = [
            world.client.post(
                "/v1/chat/completions", content=body if plain else iter([body]), headers=headers
            ).status_code
            for _ in range(3)
        ]
        assert found == [503, 503, 429]


def test_the_first_ping_comes_in_time(world: World) -> None:
    engine = world.launch().engine
    with world.serving(ping_interval=0.5):
        for number in range(8):
            # The connection is kept, and with it the timer of the request before.
            engine.answer = stream(token("a"), DONE)
            assert world.chat(stream=True).status_code == 200
            time.sleep(0.013 * (number % 4))
            engine.answer = [Gate()]
            with world.raw() as connection:
                connection.sendall(world.raw_request(STREAMED))
                asked = time.monotonic()
                read_until(connection, b": ping")
                assert time.monotonic() - asked < 0.9


def test_nobody_is_pinged_who_did_not_ask_for_it(world: World) -> None:
    world.launch().engine.answer = [Pause(1.2), *stream(token("a"), DONE)]
    with world.serving():
        assert world.chat(stream=True).content == token("a") + DONE


def test_an_answer_that_is_there_is_not_pinged_for(
    world: World, request_of: Callable[[bytes], bytes]
) -> None:
    def answer(request: Request) -> list[Step]:
        if b"first" in request.body:
            return [Pause(0.8), *whole({"ok": 1})]
        return whole({"error": {"message": "bad", "code": 400}}, "400 Bad Request")

    engine = world.launch().engine
    engine.answer = answer
    settings: dict[str, Any] = {"ping_interval": 0.3, "max_connections": 1}
    with world.serving(**settings), world.raw() as first, world.raw() as second:
        first.sendall(world.raw_request(b'{"model":"m","user":"first"}'))
        engine.wait_request()
        second.sendall(request_of(STREAMED))  # waits for the first one's connection
        assert read_until(second, b"}}").startswith(b"HTTP/1.1 400")


def test_who_leaves_within_the_body_is_logged(
    world: World, request_of: Callable[[bytes], bytes]
) -> None:
    world.launch()
    with world.serving():
        with world.raw() as connection:
            connection.sendall(request_of(b'{"model":"m"}')[:-3])
            world.until(lambda: world.gateway.proxy.in_flight == 1)
        [line] = world.log("request")
        assert (line["status"], line["client_gone"]) == (499, True)
        assert line["key_id"]
        world.settled()


def test_total_timeout_counts_from_the_head(
    world: World, request_of: Callable[[bytes], bytes]
) -> None:
    world.launch().engine.answer = [Gate()]
    request = request_of(b'{"model":"m"}')
    with world.serving(total_timeout=1.5), world.raw() as connection:
        began = time.monotonic()
        connection.sendall(request[:-3])
        time.sleep(1.2)
        connection.sendall(request[-3:])
        assert connection.recv(4096).startswith(b"HTTP/1.1 504")
        assert time.monotonic() - began < 2.4


def test_what_was_admitted_before_the_drain_is_served(
    world: World, request_of: Callable[[bytes], bytes]
) -> None:
    world.launch()
    request = request_of(b'{"model":"unknown"}')
    with world.serving(drain=3.0), world.raw() as connection:
        connection.sendall(request[:-3])
        world.until(lambda: world.gateway.proxy.in_flight == 1)
        world.gateway.begin_drain()
        connection.sendall(request[-3:])
        assert connection.recv(4096).startswith(b"HTTP/1.1 404")


def test_a_connection_at_rest_holds_no_body(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[TimedProtocol] = []
    begin = TimedProtocol.connection_made

    def noted(self: TimedProtocol, transport: Any) -> None:
        made.append(self)
        begin(self, transport)

    monkeypatch.setattr(TimedProtocol, "connection_made", noted)
    world.launch().engine.answer = whole({"ok": 1})
    body = json.dumps({"model": "m", "x": "y" * 900_000}).encode()
    with world.serving(), world.raw() as connection:
        connection.sendall(world.raw_request(body))
        read_until(connection, b"}")
        world.settled()
        assert made
        assert all(not one._data for one in made)


def test_a_next_request_that_does_not_come_spoils_no_answer(
    world: World, monkeypatch: pytest.MonkeyPatch, request_of: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr(TimedProtocol, "head_timeout_s", 0.2)
    engine = world.launch().engine
    engine.answer = [
        Send(STREAM_HEAD),
        piece(token("a")),
        Pause(0.6),
        piece(token("b")),
        piece(DONE),
        END,
    ]
    with world.serving(), world.raw() as connection:
        connection.sendall(request_of(STREAMED))
        engine.wait_request()
        connection.sendall(b"\r\n")
        # Behind its end the next request may be refused.
        answer = read_until(connection, b"\r\n0\r\n\r\n").partition(b"\r\n0\r\n\r\n")[0]
        assert b" 408 " not in answer


@pytest.mark.parametrize("where", ["connecting", "asking", "answering", "streaming"])
def test_a_fault_of_our_own_is_an_answer_and_leaves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def fail(*_: object, **__: object) -> Any:
        raise ValueError("a fault")

    engine = world.launch().engine
    # More than the first event, so that there is something to do while the stream passes.
    engine.answer = [*stream(token("a"))[:-1], Pause(0.05), piece(b"data: x\n"), END]
    place = {
        "connecting": "modeltainer.gateway.pool.connect",
        "asking": "modeltainer.gateway.proxy.request_head",
        "answering": "modeltainer.gateway.fast_path.response_headers",
        "streaming": "modeltainer.gateway.relay.StraightOn.take",
    }[where]
    with world.serving():
        with monkeypatch.context() as patch:
            patch.setattr(place, fail)
            answer = world.chat(stream=True)
        assert answer.status_code == (200 if where == "streaming" else 500)
        assert '"code":"internal_error"' in answer.text or where == "streaming"
        world.settled()
        # Behind an error frame the connection ends, which its client may not have seen yet.
        asked = {"model": "m", "stream": True}
        with httpx.Client(base_url=world.url, headers=world.client.headers) as client:
            assert client.post("/v1/completions", json=asked).text.count("data:") == 2


def test_a_slow_way_to_the_engine_is_not_our_own_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slowly(*args: Any) -> Any:
        await asyncio.sleep(0.5)
        return await connect(*args)

    monkeypatch.setattr("modeltainer.gateway.pool.connect", slowly)
    world.launch().engine.answer = whole({"ok": True})
    with world.serving():
        assert world.chat().status_code == 200
        assert world.gateway.metrics.overhead.of().total < 0.3


# -- the log --


class _Hooked(deque[bytes]):
    hook: Callable[[], None] | None = None

    def popleft(self) -> bytes:
        hook, self.hook = self.hook, None
        if hook is not None:
            hook()
        return super().popleft()


def test_no_line_stays_behind_when_another_thread_writes(world: World, tmp_path: Path) -> None:
    """A request ends just while a line of another thread's is written."""
    engine = world.launch().engine
    engine.answer = whole({"ok": 1})
    waiting = _Hooked()
    with world.serving():
        log = world.gateway.log
        log._waiting = waiting
        writing, asked = threading.Event(), threading.Event()

        def hook() -> None:
            writing.set()
            asked.wait(5)

        waiting.hook = hook
        other = threading.Thread(target=log.warning, args=("x",))
        other.start()
        assert writing.wait(5)
        threading.Timer(0.2, asked.set).start()
        for _ in range(3):
            assert world.chat().status_code == 200
        other.join()
        world.until(lambda: len(world.log("request")) == 3)


def test_a_log_that_nobody_reads_stops_no_request(world: World, tmp_path: Path) -> None:
    world._log_file = tmp_path / "pipe"
    os.mkfifo(world._log_file)
    world.launch().engine.answer = whole({"ok": True})
    reader = os.open(world._log_file, os.O_RDONLY | os.O_NONBLOCK)
    with world.serving():
        log = world.gateway.log
        log.start()
        for _ in range(400):  # more than a pipe holds
            assert world.chat().status_code == 200
        log.stop()  # it hangs, and is left to hang
        log.info("ended")
        os.set_blocking(reader, True)
        came = b""
        while came.count(b'"request"') < 400 or b'"ended"' not in came:
            came += os.read(reader, 65536)
        world.settled()
    os.close(reader)


def test_lines_to_a_pipe_are_whole() -> None:
    reading, writing = os.pipe()
    sizes: list[int] = []

    async def write(log: JsonLog) -> None:
        for number in range(50):
            log._waiting.append(b"%03d" % number + b"x" * 300 + b"\n")
        log._flush()

    log = JsonLog()
    log._descriptor = lambda: writing
    real = os.write

    def noted(descriptor: int, data: bytes) -> int:
        sizes.append(len(data))
        assert data.endswith(b"\n")
        return real(descriptor, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("modeltainer.gateway.log.os.write", noted)
        asyncio.run(write(log))
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        lines = file.read().splitlines()
    assert [int(line[:3]) for line in lines] == list(range(50))
    assert 4 <= len(sizes) <= 6
    assert max(sizes) <= 4096


def test_slots_come_back(world: World) -> None:
    """However often requests are handed over."""
    engine = world.launch().engine
    engine.answer = [Send(STREAM_HEAD), piece(b": ping\n\n"), piece(token("a")), piece(DONE), END]
    with world.serving():
        for _ in range(50):
            assert world.chat(stream=True).status_code == 200
        world.settled()
        [live] = world.gateway.endpoints.all
        assert isinstance(live, LiveEndpoint)
        assert live.pool.idle == 1
