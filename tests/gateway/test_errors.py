"""Whatever is wrong with a request, the answer is an OpenAI-shaped error with a true status."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from modeltainer.config.load import load
from modeltainer.registry.records import Cause, State
from modeltainer.view import Row
from tests.engine.scripted import DONE, END, STREAM_HEAD, Gate, Send, piece, token, whole
from tests.gateway.setup import World, read_until


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    error: dict[str, Any] = body["error"]
    return error


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"[]", "invalid_json"),
        (b'"text"', "invalid_json"),
        (b'{"model": "m"} trailing', "invalid_json"),
        (b'{"model": "m", "x": NaN}', "invalid_json"),
        (b'{"model": "m", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_json"),
        (b'{"model": "m", "x": ' + b"[" * 300 + b"]" * 300 + b"}", "invalid_json"),
        (b'{"model": "m", "x": "\xff"}', "invalid_encoding"),
        ('{"model": "m"}'.encode("utf-16"), "invalid_encoding"),
        (b"{}", "missing_model"),
        (b'{"model": 7}', "invalid_model"),
        (b'{"model": ""}', "invalid_model"),
        (b'{"model": "m", "mod\\u0065l": "other"}', "invalid_model"),
    ],
)
def test_bad_bodies(world: World, body: bytes, code: str) -> None:
    engine = world.launch().engine
    with world.serving():
        assert error_of(world.client.post("/v1/completions", content=body), 400)["code"] == code
        assert world.chat().status_code == 200  # the connection works on
        assert len(engine.requests) == 1


def test_body_too_large(world: World) -> None:
    world.launch()
    with world.serving(max_body_bytes=100_000):
        error = error_of(world.chat(text="x" * 200_000), 413)
        assert "100000 bytes" in error["message"]
        chunks = (b" " * 50_000 for _ in range(5))
        error_of(world.client.post("/v1/completions", content=chunks), 413)
        assert world.chat().status_code == 200


GZIP = "content-encoding: gzip\r\n"


@pytest.mark.parametrize(("size", "more", "status"), [(200_000, "", 413), (90_000, GZIP, 415)])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_refused_body_that_has_come_leaves_the_connection_as_it_was(
    world: World, size: int, more: str, status: int, chunked: bool
) -> None:
    engine = world.launch().engine
    with world.serving(max_body_bytes=100_000), world.raw() as connection:
        small = world.raw_request(b'{"model":"m"}')
        for following in (small, as_chunks(small)):  # by callbacks, and by a task
            refused = world.raw_request(b"x" * size, more=more)
            connection.sendall(as_chunks(refused) if chunked else refused)
            answer = read_until(connection, b"}}")
            assert answer.startswith(b"HTTP/1.1 %d " % status)
            assert b"connection: close" not in answer
            connection.sendall(following)
            assert read_until(connection, b'{"ok": true}').startswith(b"HTTP/1.1 200 ")
        assert [one.body for one in engine.requests] == [b'{"model":"m"}'] * 2
        world.settled()


@pytest.mark.parametrize(("size", "more", "status"), [(200_000, "", 413), (90_000, GZIP, 415)])
@pytest.mark.parametrize("sent", [60_000, 0])
def test_a_refused_body_that_does_not_end_ends_the_connection(
    world: World, size: int, more: str, status: int, sent: int
) -> None:
    more += "" if sent else "expect: 100-continue\r\n"
    with world.serving(max_body_bytes=100_000), world.raw() as connection:
        connection.sendall(world.raw_request(b"x" * size, more=more)[: sent - size])
        answer = read_until(connection, b"")
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert b"connection: close" in answer


def as_chunks(request: bytes) -> bytes:
    """The same request, with its body in two chunks."""
    head, _, body = request.partition(b"\r\n\r\n")
    length = b"content-length: %d" % len(body)
    half = len(body) // 2
    top = head.replace(length, b"transfer-encoding: chunked") + b"\r\n\r\n"
    return top + piece(body[:half]).data + piece(body[half:]).data + END.data


def test_ten_mebibytes_pass(world: World) -> None:
    engine = world.launch().engine
    text = "ä\n" * (10 * 1024 * 1024 // 4)  # the line's end is escaped, the letter is two bytes
    with world.serving():
        assert world.chat(text=text).status_code == 200
        assert json.loads(engine.requests[0].body)["text"] == text
        assert len(engine.requests[0].body) > 10 * 1024 * 1024


def test_paths_and_methods(world: World) -> None:
    world.launch()
    with world.serving():
        client = world.client
        assert error_of(client.get("/v1/chat/completions"), 405)["code"] == "method_not_allowed"
        assert client.get("/v1/chat/completions").headers["allow"] == "POST"
        error_of(client.delete("/v1/models"), 405)
        for path in ("/v1/nothing", "/pause", "/v1/chat/completions/", "/x", "/"):
            assert error_of(client.post(path, json={}), 404)["code"] == "path_not_found"
        error_of(client.get("/v1/%2e%2e/pause"), 404)


def test_not_http_at_all(world: World) -> None:
    world.launch()
    with world.serving(), world.raw() as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        answer = b""
        while data := connection.recv(4096):
            answer += data
        assert answer.startswith(b"HTTP/1.1 400")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_http"


def test_compressed_body_is_refused(world: World) -> None:
    world.launch()
    with world.serving():
        headers = {"content-encoding": "gzip"}
        error_of(world.client.post("/v1/completions", content=b"x", headers=headers), 415)


def test_unknown_model_names_the_nearest(world: World) -> None:
    world.launch("qwen2.5-7b", aliases=("small",))
    with world.serving():
        error = error_of(world.chat("qwen2.5-7B"), 404)
        assert error["code"] == "model_not_found"
        assert "'qwen2.5-7b'" in error["message"]
        error_of(world.client.get("/v1/models/zzz"), 404)


def config(tmp_path: Path) -> Path:
    file = tmp_path / "models.yaml"
    file.write_text(
        "models:\n  qwen:\n    engine: vllm\n    source: org/qwen\n    aliases: [big]\n"
        "  org/other:b-1:\n    engine: vllm\n    source: org/other\n"
    )
    return file


def row(state: State, **fields: Any) -> Row:
    return Row(
        launch_id="qwen-r0-abcdef", model="qwen", replica=0, state=state, executor="slurm", **fields
    )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "qwen is not running; start it with: mt-submit up qwen"),
        (
            [
                row(
                    State.QUEUED,
                    partition="gpu",
                    reason="Resources",
                    start_estimate_unix=725.0,  # from the test's own start
                )
            ],
            "qwen is queued on partition gpu (Resources), estimated start in 12 min",
        ),
        ([row(State.LOADING, node="n7")], "qwen is loading its weights on n7"),
        (
            [row(State.ENDED, cause=Cause("out-of-memory", "the GPU's memory was too small"))],
            "its last start failed (the GPU's memory was too small)",
        ),
    ],
)
def test_known_but_not_up(world: World, tmp_path: Path, rows: list[Row], message: str) -> None:
    file = config(tmp_path)
    now = time.time()
    world.rows = [
        (
            replace(one, start_estimate_unix=now + one.start_estimate_unix)
            if one.start_estimate_unix
            else one
        )
        for one in rows
    ]
    with world.serving(lambda: load(file, {})):
        for name in ("qwen", "big"):
            response = world.chat(name)
            assert message in error_of(response, 503)["message"]
            assert int(response.headers["retry-after"]) >= 5
        listed = {one["id"]: one for one in world.client.get("/v1/models").json()["data"]}
        assert set(listed) == {"qwen", "big", "org/other:b-1"}
        states = {"queued", "loading"} & {one.state.value for one in rows}
        assert listed["qwen"]["state"] == (states.pop() if states else "not-ready")
        assert listed["big"]["alias_of"] == "qwen"
        for name in ("org/other:b-1", "org%2Fother%3Ab-1"):
            assert world.client.get(f"/v1/models/{name}").json()["id"] == "org/other:b-1"


@pytest.mark.parametrize(
    ("left_s", "low", "high"), [(-5, 10, 10), (120, 90, 120), (9000, 300, 300)]
)
def test_retry_after_is_when_the_job_is_estimated_to_start(
    world: World, tmp_path: Path, left_s: float, low: int, high: int
) -> None:
    file = config(tmp_path)
    world.rows = [row(State.QUEUED, start_estimate_unix=time.time() + left_s)]
    with world.serving(lambda: load(file, {})):
        assert low <= int(world.chat("qwen").headers["retry-after"]) <= high


def test_scheduler_that_fails_does_not_fail_the_answer(world: World, tmp_path: Path) -> None:
    file = config(tmp_path)
    with world.serving(lambda: load(file, {})):

        def broken() -> list[Row]:
            raise RuntimeError("no controller")

        world.gateway.standing._list_rows = broken
        assert "not running" in error_of(world.chat("qwen"), 503)["message"]
        assert "no controller" in world.client.get("/admin/status").json()["scheduler_problem"]


def test_reload_keeps_the_old_config_when_the_new_is_bad(world: World, tmp_path: Path) -> None:
    file = config(tmp_path)
    with world.serving(lambda: load(file, {})):
        good = file.read_text()
        for text, fine in (
            ("models: {qwen: {engin: vllm", False),
            (good.replace("big", "huge"), True),
        ):
            file.write_text(text)
            loop = world.loop
            assert asyncio.run_coroutine_threadsafe(world.gateway.reload(), loop).result(5) is fine
            status = world.client.get("/admin/status").json()
            assert bool(status["config_problem"]) is not fine
            assert error_of(world.chat("qwen"), 503)
        error_of(world.chat("huge"), 503)
        error_of(world.chat("big"), 404)
        assert world.log("config_rejected")


def test_a_stream_goes_on_over_a_reload(world: World, tmp_path: Path) -> None:
    file = config(tmp_path)
    gate = Gate()
    engine = world.launch("qwen").engine
    engine.answer = [
        Send(STREAM_HEAD),
        piece(token("a")),
        gate,
        piece(token("b")),
        piece(DONE),
        END,
    ]
    with world.serving(lambda: load(file, {})), world.raw() as connection:
        connection.sendall(world.raw_request(b'{"model":"qwen","stream":true}'))
        assert read_until(connection, token("a")).startswith(b"HTTP/1.1 200")
        file.write_text(file.read_text().replace("big", "huge"))
        reload = asyncio.run_coroutine_threadsafe(world.gateway.reload(), world.loop)
        assert reload.result(5) is True
        gate.event.set()
        assert token("b") in read_until(connection, DONE)


def test_health_and_ready_need_no_key(world: World) -> None:
    with world.serving():
        assert httpx.get(f"{world.url}/health").json() == {"status": "ok"}
        assert httpx.get(f"{world.url}/ready").json() == {"status": "ready"}
        error_of(httpx.get(f"{world.url}/admin/status"), 401)
        error_of(httpx.get(f"{world.url}/docs"), 401)
        docs = world.client.get("/docs", headers={"x-request-id": "mine"})
        assert (docs.status_code, docs.headers["x-request-id"]) == (200, "mine")
        assert "/v1/models" in world.client.get("/openapi.json").json()["paths"]


def test_engine_error_passes_with_its_status(world: World) -> None:
    engine = world.launch().engine
    with world.serving():
        for status in ("400 Bad Request", "429 Too Many Requests", "500 Oops", "503 Loading"):
            engine.answer = whole({"error": {"message": status}}, status)
            response = world.chat()
            assert response.status_code == int(status[:3])
            assert response.json()["error"]["message"] == status
        assert len(engine.requests) == 4  # and none of them was tried again


def test_an_offer_to_speak_http2_is_passed_over(world: World) -> None:
    world.launch()
    offer = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    request = world.raw_request(b'{"model":"m"}', more=offer)
    with world.serving(), world.raw() as connection:
        for _ in range(2):  # the connection goes on being of use
            connection.sendall(request)
            answer = connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200 ")


def test_an_offer_in_pieces_never_makes_a_body_the_next_request(world: World) -> None:
    world.launch()
    offer = "Connection: Upgrade\r\nUpgrade: h2c\r\n"
    smuggled = world.raw_request(b'{"model":"smuggled"}')
    request = world.raw_request(smuggled, more=offer)
    cut = request.index(b"Upgrade: h2c") + 4
    with world.serving(), world.raw() as connection:
        connection.sendall(request[:cut])
        time.sleep(0.2)
        connection.sendall(request[cut : -len(smuggled)])
        time.sleep(0.2)
        with contextlib.suppress(OSError):
            connection.sendall(smuggled)
        answers = b""
        with contextlib.suppress(OSError):
            while chunk := connection.recv(65536):
                answers += chunk
        assert answers.count(b"HTTP/1.1 ") <= 1
        assert b"smuggled" not in answers
