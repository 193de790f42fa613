"""The client against servers that close connections, at other moments than after an answer."""

from __future__ import annotations

import asyncio

import pytest

from modeltainer.bench.client import RAN_OUT_S, Client, Exchange, target

EVENTS = b'data: {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(EVENTS + DONE), EVENTS + DONE)
BODY = b'{"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]}'
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)


class Server:
    """Answers the first request of each connection whole; closes ``wait_s`` after the second."""

    def __init__(self, wait_s: float) -> None:
        self.wait_s = wait_s
        self.seen: list[bytes] = []

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answered in (False, True):
            await reader.readuntil(b"\r\n\r\n")
            self.seen.append(await reader.readexactly(1))
            if answered:
                await asyncio.sleep(self.wait_s)
                break
            writer.write(WHOLE)
        writer.close()


class Says:
    """Answers every request with these bytes, and closes."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(self.answer)
        writer.close()


async def ask(server: Server | Says, *bodies: bytes) -> list[Exchange]:
    async with await asyncio.start_server(server.connection, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        client = Client(target(f"http://127.0.0.1:{port}", "m"), "/v1/chat/completions", 5.0)
        exchanges = [await client.perform(body) for body in bodies]
        client.close()
    return exchanges


def test_a_kept_connection_that_closes_at_once_had_run_out() -> None:
    server = Server(0.0)
    first, second = asyncio.run(ask(server, b"1", b"2"))
    assert (first.failure, second.failure) == ("", "")
    assert second.connects == 1
    assert server.seen == [b"1", b"2", b"2"]


def test_a_request_that_was_taken_and_dropped_later_is_a_failure_and_not_sent_again() -> None:
    server = Server(RAN_OUT_S + 0.25)
    first, second = asyncio.run(ask(server, b"1", b"2"))
    assert (first.failure, second.failure) == ("", "closed")
    assert second.ended - second.sent >= RAN_OUT_S + 0.2
    assert server.seen == [b"1", b"2"]


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (STREAM + b"\r\n" + EVENTS + DONE, ""),
        (STREAM + b"connection: close\r\n\r\n" + EVENTS + DONE, ""),
        (STREAM + b"\r\n" + EVENTS, "truncated"),
        (STREAM + b"\r\n" + EVENTS[:-1], "truncated"),
        (STREAM + b"\r\n", "truncated"),
        (STREAM + CHUNKED + b"0\r\n\r\n", ""),
        (STREAM + CHUNKED, "closed"),
        (STREAM + b"content-length: 9999\r\n\r\n" + EVENTS + DONE, "closed"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + BODY, ""),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "closed"),
    ],
)
def test_only_what_has_no_length_ends_with_its_connection(answer: bytes, failure: str) -> None:
    [exchange] = asyncio.run(ask(Says(answer), b"1"))
    assert exchange.failure == failure
