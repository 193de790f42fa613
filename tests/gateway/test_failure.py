"""Engines that fail: another is tried where that is safe, and the client is told the truth."""

from __future__ import annotations

import gzip
import json
import threading
import time

import httpx
import openai
import pytest

from modeltainer.gateway.attempt import retry_after_s
from modeltainer.gateway.breaker import FAILURES, BreakerState
from modeltainer.gateway.paths import PROXIED
from modeltainer.gateway.upstream import ResponseHead
from tests.engine.scripted import (
    DONE,
    END,
    STREAM_HEAD,
    Close,
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
from tests.gateway.setup import World

PING = b": ping\n\n"


def failing_first(world: World, bad: list[Step], good: list[Step]) -> list[Request]:
    """Two replicas; whichever is asked first answers ``bad``."""
    tried: list[Request] = []

    def answer(request: Request) -> list[Step]:
        tried.append(request)
        return bad if len(tried) == 1 else good

    for launched in (world.launch(), world.launch()):
        launched.engine.answer = answer
    return tried


def told(response: httpx.Response) -> tuple[str | None, str | None]:
    """The model that answered or was to, and how many attempts were made."""
    found = response.headers
    return found.get("x-modeltainer-model"), found.get("x-modeltainer-attempts")


ERROR = b'data: {"error":{"message":"boom","code":500}}\n\n'


@pytest.mark.parametrize(
    "bad",
    [
        stream(ERROR),
        stream(PING, ERROR, DONE),
        stream(DONE),
        stream(),
        stream(PING, PING),
        [Send(STREAM_HEAD), piece(PING), Pause(0.02), Close()],
        whole({"error": {"message": "loading"}}, "503 Service Unavailable"),
        whole({"error": {"message": "busy"}}, "429 Too Many Requests"),
        whole({"error": {"message": "slow"}}, "408 Request Timeout"),
    ],
)
def test_a_stream_that_begins_with_a_failure_fails_over(world: World, bad: list[Step]) -> None:
    if bad == stream(ERROR) or ERROR in b"".join(s.data for s in bad if isinstance(s, Send)):
        bad = [Send(s.data.replace(b"500", b"503")) for s in bad if isinstance(s, Send)]
    tried = failing_first(world, bad, stream(token("a"), DONE))
    with world.serving():
        response = world.chat(stream=True)
        assert response.content == token("a") + DONE
        assert response.headers["x-modeltainer-attempts"] == "2"
        assert len(tried) == 2
        world.settled()


@pytest.mark.parametrize(
    ("steps", "status", "message"),
    [
        (stream(ERROR), 500, "boom"),
        (stream(PING, ERROR.replace(b"500", b"400")), 400, "boom"),
        (stream(ERROR.replace(b"500", b'"bad"')), 500, "boom"),
        (stream(b'data: {"error": "text"}\n\n'), 500, "m: the engine answered with an error: text"),
        (stream(DONE), 502, "m: the engine's stream ended before its first event"),
        (stream(), 502, "m: the engine's stream ended before its first event"),
    ],
)
def test_a_200_that_is_an_error_becomes_an_http_error(
    world: World, steps: list[Step], status: int, message: str
) -> None:
    world.launch().engine.answer = steps
    with world.serving():
        response = world.chat(stream=True)
        assert (response.status_code, response.json()["error"]["message"]) == (status, message)
        assert response.headers["content-type"] == "application/json"
        assert told(response) == ("m", "1")
        world.settled()


def test_the_requests_own_fault_is_not_tried_elsewhere(world: World) -> None:
    tried = failing_first(world, stream(ERROR.replace(b"500", b"400")), stream(DONE))
    with world.serving():
        assert world.chat(stream=True).status_code == 400
        assert len(tried) == 1


def busy(retry_after: str, status: str = "429 Too Many Requests") -> list[Step]:
    return whole({"error": {"message": "busy"}}, status, f"retry-after: {retry_after}\r\n")


@pytest.mark.parametrize("status", ["408 Request Timeout", "429 Too Many", "503 Unavailable"])
def test_an_endpoint_that_asks_for_time_gets_it_while_another_serves(
    world: World, status: str
) -> None:
    full, free = world.launch().engine, world.launch().engine
    full.answer, free.answer = busy("20", status), whole({"ok": 1})
    with world.serving():
        for _ in range(8):
            assert world.chat().json() == {"ok": 1}
        assert len(full.requests) == 1
        free.answer = [Close()]
        answer = world.chat()  # there is no other
        assert (answer.json()["error"]["message"], answer.headers["retry-after"]) == ("busy", "20")


def test_after_its_time_it_is_asked_again(world: World) -> None:
    full, free = world.launch().engine, world.launch().engine
    full.answer, free.answer = busy("1"), whole({"ok": 1})
    with world.serving():
        world.until(lambda: world.chat().json() == {"ok": 1} and len(full.requests) == 2)


def test_where_all_ask_for_time_the_client_is_told(world: World) -> None:
    """Each is asked once for each request: none is tried on top of another that refuses."""
    tried: list[Request] = []

    def answer(request: Request) -> list[Step]:
        tried.append(request)
        return busy("7")

    for launched in (world.launch(), world.launch()):
        launched.engine.answer = answer
    with world.serving():
        for asked in (2, 3, 4):
            refused = world.chat()
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "7")
            assert refused.json() == {"error": {"message": "busy"}}
            assert len(tried) == asked


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (b"7", 7.0),
        (b" 0 ", 0.0),
        (b"9" * 400, 999999999.0),
        (b"Thu, 01 Jan 1970 00:01:40 GMT", 90.0),
        (b"Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        (b"-1", None),
        (b"1.5", None),
        (b"soon", None),
        (b"\xb2", None),
        (b"Thu, 99 Jan 1970 00:01:40 GMT", None),
    ],
)
def test_when_an_answer_says_to_try_again(said: bytes, seconds: float | None) -> None:
    head = ResponseHead(429, [(b"date", b"x"), (b"retry-after", said)])
    assert retry_after_s(head, now_unix=10.0) == seconds
    assert retry_after_s(ResponseHead(429), now_unix=10.0) is None


