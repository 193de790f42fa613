"""Plain requests are carried by callbacks, others by a task, and some by the one and then by the
other: whichever it is, the client, the log and the counts see the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from modeltainer.gateway.outbox import JoinedWrites
from modeltainer.gateway.proxy import Proxy
from tests.engine.scripted import (
    DONE,
    END,
    STREAM_HEAD,
    Close,
    Gate,
    Pause,
    Reset,
    Send,
    Step,
    piece,
    stream,
    token,
    whole,
)
from tests.gateway.setup import World, read_until

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
COUNTS = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'
NESTED = {**USAGE, "prompt_tokens_details": {"cached_tokens": 4}}

PLAIN: dict[str, list[Step]] = {
    "json": whole({"ok": True, "usage": USAGE}),
    "json, counts with objects in them": whole({"usage": NESTED}),
    "json, counts twice": whole({"a": {"usage": {"prompt_tokens": 1}}, "usage": USAGE}),
    "json, empty": whole(b""),
    "json in chunks": [
        Send(STREAM_HEAD.replace(b"text/event-stream; charset=utf-8", b"application/json")),
        Send(b'2\r\n{"\r\n3\r\na":\r\n2\r\n1}\r\n0\r\n\r\n'),
    ],
    "json, head and body apart": [
        Send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 7\r\n\r\n"),
        Pause(0.05),
        Send(b'{"a":1}'),
    ],
    "stream": stream(token("a"), token("b"), COUNTS, DONE),
    "stream, one by one": [
        step for one in stream(token("a"), token("b"), COUNTS, DONE) for step in (one, Pause(0.02))
    ],
    "stream, cut in an event, one by one": [
        step
        for one in stream(token("a"), token("b")[:20], token("b")[20:], COUNTS, DONE)
        for step in (one, Pause(0.02))
    ],
    "stream, all in one write": [
        Send(
            b"".join(one.data for one in stream(token("a"), COUNTS, DONE) if isinstance(one, Send))
        )
    ],
    "stream, lengths in capitals": [
        Send(STREAM_HEAD),
        *(Send(b"%X\r\n%s\r\n" % (len(one), one)) for one in (token("ab"), token("cd"), DONE)),
        END,
    ],
    "stream, with extensions": [
        Send(STREAM_HEAD),
        *(Send(b"%x;a=b\r\n%s\r\n" % (len(one), one)) for one in (token("ab"), token("c"), DONE)),
        END,
    ],
    "stream, chunk lengths apart": [
        Send(STREAM_HEAD),
        piece(token("a")),
        Pause(0.05),
        Send(b"%x\r\n" % len(token("b"))),
        Pause(0.05),
        Send(token("b") + b"\r\n"),
        piece(DONE),
        END,
    ],
    "stream, several tokens in a chunk": stream(token("a"), token("b") + token("c"), COUNTS + DONE),
    "stream, events cut": stream(
        token("a"), token("b")[:20], token("b")[20:], COUNTS[:30], COUNTS[30:] + DONE
    ),
    "stream, CRLF": stream(*(one.replace(b"\n", b"\r\n") for one in (token("a"), COUNTS, DONE))),
    "stream, done cut": stream(token("a"), DONE[:9], DONE[9:]),
    "stream, end after done apart": [*stream(token("a"), DONE)[:-1], Pause(0.05), END],
    "stream, the engine holds on after done": [*stream(token("a"), DONE)[:-1], Gate()],
    "stream, the engine leaves after done": [*stream(token("a"), DONE)[:-1], Close()],
    "stream without done": stream(token("a"), token("b")),
    "stream, a comment first": [
        Send(STREAM_HEAD + piece(token("a")).data),
        piece(b": ping\n\n"),
        piece(DONE),
        END,
    ],
}
HANDED_OVER: dict[str, list[Step]] = {
    "json, cut": [
        Send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{"),
        Close(),
    ],
    "json, in two pieces": [
        Send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{"),
        Pause(0.3),
        Send(b'"a": 12}'),
    ],
    "json, until the connection ends": [
        Send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{}"),
        Close(),
    ],
    "no answer": [Close()],
    "not HTTP": [Send(b"SSH-2.0-x\r\n\r\n")],
    "400": whole({"error": {"message": "bad", "code": 400}}, "400 Bad Request"),
    "500": whole({"error": "x"}, "500 Internal Server Error"),
    "503": whole({"error": "x"}, "503 Service Unavailable"),
    "204": [Send(b"HTTP/1.1 204 No Content\r\n\r\n")],
    "stream, an error first": stream(b'data: {"error":{"message":"no","code":400}}\n\n'),
    "stream, empty": stream(DONE),
    "stream, a comment before all": [
        Send(STREAM_HEAD),
        piece(b": ping\n\n"),
        Pause(0.3),
        *stream(token("a"), DONE)[1:],
    ],
    "stream, first event cut": [
        Send(STREAM_HEAD),
        piece(token("a")[:9]),
        Pause(0.3),
        *stream(token("a")[9:], DONE)[1:],
    ],
    "stream, cut": [*stream(token("a"), token("b"))[:-1], Close()],
    "stream, reset": [*stream(token("a"), token("b"))[:-1], Pause(0.3), Reset()],
    "stream, cut in an event": [*stream(token("a"), token("b")[:20])[:-1], Close()],
    "stream, more after done": [
        *stream(token("a"), DONE)[:-1],
        Pause(0.3),
        piece(token("b")),
        Pause(0.3),
        END,
    ],
    "stream, not HTTP any more": [*stream(token("a"))[:-1], Send(b"zz\r\n\r\n")],
}


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was carried by tasks."""
    carried: list[object] = []
    carry = Proxy._carry

    async def noted(self: Proxy, exchange: Any, work: Callable[[], Awaitable[None]]) -> None:
        carried.append(exchange)
        await carry(self, exchange, work)

    monkeypatch.setattr(Proxy, "_carry", noted)
    return carried


