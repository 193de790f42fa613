"""Towards the engine: connections, header fields, bodies, timeouts."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import re
import socket
import time
from collections.abc import Awaitable, Callable

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeltainer.gateway.pool import Pool, PoolTimeoutError
from modeltainer.gateway.upstream import (
    UpstreamConnection,
    UpstreamError,
    UpstreamProtocolError,
    connect,
)
from tests.engine.scripted import (
    DONE,
    END,
    STREAM_HEAD,
    Answer,
    Close,
    Gate,
    Pause,
    Request,
    Reset,
    ScriptedEngine,
    Send,
    Step,
    piece,
    stream,
    token,
    whole,
)
from tests.gateway.setup import World


def test_headers_both_ways(world: World) -> None:
    launched = world.launch()
    launched.engine.answer = whole(
        {"ok": 1},
        headers="Connection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nServer: engine\r\n"
        "Openai-Version: 7\r\nX-Request-Id: engine-made\r\n",
    )
    with world.serving():
        response = world.client.post(
            "/v1/completions",
            content=b'{"model":"m"}',
            headers={
                "connection": "x-secret-hop, keep-alive",
                "x-secret-hop": "1",
                "te": "trailers",
                "x-api-key": world.key,
                "cookie": "session=1",
                "accept-encoding": "gzip, br",
                "x-request-id": "abc.DEF-1_2",
                "x-custom": "kept",
                "user-agent": "me",
                "content-type": "application/json",
            },
        )
        request = launched.engine.requests[0]
        sent = {name.lower(): value for name, value in request.headers}
        assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-00", sent.pop("traceparent"))
        assert sent == {
            "host": f"127.0.0.1:{launched.engine.port}",
            "authorization": f"Bearer {launched.secret.key}",
            "accept-encoding": "identity",
            "x-request-id": "abc.DEF-1_2",
            "content-length": "13",
            "x-custom": "kept",
            "user-agent": "me",
            "accept": "*/*",
            "content-type": "application/json",
        }
        assert world.key not in request.head.decode()
        got = response.headers
        assert got["x-request-id"] == "abc.DEF-1_2"
        assert got["openai-version"] == "7"
        assert got["x-modeltainer-attempts"] == "1"
        assert not {"x-hop", "keep-alive", "server"} & set(got)
        log = world.log("request")[-1]
        assert (log["request_id"], log["model"], log["status"]) == ("abc.DEF-1_2", "m", 200)
        everything = (world.layout.root.parent / "gateway.log").read_text()
        assert world.key not in everything
        assert launched.secret.key not in everything


def test_wild_request_id_is_replaced(world: World) -> None:
    world.launch()
    with world.serving():
        for wild in ("a b", "x" * 129, 'a"b', "ü"):
            response = world.client.post(
                "/v1/completions", content=b"[]", headers={b"x-request-id": wild.encode()}
            )
            assert response.headers["x-request-id"].startswith("req-")


def test_only_the_model_is_changed(world: World) -> None:
    engine = world.launch("m", aliases=("nick",)).engine
    odd = (
        b' { "big":12345678901234567890123, "f":1.10e-5,"u":"\\u00e4\xc3\xa4", "model" : "nick" ,'
        b'"nested":{"model":"nick"},"z":[ ] }'
    )
    with world.serving():
        world.client.post("/v1/completions", content=odd)
        assert engine.requests[0].body == odd.replace(b'"model" : "nick"', b'"model" : "m"')


def test_compressed_answer_stays_consistent(world: World) -> None:
    data = gzip.compress(b'{"a": 1}')
    world.launch().engine.answer = whole(data, headers="content-encoding: gzip\r\n")
    with world.serving():
        response = world.chat()
        assert response.json() == {"a": 1}
        assert int(response.headers["content-length"]) == len(data)


def test_compressed_stream_passes_as_it_is(world: World) -> None:
    data = gzip.compress(token("a") * 100 + DONE, mtime=0)
    head = STREAM_HEAD.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n")
    whole_one: list[Step] = [Send(head), piece(data[:12]), Pause(0.05), piece(data[12:])]
    engine = world.launch().engine
    with world.serving():
        asked = {"model": "m", "stream": True}
        for steps in (
            [*whole_one, END],
            whole(data, headers="content-encoding: gzip\r\n", kind="text/event-stream"),
        ):
            engine.answer = steps
            with world.client.stream("POST", "/v1/completions", json=asked) as response:
                assert response.status_code == 200
                assert response.headers["content-encoding"] == "gzip"
                assert b"".join(response.iter_raw()) == data
        world.settled()
        text = world.client.get("/metrics").text
        assert 'modeltainer_gateway_uncounted_total{model="m"} 2' in text
        engine.answer = [*whole_one, Close()]
        with (
            pytest.raises(httpx.RemoteProtocolError),  # there are no words for it in gzip
            world.client.stream("POST", "/v1/completions", json=asked) as response,
        ):
            list(response.iter_raw())
        world.settled()


def test_connections_are_reused(world: World) -> None:
    engine = world.launch().engine
    with world.serving():
        for _ in range(5):
            world.chat()
        assert len({request.connection for request in engine.requests}) == 1


def test_kept_connection_that_the_engine_closed(world: World) -> None:
    engine = world.launch().engine
    with world.serving():
        for count in range(1, 6):
            assert world.chat().status_code == 200
            engine.drop_idle()
            assert len(engine.requests) == count


def test_kept_connection_that_dies_under_the_request_is_replayed_once(world: World) -> None:
    engine = world.launch().engine
    bodies: list[bytes] = []

    def answer(request: Request) -> list[Step]:
        bodies.append(request.body)
        first_on_its_connection = [one.connection for one in engine.requests].count(
            request.connection
        ) == 1
        return whole({"ok": 1}) if first_on_its_connection else [Reset()]

    engine.answer = answer
    with world.serving():
        assert world.chat().status_code == 200
        assert world.chat(n=1).status_code == 200
        assert len(bodies) == 3
        assert bodies[1] == bodies[2]


def test_death_on_a_fresh_connection_is_not_replayed_there(world: World) -> None:
    engine = world.launch().engine
    engine.answer = [Close()]
    with world.serving():
        response = world.chat()
        assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_died")
        assert len(engine.requests) == 1
        world.settled()


@pytest.mark.parametrize(
    "steps",
    [
        [Send(b"SSH-2.0-OpenSSH\r\n\r\n")],
        [Send(b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n")],
        [Send(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000), Gate()],
        [Send(b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"), Gate()],
    ],
)
def test_not_http(world: World, steps: list[Step]) -> None:
    world.launch().engine.answer = steps
    with world.serving(first_byte_timeout=2):
        assert world.chat().status_code == 502
        world.settled()


def test_interim_answers_are_skipped(world: World) -> None:
    world.launch().engine.answer = [
        Send(b"HTTP/1.1 100 Continue\r\n\r\n"),
        Send(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"),
        *whole({"ok": 1}),
    ]
    with world.serving():
        response = world.chat()
        assert response.json() == {"ok": 1}
        assert "link" not in response.headers


def test_unasked_bytes_do_not_become_the_next_answer(world: World) -> None:
    engine = world.launch().engine
    good = whole({"n": 1})[0]
    assert isinstance(good, Send)
    engine.answer = [Send(good.data + b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")]
    with world.serving():
        for _ in range(3):
            assert world.chat().json() == {"n": 1}


def test_first_byte_timeout(world: World) -> None:
    world.launch().engine.answer = [Gate()]
    other = world.launch().engine
    other.answer = [Gate()]
    with world.serving(first_byte_timeout=0.2):
        response = world.chat()
        assert response.status_code == 504
        assert response.json()["error"]["code"] == "upstream_timeout"
        world.settled()
        # What takes one too long would take the other as long: it is not begun again.
        assert [one.requests for one in world.gateway.endpoints.all].count(0) == 1


def test_pool_wait_is_the_gateways_fault(world: World) -> None:
    engine = world.launch().engine
    engine.answer = [Gate()]
    with world.serving(max_connections=1, pool_timeout=0.1), world.raw() as taken:
        taken.sendall(world.raw_request(b'{"model":"m"}'))
        engine.wait_request()
        response = world.chat()
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "gateway_busy"
        assert response.headers["retry-after"] == "1"


def test_engine_that_answers_before_it_has_read_the_body(world: World) -> None:
    world.launch().engine.answer = whole({"error": {"message": "no"}}, "413 Too Large")
    with world.serving():
        assert world.chat(text="x" * 3_000_000).status_code == 413


def on_engine(answer: Answer, use: Callable[[ScriptedEngine], Awaitable[None]]) -> None:
    with ScriptedEngine() as engine:
        engine.answer = answer
        asyncio.run(asyncio.wait_for(use(engine), 10))


def test_pool_serves_waiters_in_order_and_survives_their_leaving() -> None:
    async def use(engine: ScriptedEngine) -> None:
        pool = Pool("127.0.0.1", engine.port, limit=1, connect_timeout=1, pool_timeout=5)
        held = await pool.acquire()
        order: list[int] = []

        async def wait(number: int) -> None:
            connection = await pool.acquire()
            order.append(number)
            await asyncio.sleep(0)
            pool.release(connection)

        tasks = [asyncio.create_task(wait(number)) for number in range(4)]
        await asyncio.sleep(0.01)
        tasks[1].cancel()
        pool.release(held)
        tasks[0].cancel()  # its turn has just come
        await asyncio.gather(*tasks, return_exceptions=True)
        assert order == [2, 3]
        assert pool.taken == 0

    on_engine(whole({}), use)


def test_pool_timeout_leaves_no_trace() -> None:
    async def use(engine: ScriptedEngine) -> None:
        pool = Pool("127.0.0.1", engine.port, limit=1, connect_timeout=1, pool_timeout=0.05)
        held = await pool.acquire()
        with pytest.raises(PoolTimeoutError):
            await pool.acquire()
        pool.release(held)
        again = await pool.acquire()
        pool.release(again)
        assert pool.taken == 0

    on_engine(whole({}), use)


def test_pool_gives_idle_connections_up() -> None:
    async def use(engine: ScriptedEngine) -> None:
        pool = Pool(
            "127.0.0.1", engine.port, limit=2, connect_timeout=1, pool_timeout=1, keep_idle=0.1
        )
        connection = await pool.acquire()
        await connection.send((b"GET /x HTTP/1.1\r\n\r\n",), 1)
        await connection.head(1)
        while await connection.chunk(1) is not None:
            pass
        pool.release(connection)
        assert pool.idle == 1
        await asyncio.sleep(0.3)
        assert pool.idle == 0
        assert engine.open == 0

    on_engine(whole({}), use)


def test_black_holed_engine_costs_the_connect_timeout_only() -> None:
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        fill = [socket.socket() for _ in range(4)]
        for one in fill:
            one.setblocking(False)
            one.connect_ex(hole.getsockname())

        async def use() -> None:
            began = time.monotonic()
            with pytest.raises(UpstreamError, match=r"no answer within 0\.2 s"):
                await connect("127.0.0.1", hole.getsockname()[1], 0.2)
            assert time.monotonic() - began < 1

        asyncio.run(use())
        for one in fill:
            one.close()


class _NoTransport(asyncio.Transport):
    closed = False

    def write(self, data: object) -> None:
        pass

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


@pytest.mark.parametrize("early", [False, True])
def test_a_connection_with_half_a_request_is_not_used_again(early: bool) -> None:
    class Transport(_NoTransport):
        def __init__(self, connection: UpstreamConnection) -> None:
            super().__init__()
            self._connection = connection
            self.writes = 0

        def write(self, data: object) -> None:
            self.writes += 1
            if early and self.writes == 2:  # the answer is whole before the body is
                self._connection.data_received(TOO_LARGE)

    async def use() -> None:
        connection = UpstreamConnection(asyncio.get_running_loop())
        transport = Transport(connection)
        connection.connection_made(transport)
        await connection.send((b"head", b"x" * 1_000_000), 1)
        if not early:
            connection.data_received(TOO_LARGE)
        assert (await connection.head(1)).status == 413
        while await connection.chunk(1) is not None:
            pass
        assert transport.writes == (2 if early else 5)
        assert connection.reusable is not early

    asyncio.run(use())


TOO_LARGE = b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\n{}"


async def _feed(pieces: list[bytes]) -> bytes | None:
    """What a connection makes of bytes that arrive in these pieces; None when it calls a fault."""
    connection = UpstreamConnection(asyncio.get_running_loop())
    connection.connection_made(_NoTransport())
    await connection.send((b"x",), 1)
    for one in pieces:
        connection.data_received(one)
    connection.connection_lost(None)
    try:
        await connection.head(0.1)
        body = b""
        while (chunk := await connection.chunk(0.1)) is not None:
            body += chunk
    except UpstreamError:
        return None
    return body


ANSWER = b"".join(
    step.data for step in stream(token("ä"), token("b"), DONE) if isinstance(step, Send)
)


@given(st.lists(st.integers(0, len(ANSWER)), max_size=20))
def test_any_split_gives_the_same_body(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(ANSWER)]
    pieces = [ANSWER[a:b] for a, b in itertools.pairwise(edges) if a < b]
    assert asyncio.run(_feed(pieces)) == token("ä") + token("b") + DONE


_CHUNK = re.compile(rb"([0-9a-f]+)\r\n(.+)\r\n", re.DOTALL)


class _FickleSink:
    """Is open, and has had enough, as it is told; then open and never satisfied. It takes whole
    chunks as they are where it is told to."""

    def __init__(self, moods: list[tuple[bool, bool]], *, chunks: bool = False) -> None:
        self._moods = iter(moods)
        self._takes_chunks = chunks
        self.chunks = 0
        self.body = b""
        self.pieces = 0
        self._go_on = True

    @property
    def open(self) -> bool:
        is_open, self._go_on = next(self._moods, (True, True))
        return is_open

    def take(self, piece: bytes) -> bool:
        self.body += piece
        self.pieces += 1
        return self._go_on

    def take_chunk(self, data: bytes) -> float:
        found = _CHUNK.fullmatch(data)
        if not self._takes_chunks or found is None or int(found[1], 16) != len(found[2]):
            return 0.0
        self.chunks += 1
        self.body += found[2]
        return time.monotonic()


async def _pass_on(pieces: list[bytes], sink: _FickleSink) -> int:
    """Feed pieces to a connection that passes its body on; how often its reader was woken."""
    connection = UpstreamConnection(asyncio.get_running_loop())
    connection.connection_made(_NoTransport())
    await connection.send((b"x",), 1)
    woken = 0

    async def read() -> None:
        nonlocal woken
        await connection.head(1)
        while True:
            await connection.pass_on(sink, 1)
            woken += 1
            if (chunk := await connection.chunk(1)) is None:
                return
            sink.body += chunk

    reader = asyncio.create_task(read())
    for one in pieces:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        connection.data_received(one)
    await asyncio.wait_for(reader, 5)
    return woken


@given(
    st.lists(st.integers(0, len(ANSWER)), max_size=20),
    st.lists(st.tuples(st.booleans(), st.booleans()), max_size=20),
    st.booleans(),
)
def test_what_is_passed_on_and_what_is_read_are_the_body_in_order(
    cuts: list[int], moods: list[tuple[bool, bool]], chunks: bool
) -> None:
    edges = [0, *sorted(cuts), len(ANSWER)]
    pieces = [ANSWER[a:b] for a, b in itertools.pairwise(edges) if a < b]
    sink = _FickleSink(moods, chunks=chunks)
    asyncio.run(_pass_on(pieces, sink))
    assert sink.body == token("ä") + token("b") + DONE


def test_tokens_in_the_midst_of_a_stream_wake_nobody() -> None:
    steps = stream(*(token(str(n)) for n in range(50)), DONE)
    sink = _FickleSink([])
    woken = asyncio.run(_pass_on([one.data for one in steps if isinstance(one, Send)], sink))
    assert sink.pieces >= 50
    assert woken <= 3


def test_whole_chunks_pass_the_parser_by() -> None:
    steps = stream(*(token(str(n)) for n in range(50)), DONE)
    pieces = [one.data for one in steps if isinstance(one, Send)]
    sink = _FickleSink([], chunks=True)
    asyncio.run(_pass_on(pieces, sink))
    assert sink.chunks >= 48
    assert sink.body == b"".join(token(str(n)) for n in range(50)) + DONE


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=60) | st.sampled_from([b"HTTP/1.1 200 OK\r\n", b"\r\n\r\n"])))
def test_wild_bytes_are_a_fault_and_never_a_crash(pieces: list[bytes]) -> None:
    asyncio.run(_feed(pieces))


def test_protocol_error_is_named() -> None:
    async def use(engine: ScriptedEngine) -> None:
        connection = await connect("127.0.0.1", engine.port, 1)
        await connection.send((b"GET /x HTTP/1.1\r\n\r\n",), 1)
        with pytest.raises(UpstreamProtocolError):
            await connection.head(1)
        connection.close()

    on_engine([Pause(0.01), Send(b"nonsense\r\n\r\n")], use)