LONG = {"message": "too long", "type": "invalid_request_error", "code": "context_length_exceeded"}


@pytest.mark.parametrize(("error", "status"), [(LONG, 400), ({"message": "what"}, 500)])
def test_errors_in_a_stream_are_one_requests_own(
    world: World, error: dict[str, str], status: int
) -> None:
    refusal = stream(b"data: " + json.dumps({"error": error}).encode() + b"\n\n")
    tried = failing_first(world, refusal, refusal)
    with world.serving():
        for _ in range(4 * FAILURES):
            assert world.chat(stream=True).status_code == status
        assert len(tried) == 4 * FAILURES


def test_pings_are_not_tokens(world: World) -> None:
    pings: list[Step] = [Send(STREAM_HEAD)]
    for _ in range(100):
        pings += [piece(PING), Pause(0.02)]
    tried = failing_first(world, pings, stream(PING, token("a"), DONE))
    with world.serving(first_token_timeout=0.3):
        response = world.chat(stream=True)
        assert response.content == PING + token("a") + DONE
        assert response.headers["x-modeltainer-attempts"] == "2"
        assert tried[0].gone.wait(1)
        world.settled()


def test_the_last_candidate_may_take_longer(world: World) -> None:
    slow: list[Step] = [Send(STREAM_HEAD), Pause(0.6), piece(token("a")), piece(DONE), END]
    for launched in (world.launch(), world.launch()):
        launched.engine.answer = slow
    with world.serving(first_token_timeout=0.2):
        response = world.chat(stream=True)
        assert response.content == token("a") + DONE
        assert response.headers["x-modeltainer-attempts"] == "2"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("first_token_timeout", [None, 0.3, 9])
def test_what_takes_too_long_is_not_begun_again(
    world: World, streamed: bool, first_token_timeout: float | None
) -> None:
    tried = failing_first(world, [Gate()], [Gate()])
    shorter = first_token_timeout
    with world.serving(first_byte_timeout=0.3, first_token_timeout=shorter):
        response = world.chat(stream=streamed)
        assert (response.status_code, response.json()["error"]["code"]) == (504, "upstream_timeout")
        assert len(tried) == 1


def test_long_prompts_do_not_shut_out_their_engine(world: World) -> None:
    slow, quick = world.launch().engine, world.launch().engine
    slow.answer, quick.answer = [Gate()], stream(token("a"), DONE)
    with world.serving(first_token_timeout=0.05):
        for _ in range(3 * FAILURES):
            assert world.chat(stream=True).content == token("a") + DONE
        assert len(slow.requests) > FAILURES
        states = {one.breaker.state(time.monotonic()) for one in world.gateway.endpoints.all}
        assert states == {BreakerState.CLOSED}


def test_the_whole_timeout_counts_against_an_engine(world: World) -> None:
    world.launch().engine.answer = [Gate()]
    with world.serving(first_byte_timeout=0.05):
        for _ in range(FAILURES):
            assert world.chat(stream=True).status_code == 504
        assert world.chat(stream=True).json()["error"]["code"] == "engine_failing"


def test_first_byte_timeout_is_504(world: World) -> None:
    engine = world.launch().engine
    engine.answer = [Send(STREAM_HEAD), piece(PING), Gate()]
    with world.serving(first_byte_timeout=0.2):
        response = world.chat(stream=True)
        assert (response.status_code, response.json()["error"]["code"]) == (504, "upstream_timeout")
        assert told(response) == ("m", "1")
        assert engine.requests[0].gone.wait(1)