@pytest.mark.parametrize(
    ("steps", "handed_over"),
    [
        *(pytest.param(steps, False, id=name) for name, steps in PLAIN.items()),
        *(pytest.param(steps, True, id=name) for name, steps in HANDED_OVER.items()),
    ],
)
def test_both_ways_are_the_same(
    world: World, tasks: list[object], steps: list[Step], handed_over: bool
) -> None:
    world.launch().engine.answer = steps
    asked = b'{"model":"m","stream":true,"user":"u"}'
    with world.serving():
        plain = _seen(world, asked)
        assert len(tasks) == handed_over
        # A body of unknown length is no plain request's.
        assert _seen(world, iter([asked])) == plain
        assert len(tasks) == handed_over + 1
        world.settled()
    assert plain["requests"] == 1
    wire = b"".join(one.data for one in steps if isinstance(one, Send))
    if b"completion_tokens" in wire:
        assert plain["usage"][0][1:3] == (7, 3)
        assert b"event-stream" not in wire or b"usage" not in plain["told"][1]


def _seen(world: World, body: Any) -> dict[str, Any]:
    """What an answer looks like to its client, and in the log, the metrics and the usage file."""
    records = len(world.log_lines())
    before = _counted(world)
    path = "/v1/chat/completions"
    headers = {"content-type": "application/json", "x-request-id": "r"}
    try:
        answer = world.client.post(path, content=body, headers=headers)
        told: Any = answer.status_code, answer.content, _tame(answer.headers)
    except httpx.RemoteProtocolError:
        told = "cut"
    world.settled()
    world.until(lambda: any(one["event"] == "request" for one in world.log_lines()[records:]))
    lines = [
        {name: value for name, value in one.items() if not name.endswith(("_s", "time"))}
        for one in world.log_lines()[records:]
    ]
    after = _counted(world)
    changed = {name: after[name] - before.get(name, 0) for name in after}
    usage = world.gateway.accounting._waiting.copy()
    world.gateway.accounting._waiting.clear()
    return {
        "told": told,
        "log": lines,
        "counted": {name: count for name, count in changed.items() if count},
        "requests": len(usage),
        "usage": [
            (one.status, one.prompt_tokens, one.completion_tokens, one.events, one.whole, one.user)
            for one in usage
        ],
    }


def _tame(headers: httpx.Headers) -> dict[str, str]:
    """How long an answer is may be told before it or as it comes."""
    return {
        name: value
        for name, value in headers.items()
        if name not in ("date", "content-length", "transfer-encoding")
    }


def _counted(world: World) -> dict[str, float]:
    found: dict[str, float] = {}
    for line in world.gateway.metrics.render().splitlines():
        name, _, value = line.rpartition(" ")
        if not name.startswith("#") and ("_total" in name or name.endswith(("_count", "_count{}"))):
            found[name] = float(value)
    return {name: value for name, value in found.items() if "process_" not in name}


