"""Which paths there are, for which clients, and which there are not."""

from __future__ import annotations

import hashlib
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeltainer.gateway.errors import GatewayError
from modeltainer.gateway.multipart import parse_form
from modeltainer.gateway.paths import PROXIED
from modeltainer.registry import keys
from modeltainer.registry.records import State
from tests.engine.scripted import whole
from tests.gateway.setup import World

DANGEROUS = [
    *("/pause", "/resume", "/sleep", "/wake_up", "/collective_rpc", "/reset_prefix_cache"),
    *("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/start_profile", "/stop_profile"),
    *("/invocations", "/slots", "/slots/0", "/props", "/lora-adapters", "/models/load", "/infill"),
    *("/apply-template", "/is_scaling_elastic_ep", "/update_weights", "/server_info", "/metrics/"),
    *("/v1/chat/completions/render", "/inference/v1/generate", "/v1/nothing", "//v1/completions"),
    *("/v1/../pause", "/v1/%2e%2e/pause", "/v1/chat/completions%2f..%2fpause", "/v1/Completions"),
]


@pytest.mark.parametrize("path", [path for path, one in PROXIED.items() if one.form == "json"])
def test_every_listed_path_reaches_the_engine_whole(world: World, path: str) -> None:
    engine = world.launch("m", aliases=("org/name:x",)).engine
    engine.answer = whole({"object": "list", "n": 1.50})
    with world.serving():
        body = b'{"input": [1, "\\u00e4"], "model":"org/name:x", "unknown": {"big": 1e400}}'
        response = world.client.post(path, content=body)
        assert (
            response.content
            == whole({"object": "list", "n": 1.50})[0].data.partition(  # type: ignore[union-attr]
                b"\r\n\r\n"
            )[2]
        )
        assert response.headers["x-modeltainer-model"] == "m"
        assert (engine.requests[0].method, engine.requests[0].path) == ("POST", path)
        assert engine.requests[0].body == body.replace(b"org/name:x", b"m")


def test_no_other_path_reaches_the_engine(world: World) -> None:
    engine = world.launch().engine
    with world.serving():
        for path in DANGEROUS:
            for method in ("POST", "GET", "PUT", "DELETE"):
                response = world.client.request(method, path, json={"model": "m"})
                assert response.status_code in (404, 405), path
                assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        with world.raw() as connection:  # a path as no client library would send it
            connection.sendall(world.raw_request(b'{"model":"m"}', "/v1/completions/../../pause"))
            assert connection.recv(100).startswith(b"HTTP/1.1 404")
        assert not engine.requests


def test_anthropics_headers(world: World) -> None:
    engine = world.launch().engine
    answer = {"type": "message", "usage": {"input_tokens": 1, "output_tokens": 2}}
    engine.answer = whole(answer)
    with world.serving():
        request = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
        headers = {"x-api-key": world.key, "anthropic-version": "2023-06-01"}
        world.client.headers.pop("authorization")
        response = world.client.post("/v1/messages?beta=true", json=request, headers=headers)
        assert response.json() == answer
        assert engine.requests[0].header("anthropic-version") == "2023-06-01"
        assert engine.requests[0].header("x-api-key") is None
        assert world.client.post("/v1/messages", json=request).status_code == 401


FILE = bytes(range(256)) * 4000 + b"\r\n--not-the-boundary\r\n\r\nmodel\r\n"