@pytest.mark.parametrize("begun", [False, True])
def test_total_timeout(world: World, begun: bool) -> None:
    engine = world.launch().engine
    chunks: list[Step] = [Send(STREAM_HEAD)] if begun else [Gate()]
    for _ in range(200):
        chunks += [piece(token("a")), Pause(0.02)]
    engine.answer = chunks
    with world.serving(total_timeout=0.3):
        response = world.chat(stream=True)
        assert response.status_code == (200 if begun else 504)
        assert told(response) == ("m", "1")
        assert '"code":"request_timeout"' in response.text
        assert engine.requests[0].gone.wait(1)
        world.settled()


def test_own_pings_keep_a_silent_prefill_alive(world: World) -> None:
    engine = world.launch().engine
    engine.answer = [Pause(0.35), *stream(token("a"), DONE)]
    with world.serving(ping_interval=0.1):
        response = world.chat(stream=True)
        assert told(response) == ("m", None)
        pings, _, rest = response.content.partition(b"data:")
        assert pings.count(b": ping\n") >= 2
        assert set(pings.split(b"\n")) == {b": ping", b""}
        assert b"data:" + rest == token("a") + DONE
        client = openai.OpenAI(base_url=f"{world.url}/v1", api_key=world.key, max_retries=0)
        chunks = client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        assert [chunk.choices[0].delta.content for chunk in chunks] == ["a"]
        engine.answer = [Pause(0.3), *whole({"a": 1})]
        assert world.chat().json() == {"a": 1}  # not for those that do not stream


def test_a_failure_behind_pings_is_an_event(world: World) -> None:
    engine = world.launch().engine
    late = whole({"error": {"message": "too long"}}, "400 Bad Request")
    with world.serving(ping_interval=0.05):
        failures: dict[str, list[Step]] = {"too long": late, "": [Close()], "boom": stream(ERROR)}
        for said, steps in failures.items():
            engine.answer = [Pause(0.2), *steps]
            # An error frame is followed by the end of its connection, which is not to be reused.
            response = httpx.post(
                f"{world.url}/v1/completions",
                json={"model": "m", "stream": True},
                headers={"authorization": f"Bearer {world.key}"},
            )
            assert response.status_code == 200
            assert b'data: {"error":' in response.content
            assert said.encode() in response.content
            assert b"[DONE]" not in response.content
            world.settled()


def test_a_compressed_stream_behind_pings_is_named(world: World) -> None:
    coded = whole(
        gzip.compress(token("a")), headers="content-encoding: gzip\r\n", kind="text/event-stream"
    )
    world.launch().engine.answer = [Pause(0.2), *coded]
    with world.serving(ping_interval=0.05):
        response = world.chat(stream=True)
        assert response.status_code == 200
        [frame] = [line for line in response.text.splitlines() if line.startswith("data:")]
        error = json.loads(frame.removeprefix("data:"))["error"]
        assert error["code"] == "upstream_protocol"
        assert error["message"] == "m: the engine compresses its answer, though it was asked not to"


def test_breaker_opens_and_heals_without_a_restart(world: World) -> None:
    engine = world.launch().engine
    engine.answer = whole({"error": {"message": "overloaded"}}, "503 Service Unavailable")
    with world.serving():
        for _ in range(FAILURES):
            assert world.chat().json()["error"]["message"] == "overloaded"
        refused = world.chat()
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_failing")
        assert told(refused) == ("m", None)
        assert int(refused.headers["retry-after"]) >= 1
        assert len(engine.requests) == FAILURES
        engine.answer = whole({"ok": 1})
        world.until(lambda: world.chat().status_code == 200)
        assert world.chat().status_code == 200


def test_an_endpoint_whose_answers_break_off_gets_no_more(world: World) -> None:
    """One that answers in full does; and a good beginning is no success."""
    bad, good = world.launch().engine, world.launch().engine
    bad.answer = [Send(STREAM_HEAD), piece(token("a")), Pause(0.02), Close()]
    good.answer = stream(token("a"), DONE)
    with world.serving():
        asked = {"model": "m", "messages": [], "stream": True}
        whole_ones = 0
        for _ in range(4 * FAILURES):
            with httpx.Client(base_url=world.url, headers=world.client.headers) as client:
                whole_ones += "[DONE]" in client.post("/v1/chat/completions", json=asked).text
        assert len(bad.requests) == FAILURES
        assert whole_ones == 3 * FAILURES
        text = world.client.get("/metrics").text
        name = 'modeltainer_gateway_answers_broken_total{model="m",reason="upstream_died"}'
        assert f"{name} {FAILURES}" in text


