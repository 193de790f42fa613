"""Streams: nothing is held back, changed, invented or lost."""

from __future__ import annotations

import time

import httpx
import openai
import pytest

from tests.engine.scripted import (
    DONE,
    END,
    STREAM_HEAD,
    Close,
    Gate,
    Pause,
    Reset,
    Send,
    piece,
    stream,
    token,
    whole,
)
from tests.gateway.setup import World


def test_official_client_streams(world: World) -> None:
    engine = world.launch().engine
    engine.answer = stream(token("Hel"), token("lo"), token(" wörld"), DONE)
    with world.serving():
        client = openai.OpenAI(base_url=f"{world.url}/v1", api_key=world.key, max_retries=0)
        chunks = client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert text == "Hello wörld"
        assert {model.id for model in client.models.list()} == {"m"}
        world.settled()


def test_bytes_out_are_bytes_in_whatever_the_split(world: World) -> None:
    body = (
        b": a comment\r\n\r\nevent: x\r\nid: 7\r\ndata: 1\r\ndata: 2\r\n\r\n"
        + token("ü€😀")
        + b"retry: 5\n\n"
        + DONE
    )
    engine = world.launch().engine
    with world.serving():
        for size in (1, 3, 7, len(body)):
            pieces = [piece(body[at : at + size]) for at in range(0, len(body), size)]
            engine.answer = [Send(STREAM_HEAD), *pieces, END]
            assert world.chat(stream=True).content == body


def test_http_framing_split_at_every_byte(world: World) -> None:
    answer = STREAM_HEAD + b"".join(one.data for one in (piece(token("a")), piece(DONE), END))
    engine = world.launch().engine
    engine.answer = [
        step for at in range(len(answer)) for step in (Send(answer[at : at + 1]), Pause(0.0002))
    ]
    with world.serving():
        assert world.chat(stream=True).content == token("a") + DONE


def test_each_chunk_arrives_before_the_next_is_made(world: World) -> None:
    gates = [Gate() for _ in range(3)]
    events = [token(str(n)) for n in range(3)]
    engine = world.launch().engine
    steps = [Send(STREAM_HEAD)]
    for event, gate in zip(events, gates, strict=True):
        steps += [piece(event), gate]  # type: ignore[list-item]
    engine.answer = [*steps, piece(DONE), END]
    with (
        world.serving(),
        world.client.stream(
            "POST", "/v1/chat/completions", json={"model": "m", "stream": True}
        ) as response,
    ):
        received = response.iter_raw()
        for event, gate in zip(events, gates, strict=True):
            assert next(received) == event
            gate.event.set()
        assert b"".join(received) == DONE


def test_one_line_of_two_mebibytes(world: World) -> None:
    event = token("x" * 2 * 1024 * 1024)
    world.launch().engine.answer = stream(event, DONE)
    with world.serving():
        assert world.chat(stream=True).content == event + DONE


def test_stream_headers(world: World) -> None:
    world.launch().engine.answer = stream(token("a"), DONE)
    with world.serving():
        headers = world.chat(stream=True).headers
        assert headers["content-type"] == "text/event-stream; charset=utf-8"
        assert headers["cache-control"] == "no-cache"
        assert headers["x-accel-buffering"] == "no"


def test_done_ends_the_stream_though_the_engine_holds_the_socket(world: World) -> None:
    gate = Gate()
    engine = world.launch().engine
    engine.answer = [Send(STREAM_HEAD), piece(token("a")), piece(DONE), gate]
    with world.serving():
        began = time.monotonic()
        assert world.chat(stream=True).content == token("a") + DONE
        assert time.monotonic() - began < 2
        assert engine.requests[0].gone.wait(1)
        world.settled()


@pytest.mark.parametrize("death", [Close(), Reset()])
def test_death_in_mid_stream_is_told(world: World, death: Close | Reset) -> None:
    engine = world.launch().engine
    engine.answer = [Send(STREAM_HEAD), piece(token("a")), piece(token("b")), Pause(0.02), death]
    with world.serving():
        with world.raw() as connection:
            connection.sendall(world.raw_request(b'{"model":"m","stream":true}'))
            answer = b""
            while data := connection.recv(65536):
                answer += data
        assert token("a") in answer
        assert token("b") in answer
        assert b'data: {"error":{"message":"the answer broke off' in answer
        assert b"[DONE]" not in answer
        assert answer.endswith(b"\n\n\r\n0\r\n\r\n")
        [line] = world.log("request")
        assert (line["status"], line["error"]) == (200, "upstream_died")
        world.settled()


