"""The next request on a connection has the same head for the most, but for its length: it is known
then, and not parsed again. Who may ask, and where one request ends, is found out each time."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modeltainer.gateway.timed_connection import TimedProtocol
from modeltainer.registry import keys
from tests.engine.scripted import Request, Step, whole
from tests.gateway.setup import World, read_until


def _echo(request: Request) -> list[Step]:
    return whole(request.body)


@pytest.fixture
def alike(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether a piece that came was taken for a request with a known head."""
    seen: list[bool] = []
    take = TimedProtocol.take_alike

    def note(self: TimedProtocol, data: bytes) -> bool:
        seen.append(take(self, data))
        return seen[-1]

    monkeypatch.setattr(TimedProtocol, "take_alike", note)
    return seen


def _body(number: int) -> bytes:
    return b'{"model":"m","input":"%s"}' % (b"x" * number)


def _ask(connection: socket.socket, request: bytes, body: bytes) -> None:
    connection.sendall(request)
    answer = read_until(connection, body)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.count(b"HTTP/1.1") == 1
    assert answer.endswith(b"\r\n\r\n" + body)


def test_a_head_that_is_known_is_not_parsed_again(world: World, alike: list[bool]) -> None:
    world.launch().engine.answer = _echo
    with world.serving(), world.raw() as connection:
        for length in (1, 1, 20, 3_000):
            _ask(connection, world.raw_request(_body(length)), _body(length))
        assert alike == [False, True, True, True]
        world.settled()


def test_a_head_that_came_in_pieces_is_known_when_it_comes_whole(
    world: World, alike: list[bool]
) -> None:
    world.launch().engine.answer = _echo
    request = world.raw_request(_body(5))
    with world.serving(), world.raw() as connection:
        connection.sendall(request[:40])
        time.sleep(0.05)
        _ask(connection, request[40:], _body(5))
        for length in (7, 9):
            _ask(connection, world.raw_request(_body(length)), _body(length))
        assert alike[-2:] == [False, True]
        world.settled()


def test_a_fault_of_our_own_is_an_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.launch().engine.answer = _echo
    request = world.raw_request(_body(5))

    def fail(*_: object) -> None:
        raise OSError("no locks available")

    with world.serving(), world.raw() as connection:
        _ask(connection, request, _body(5))
        with monkeypatch.context() as patch:
            patch.setattr(world.gateway.proxy.admission, "reserve", fail)
            connection.sendall(request)
            assert read_until(connection, b"}").startswith(b"HTTP/1.1 500")
        _ask(connection, request, _body(5))
        world.settled()
        assert [one["error"] for one in world.log("fault")] == ["OSError: no locks available"]


def _cut(request: bytes, behind: bytes, more: int = 0) -> list[bytes]:
    at = request.index(behind) + len(behind) + more
    return [request[:at], request[at:]]


OTHERWISE: dict[str, Callable[[bytes], list[bytes]]] = {
    "the head, then the body": lambda request: _cut(request, b"\r\n\r\n"),
    "in the midst of the body": lambda request: _cut(request, b"\r\n\r\n", 4),
    "in the midst of the length": lambda request: _cut(request, b"length: ", 1),
    "the length with noughts": lambda request: [request.replace(b"length: ", b"length: 00")],
    "the length behind two spaces": lambda request: [request.replace(b"length: ", b"length:  ")],
    "in other letters": lambda request: [request.replace(b"content-length", b"Content-Length")],
    "behind an empty line": lambda request: [b"\r\n" + request],
}


@pytest.mark.parametrize("spell", OTHERWISE.values(), ids=OTHERWISE)
@pytest.mark.parametrize("is_first", [True, False])
def test_however_it_comes_it_is_the_same_request(
    world: World, spell: Callable[[bytes], list[bytes]], is_first: bool
) -> None:
    world.launch().engine.answer = _echo
    request = world.raw_request(_body(5))
    with world.serving(), world.raw() as connection:
        if not is_first:
            _ask(connection, request, _body(5))
        *pieces, last = spell(request)
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.03)
        _ask(connection, last, _body(5))
        _ask(connection, world.raw_request(_body(60)), _body(60))
        world.settled()