@pytest.fixture(autouse=True)
def no_usage_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Usage records stay where the tests find them."""
    monkeypatch.setattr("modeltainer.gateway.accounting.WRITE_EVERY_S", 3600.0)


# -- more on the connection while a request is under way --

_A, _B, _END = piece(token("a")).data, piece(token("b")).data, piece(DONE).data + END.data
MOMENTS: dict[str, tuple[bytes, bytes]] = {
    "before the head": (b"", STREAM_HEAD + _A + _END),
    "after the head": (STREAM_HEAD, _A + _END),
    "in the first event": (
        STREAM_HEAD + piece(token("a")[:9]).data,
        piece(token("a")[9:]).data + _END,
    ),
    "after an event": (STREAM_HEAD + _A, _B + _END),
    "after many": (STREAM_HEAD + _A * 20, _B * 20 + _END),
    "in an event": (
        STREAM_HEAD + _A + piece(token("b")[:9]).data,
        piece(token("b")[9:]).data + _END,
    ),
    "in a chunk": (STREAM_HEAD + _A + _B[:9], _B[9:] + _END),
    "after done": (STREAM_HEAD + _A + piece(DONE).data, END.data),
}


@pytest.mark.parametrize(("before", "after"), MOMENTS.values(), ids=MOMENTS)
def test_the_next_request_may_come_at_any_moment(
    world: World, tasks: list[object], before: bytes, after: bytes
) -> None:
    gate = Gate()
    engine = world.launch().engine
    engine.answer = [Send(before), gate, Send(after)]
    request = world.raw_request(b'{"model":"m","stream":true}')
    with world.serving(), world.raw() as connection:
        connection.sendall(request)
        engine.wait_request()
        time.sleep(0.05)
        connection.sendall(request[:30])
        time.sleep(0.05)
        engine.answer = whole({"second": True})
        connection.sendall(request[30:])
        gate.event.set()
        first, _, second = read_until(connection, b'{"second": true}').partition(b"0\r\n\r\n")
        assert first.startswith(b"HTTP/1.1 200")
        assert second.startswith(b"HTTP/1.1 200")
        assert _unchunked(first) == _unchunked(before + after.removesuffix(END.data))
        world.settled()
        assert tasks
        world.until(lambda: len(world.log("request")) == 2)
        assert [one["status"] for one in world.log("request")] == [200, 200]


def _unchunked(answer: bytes) -> bytes:
    rest, body = answer.partition(b"\r\n\r\n")[2], b""
    while rest:
        length, _, rest = rest.partition(b"\r\n")
        body, rest = body + rest[: int(length, 16)], rest[int(length, 16) + 2 :]
    return body


@pytest.mark.parametrize("fresh", [True, False])
def test_requests_in_one_packet_are_answered_in_order(world: World, fresh: bool) -> None:
    engine = world.launch().engine
    number = iter(range(10))
    engine.answer = lambda _: whole({"number": next(number)})
    with world.serving(), world.raw() as connection:
        if not fresh:
            assert world.chat().json() == {"number": 0}
        connection.sendall(world.raw_request(b'{"model":"m"}') * 3)
        last = 2 if fresh else 3
        answers = read_until(connection, b'{"number": %d}' % last)
        assert answers.count(b"HTTP/1.1 200") == 3
        found = [answers.index(b'{"number": %d}' % (last - back)) for back in (2, 1, 0)]
        assert found == sorted(found)
        world.settled()


def test_garbage_behind_a_request_ends_the_connection_and_leaves_nothing(world: World) -> None:
    engine = world.launch().engine
    engine.answer = [Gate()]
    with world.serving():
        with world.raw() as connection:
            connection.sendall(world.raw_request(b'{"model":"m"}') + b"\0\1\2 garbage\r\n\r\n")
            assert read_until(connection, b"").startswith(b"HTTP/1.1 400")
        world.settled()


# -- the end of the gateway --


def test_a_request_that_is_half_there_is_waited_for(world: World) -> None:
    world.launch().engine.answer = whole({"ok": True})
    with world.serving(), world.raw() as connection:
        request = world.raw_request(b'{"model":"m"}')
        connection.sendall(request[:-4])
        world.until(lambda: world.gateway.proxy.in_flight == 1)
        world.gateway.begin_drain()
        connection.sendall(request[-4:])
        assert read_until(connection, b"}").startswith(b"HTTP/1.1 200")
        world.settled()


@pytest.mark.parametrize("steps", [[Gate()], [Send(STREAM_HEAD), piece(token("a")), Gate()]])
def test_what_is_under_way_is_told_of_the_end(world: World, steps: list[Step]) -> None:
    engine = world.launch().engine
    engine.answer = steps
    with world.serving(drain=0.1), world.raw() as connection:
        connection.sendall(world.raw_request(b'{"model":"m","stream":true}'))
        engine.wait_request()
        time.sleep(0.1)
        world.loop.call_soon_threadsafe(world.gateway.proxy.stop_all)
        read_until(connection, b"shutting_down")
        assert engine.requests[0].gone.wait(2)


# -- writes --


class _Wire(asyncio.Transport):
    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed
        self.written.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def test_writes_of_a_turn_go_out_together_and_in_order() -> None:
    async def write() -> None:
        wire = _Wire()
        joined = JoinedWrites(wire, asyncio.get_running_loop())
        joined.write(b"a")
        joined.write(b"b")
        assert wire.written == []
        await asyncio.sleep(0)
        assert wire.written == [b"ab"]
        joined.write(b"c")
        joined.write_now(b"d")
        assert wire.written == [b"ab", b"cd"]
        joined.write(b"e")
        joined.close()
        joined.write(b"late")
        joined.write_now(b"later")
        await asyncio.sleep(0)
        assert wire.written == [b"ab", b"cd", b"e"]

    asyncio.run(write())