def test_half_open_lets_one_probe_through(world: World) -> None:
    engine, gate = world.launch().engine, Gate()
    engine.answer = whole({}, "503 Service Unavailable")
    with world.serving():
        for _ in range(FAILURES):
            world.chat()
        [live] = world.gateway.endpoints.all
        engine.answer = [gate, *whole({"ok": 1})]
        time.sleep(live.breaker.opens_in(time.monotonic()) + 0.05)
        answers: list[int] = []
        threads = [
            threading.Thread(target=lambda: answers.append(world.chat().status_code), daemon=True)
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        world.until(lambda: len(answers) == 5)
        assert answers == [503] * 5
        assert len(engine.requests) == FAILURES + 1
        gate.event.set()
        for thread in threads:
            thread.join()
        assert answers[-1] == 200
        assert world.chat().status_code == 200


def test_neither_4xx_nor_a_500_opens_the_breaker(world: World) -> None:
    engine = world.launch().engine
    with world.serving():
        for status in ("400 Bad", "404 No", "413 Long", "422 What", "429 Slow", "500 Too long"):
            engine.answer = whole({"error": {"message": "x"}}, status)
            for _ in range(FAILURES + 1):
                assert world.chat().status_code == int(status[:3])
        engine.answer = whole({"ok": 1})
        assert world.chat().status_code == 200


def test_probe_that_its_client_leaves_is_not_the_last(world: World) -> None:
    engine = world.launch().engine
    engine.answer = whole({}, "503 Service Unavailable")
    with world.serving():
        for _ in range(FAILURES):
            world.chat()
        [live] = world.gateway.endpoints.all
        engine.answer = [Gate()]
        time.sleep(live.breaker.opens_in(time.monotonic()) + 0.05)
        connection = world.raw()
        connection.sendall(world.raw_request(b'{"model":"m"}'))
        engine.wait_request(FAILURES + 1)
        connection.close()
        world.settled()
        engine.answer = whole({"ok": 1})
        assert world.chat().status_code == 200


@pytest.mark.parametrize("path", PROXIED)
@pytest.mark.parametrize("failed", [0, 1])
def test_client_that_leaves_is_not_tried_for_elsewhere(
    world: World, path: str, failed: int
) -> None:
    """In the first attempt, and in the one after a failure."""
    busy = whole({"error": {"message": "loading"}}, "503 Service Unavailable")
    tried: list[Request] = []

    def answer(request: Request) -> list[Step]:
        tried.append(request)
        return busy if len(tried) <= failed else [Gate()]

    for _ in range(3):
        world.launch().engine.answer = answer
    with world.serving():
        connection = world.raw()
        connection.sendall(world.smallest_request(path))
        world.until(lambda: len(tried) == failed + 1)
        connection.close()
        world.settled()
        assert tried[-1].gone.wait(1)
        assert len(tried) == failed + 1


FRAMES = {
    "/v1/chat/completions": b'\n\ndata: {"error":{"message":"the answer broke off',
    "/v1/completions": b'\n\ndata: {"error":{"message":"the answer broke off',
    "/v1/messages": b'\n\nevent: error\ndata: {"type":"error","error":{"message":"the answer',
    "/v1/responses": b'\n\nevent: response.failed\ndata: {"type":"response.failed","response":{',
}


@pytest.mark.parametrize("path", FRAMES)
def test_error_frames_are_of_the_apis_family(world: World, path: str) -> None:
    event = b'event: x\ndata: {"type":"x"}\n\n'
    world.launch().engine.answer = [Send(STREAM_HEAD), piece(event), Pause(0.02), Close()]
    with world.serving():
        response = world.client.post(path, json={"model": "m", "stream": True})
        assert response.content.startswith(event[:-2] + FRAMES[path])
        data = response.content.rpartition(b"data: ")[2]
        assert json.loads(data)
        assert b"[DONE]" not in response.content


def test_official_client_sees_a_failed_response(world: World) -> None:
    created = {"type": "response.created", "sequence_number": 0, "response": {"id": "r"}}
    event = b"event: response.created\ndata: " + json.dumps(created).encode() + b"\n\n"
    world.launch().engine.answer = [Send(STREAM_HEAD), piece(event), Pause(0.02), Close()]
    with world.serving():
        client = openai.OpenAI(base_url=f"{world.url}/v1", api_key=world.key, max_retries=0)
        last = list(client.responses.create(model="m", input="hi", stream=True))[-1]
        assert last.type == "response.failed"
        assert last.response.error is not None
        assert "broke off" in last.response.error.message


def test_gateways_own_errors_on_the_messages_api(world: World) -> None:
    world.launch()
    with world.serving():
        response = world.client.post("/v1/messages", json={"model": "zzz"})
        body = response.json()
        assert (response.status_code, body["type"]) == (404, "error")
        assert body["error"]["type"] == "not_found_error"
        assert body["error"]["code"] == "model_not_found"