def test_requests_end_where_their_lengths_say(world: World) -> None:
    """Whatever is in a piece, and whatever its head is like."""
    world.launch().engine.answer = _echo
    heads = ["", "x-a: b\r\n", "content-encoding: identity\r\n"]  # the last one is not plain
    kinds = st.tuples(st.sampled_from(heads), st.integers(0, 120))

    with world.serving():

        @settings(
            max_examples=60,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
            database=None,
        )
        @given(st.lists(kinds, min_size=2, max_size=5), st.lists(st.integers(1, 900), max_size=6))
        def run(requests: list[tuple[str, int]], cuts: list[int]) -> None:
            sent = b"".join(
                world.raw_request(_body(length), more=head) for head, length in requests
            )
            with world.raw() as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                at = 0
                for cut in cuts:
                    connection.sendall(sent[at : at + cut])
                    at += cut
                    time.sleep(0.002)
                connection.sendall(sent[at:])
                answers = b""
                for _, length in requests:
                    while _body(length) not in answers:
                        answers += connection.recv(65536)
                    answer, _, answers = answers.partition(_body(length))
                    assert answer.startswith(b"HTTP/1.1 200")
                    assert answer.count(b"HTTP/1.1") == 1
                assert not answers

        run()
        world.settled()


def _rest(request: bytes) -> bytes:
    return request[request.index(b"content-type") :]


SPOILED: dict[str, Callable[[bytes], list[bytes]]] = {
    "a body that is longer than its length": lambda request: [request, request + b"}"],
    "the beginning of another request before it": lambda request: [
        request,
        request + b"P",
        request,
    ],
    "half a head, though it is known": lambda request: [
        request.removesuffix(_rest(request)),
        _rest(request),
        _rest(request),
    ],
}


@pytest.mark.parametrize("pieces", SPOILED.values(), ids=SPOILED)
def test_what_is_no_request_ends_the_connection(
    world: World, pieces: Callable[[bytes], list[bytes]]
) -> None:
    world.launch().engine.answer = _echo
    with world.serving():
        with world.raw() as connection:
            *good, last = pieces(world.raw_request(_body(5)))
            for piece in good:
                connection.sendall(piece)
                time.sleep(0.03)
            assert read_until(connection, _body(5)).startswith(b"HTTP/1.1 200")
            connection.sendall(last)
            assert read_until(connection, b"").count(b"HTTP/1.1 400") == 1
        world.settled()


def test_a_revoked_key_is_refused_on_a_connection_it_was_good_on(world: World) -> None:
    world.launch().engine.answer = whole({"ok": True})
    record, plain = keys.create(world.layout, "short")
    with world.serving(), world.raw() as connection:
        request = world.raw_request(b'{"model":"m"}').replace(world.key.encode(), plain.encode())
        for _ in range(2):
            connection.sendall(request)
            assert read_until(connection, b"}").startswith(b"HTTP/1.1 200")
        keys.revoke(world.layout, record.id)
        world.until(lambda: world.gateway.authenticator._ring.named(record.id) is None)
        connection.sendall(request)
        assert read_until(connection, b"}").startswith(b"HTTP/1.1 401")


def test_a_key_runs_out_on_a_connection_it_was_good_on(world: World) -> None:
    world.launch().engine.answer = whole({"ok": True})
    with world.serving(), world.raw() as connection:
        until = time.time() + 1.5
        _, plain = keys.create(world.layout, "short", expires_unix=until)
        request = world.raw_request(b'{"model":"m"}').replace(world.key.encode(), plain.encode())
        connection.sendall(request)
        assert read_until(connection, b"}").startswith(b"HTTP/1.1 200")
        time.sleep(max(0.0, until - time.time()) + 0.1)
        connection.sendall(request)
        assert read_until(connection, b"}").startswith(b"HTTP/1.1 401")


def test_another_head_on_the_connection_counts(world: World) -> None:
    engine = world.launch().engine
    engine.answer = whole({"ok": True})
    with world.serving(), world.raw() as connection:
        for number, path in enumerate(["/v1/chat/completions", "/v1/completions?a=b", "/v1/score"]):
            more = f"x-request-id: id-{number}\r\nx-number: {number}\r\n"
            connection.sendall(world.raw_request(b'{"model":"m"}', path, more))
            answer = read_until(connection, b"}")
            assert f"x-request-id: id-{number}".encode() in answer
            assert engine.requests[number].path == path
            assert engine.requests[number].header("x-number") == str(number)


def test_ids_are_new_though_the_head_is_the_same(world: World) -> None:
    engine = world.launch().engine
    engine.answer = whole({"ok": True})
    with world.serving():
        ids = {world.chat().headers["x-request-id"] for _ in range(5)}
        assert len(ids) == 5
        assert len({one.header("traceparent") for one in engine.requests}) == 5
