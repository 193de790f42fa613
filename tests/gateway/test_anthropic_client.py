"""Anthropic's own client, unchanged, through the gateway."""

from __future__ import annotations

import json

import pytest

from tests.engine.scripted import STREAM_HEAD, Close, Pause, Send, piece, stream, whole
from tests.gateway.setup import World

anthropic = pytest.importorskip("anthropic", reason="in the extra named test")


def test_official_anthropic_client(world: World) -> None:
    engine = world.launch().engine
    engine.answer = whole({"type": "error", "error": {"type": "x", "message": "no"}}, "400 Bad")
    with world.serving():
        client = anthropic.Anthropic(base_url=world.url, api_key=world.key, max_retries=0)
        with pytest.raises(anthropic.BadRequestError):
            client.messages.create(
                model="m", max_tokens=5, messages=[{"role": "user", "content": "hi"}]
            )
        with pytest.raises(anthropic.NotFoundError, match="does not exist"):
            client.messages.create(
                model="other", max_tokens=5, messages=[{"role": "user", "content": "hi"}]
            )


def event(kind: str, **fields: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


START = event(
    "message_start",
    message={
        "id": "m1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 3, "output_tokens": 0},
    },
)
BLOCK = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
DELTA = event("content_block_delta", index=0, delta={"type": "text_delta", "text": "hi"})
STOP = event("message_stop")


def test_streams_and_broken_streams(world: World) -> None:
    engine = world.launch().engine
    with world.serving():
        client = anthropic.Anthropic(base_url=world.url, api_key=world.key, max_retries=0)

        def text() -> str:
            messages = [{"role": "user", "content": "hi"}]
            with client.messages.stream(model="m", max_tokens=5, messages=messages) as running:
                return "".join(running.text_stream)

        engine.answer = stream(START, BLOCK, DELTA, DELTA, STOP)
        assert text() == "hihi"
        engine.answer = [Send(STREAM_HEAD), piece(START + BLOCK + DELTA), Pause(0.02), Close()]
        with pytest.raises(anthropic.APIStatusError, match="broke off"):
            text()