def test_audio_upload(world: World) -> None:
    engine = world.launch("whisper", aliases=("w",)).engine
    fields: list[tuple[str, tuple[str | None, bytes] | tuple[str | None, bytes, str]]] = [
        ("timestamp_granularities[]", (None, b"word")),
        ("model", (None, b"w")),
        ("file", ('model"; x.wav', FILE, "audio/wav")),
        ("timestamp_granularities[]", (None, b"segment")),
        ("prompt", (None, "ä €".encode())),
    ]
    with world.serving():
        response = world.client.post("/v1/audio/transcriptions", files=fields)
        assert response.status_code == 200
        request = engine.requests[0]
        sent = request.body
        assert sent.count(b'name="model"') == 1
        assert b'name="model"\r\n\r\nwhisper\r\n--' in sent
        assert (
            hashlib.sha256(FILE).digest()
            == hashlib.sha256(sent.partition(b"audio/wav\r\n\r\n")[2][: len(FILE)]).digest()
        )
        assert sent.count(b"timestamp_granularities[]") == 2
        assert int(request.header("content-length") or 0) == len(sent)
        boundary = (request.header("content-type") or "").partition("boundary=")[2].encode()
        original = sent.replace(b"\r\n\r\nwhisper\r\n", b"\r\n\r\nw\r\n")
        assert len(original) == len(sent) - len("whisper") + len("w")
        assert sent.endswith(b"--" + boundary + b"--\r\n")


PLAIN = b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--B--\r\n'


@pytest.mark.parametrize(
    ("kind", "body", "code"),
    [
        ("application/json", PLAIN, "invalid_form"),
        ("multipart/form-data", PLAIN, "invalid_form"),
        ("multipart/form-data; boundary=C", PLAIN, "invalid_form"),
        ("multipart/form-data; boundary=B", PLAIN[:-5], "invalid_form"),
        ("multipart/form-data; boundary=B", b"", "invalid_form"),
        ("multipart/form-data; boundary=B", PLAIN.replace(b"model", b"m"), "missing_model"),
        ("multipart/form-data; boundary=B", PLAIN.replace(b"\r\nm\r", b"\r\n\r"), "invalid_model"),
        ("multipart/form-data; boundary=B", PLAIN[:-4] + PLAIN[3:], "invalid_model"),
        (
            "multipart/form-data; boundary=B",
            PLAIN.replace(b"\r\nm\r", b"\r\n\xff\r"),
            "invalid_encoding",
        ),
    ],
)
def test_bad_forms(world: World, kind: str, body: bytes, code: str) -> None:
    world.launch()
    with world.serving():
        response = world.client.post(
            "/v1/audio/transcriptions", content=body, headers={"content-type": kind}
        )
        assert (response.status_code, response.json()["error"]["code"]) == (400, code)


@given(st.binary(max_size=300), st.sampled_from([b"B", b"", b"--", b"x y"]))
def test_wild_forms_are_an_error_or_right(data: bytes, boundary: bytes) -> None:
    headers = [(b"content-type", b"multipart/form-data; boundary=" + boundary)]
    for body in (data, PLAIN[:40] + data + PLAIN[40:], PLAIN[:-6] + data + PLAIN[-6:]):
        try:
            found = parse_form(body, headers)
        except GatewayError:
            continue
        changed = b"".join(found.pieces("other"))
        start, end = found.model_span
        assert changed == body[:start] + b"other" + body[end:]


def test_models_are_listed_with_their_state(world: World) -> None:
    world.launch("up")
    world.launch("slow", state=State.LOADING)
    _, limited = keys.create(world.layout, "limited", ["up"])
    file = world.layout.root.parent / "models.yaml"
    file.write_text(
        "models: {"
        + ", ".join(f"{n}: {{engine: vllm, source: a/b}}" for n in ("up", "slow", "cold"))
        + "}"
    )
    from modeltainer.config.load import load

    with world.serving(lambda: load(file, {})):
        listed = world.client.get("/v1/models").json()["data"]
        states = {one["id"]: one["state"] for one in listed}
        assert states == {"up": "ready", "slow": "loading", "cold": "not-ready"}
        assert all(one["created"] <= time.time() for one in listed)
        seen = world.client.get("/v1/models", headers={"authorization": f"Bearer {limited}"})
        assert [one["id"] for one in seen.json()["data"]] == ["up"]
        document = json.loads(world.client.get("/openapi.json").content)
        for path in PROXIED:
            [body] = document["paths"][path]["post"]["requestBody"]["content"].values()
            name = body["schema"]["$ref"].rpartition("/")[2]
            assert "model" in document["components"]["schemas"][name]["required"]