def test_official_client_raises_on_the_error_frame(world: World) -> None:
    world.launch().engine.answer = [Send(STREAM_HEAD), piece(token("a")), Pause(0.02), Close()]
    with world.serving():
        client = openai.OpenAI(base_url=f"{world.url}/v1", api_key=world.key, max_retries=0)
        chunks = client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        assert next(chunks).choices[0].delta.content == "a"
        with pytest.raises(openai.APIError, match="broke off"):
            next(chunks)


def test_error_frame_after_half_an_event_is_an_event_of_its_own(world: World) -> None:
    cut = b'data: {"cut'
    world.launch().engine.answer = [
        Send(STREAM_HEAD),
        piece(token("a")),
        piece(cut),
        Pause(0.02),
        Close(),
    ]
    with world.serving():
        expected = token("a") + cut + b'\n\ndata: {"error":'
        assert world.chat(stream=True).content.startswith(expected)


def test_idle_timeout_ends_with_an_error_frame(world: World) -> None:
    engine = world.launch().engine
    engine.answer = [Send(STREAM_HEAD), piece(token("a")), Gate()]
    with world.serving(idle_timeout=0.2):
        content = world.chat(stream=True).content
        assert content.startswith(token("a"))
        assert b'"code":"upstream_timeout"' in content
        assert engine.requests[0].gone.wait(1)
        world.settled()


def test_a_stream_longer_than_every_timeout_is_not_cut(world: World) -> None:
    steps = [Send(STREAM_HEAD)]
    for _ in range(12):
        steps += [piece(token("a")), Pause(0.1)]  # type: ignore[list-item]
    world.launch().engine.answer = [*steps, piece(DONE), END]
    with world.serving(idle_timeout=0.5, first_byte_timeout=0.5):
        assert world.chat(stream=True).content == token("a") * 12 + DONE


def test_two_chunks_then_fin_without_length(world: World) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    world.launch().engine.answer = [Send(head), Send(token("a")), Send(token("b")), Close()]
    with world.serving():
        assert world.chat(stream=True).content == token("a") + token("b")


def test_error_answer_to_a_stream_request_is_passed_as_it_is(world: World) -> None:
    error = {"error": {"message": "too long", "type": "x", "param": None, "code": 400}}
    world.launch().engine.answer = whole(error, "400 Bad Request")
    with world.serving():
        response = world.chat(stream=True)
        assert (response.status_code, response.json()) == (400, error)


def test_truncated_json_is_seen_as_truncated(world: World) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n"
    world.launch().engine.answer = [Send(head + b'{"half":'), Pause(0.05), Close()]
    with world.serving():
        with pytest.raises(httpx.RemoteProtocolError):
            world.chat()
        world.settled()


def test_slow_reader_is_not_read_ahead_for(world: World) -> None:
    count, event = 800, token("x" * 100_000)
    engine = world.launch().engine
    engine.answer = [Send(STREAM_HEAD), *(piece(event) for _ in range(count)), END]
    with world.serving():
        with world.raw() as connection:
            connection.sendall(world.raw_request(b'{"model":"m","stream":true}'))
            connection.recv(1000)
            time.sleep(0.5)
            request = engine.requests[0]
            # What has been sent fills the kernel's buffers, and not the gateway's memory.
            assert request.sent < count * len(event) / 2
            before = request.sent
            time.sleep(0.2)
            assert request.sent == before
        assert request.gone.wait(1)
        world.settled()


def test_a_long_stream_through_small_reads_arrives_whole(world: World) -> None:
    body = b"".join(token(str(n)) for n in range(20_000)) + DONE
    world.launch().engine.answer = stream(
        *(body[at : at + 4000] for at in range(0, len(body), 4000))
    )
    with world.serving():
        assert world.chat(stream=True).content == body
