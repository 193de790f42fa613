"""TLS from the gateway to the engine: one certificate per launch, and no other is taken."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from modeltainer.registry.launches import new_secret
from modeltainer.registry.records import LaunchSecret
from tests.engine.scripted import DONE, ScriptedEngine, stream, token
from tests.gateway.setup import World


@pytest.fixture
def secret() -> LaunchSecret:
    return new_secret(tls=True)


def engine(secret: LaunchSecret, folder: Path, shown: LaunchSecret | None = None) -> ScriptedEngine:
    """The launch's engine, over TLS with the certificate of ``shown`` (by default its own)."""
    shown = shown or secret
    assert shown.certificate is not None
    assert shown.private_key is not None
    chain = folder / "chain.pem"
    chain.write_text(shown.private_key + shown.certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return ScriptedEngine(["m", secret.nonce], secret.key, tls=context)


def reason(world: World) -> str:
    """Why the only endpoint is not routed to; empty when it is."""
    [endpoint] = world.client.get("/admin/status").json()["endpoints"]
    assert endpoint["routed"] is not bool(endpoint["reason"])
    return str(endpoint["reason"])


def test_answers_and_streams_come_over_tls(
    world: World, secret: LaunchSecret, tmp_path: Path
) -> None:
    with engine(secret, tmp_path) as real:
        world.launch(engine=real, secret=secret)
        with world.serving():
            assert world.chat().json() == {"ok": True}
            real.answer = stream(*(token("x" * 1000) for _ in range(1000)), DONE)
            body = {"model": "m", "messages": [], "stream": True}
            with world.client.stream("POST", "/v1/chat/completions", json=body) as response:
                assert response.read().count(b"x" * 1000) == 1000
            assert real.connections <= 4  # probes, and one that was kept


def test_another_certificate_is_not_taken(
    world: World, secret: LaunchSecret, tmp_path: Path
) -> None:
    with engine(secret, tmp_path, shown=new_secret(tls=True)) as impostor:
        world.launch(engine=impostor, secret=secret)
        with world.serving():
            assert world.chat().status_code in (404, 503)
            assert "the certificate there is not this launch's" in reason(world)
            assert not impostor.requests
            assert not impostor.probes
            assert not impostor.keys_seen


def test_plain_http_is_not_taken_where_tls_is_due(world: World, secret: LaunchSecret) -> None:
    with ScriptedEngine(["m", secret.nonce], secret.key) as plain:
        world.launch(engine=plain, secret=secret)
        with world.serving():
            assert world.chat().status_code in (404, 503)
            assert "cannot connect to the engine" in reason(world)
            assert not plain.requests


@pytest.mark.parametrize(
    ("says", "why"),
    [
        (b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n", "does not speak TLS"),
        (b"", "no answer to TLS within 0.3 s"),
    ],
    ids=["plain HTTP", "silence"],
)
def test_nothing_is_said_before_the_handshake(
    world: World, secret: LaunchSecret, says: bytes, why: str
) -> None:
    heard: list[bytes] = []

    def listen(listener: socket.socket) -> None:
        taken, _ = listener.accept()
        with taken:
            heard.append(taken.recv(65536))
            taken.sendall(says)
            heard.append(taken.recv(65536))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=listen, args=(listener,), daemon=True)
        thread.start()
        world.launch(engine=ScriptedEngine(port=listener.getsockname()[1]), secret=secret)
        with world.serving(connect_timeout=0.3):
            assert why in world.log("endpoint_unproven")[0]["reason"]
            thread.join(5)
    assert heard[0][:1] == b"\x16"  # a TLS handshake (RFC 8446, 5.1), and nothing before it
    assert secret.key.encode() not in b"".join(heard)
    assert b"models" not in b"".join(heard)


def test_an_impostor_on_a_reused_port_costs_no_request(
    world: World, secret: LaunchSecret, tmp_path: Path
) -> None:
    with engine(secret, tmp_path) as real:
        world.launch(engine=real, secret=secret)
        sound = world.launch()
        with world.serving():
            assert world.chat().status_code == 200
            port = real.port
            real.stop()
            other = new_secret(tls=True)
            impostor = engine(replace(other, nonce=secret.nonce), tmp_path)
            impostor.port = port
            with impostor:
                assert [world.chat().status_code for _ in range(6)] == [200] * 6
            [failed] = world.log("attempt_failed")
            assert failed["error"] == "upstream_certificate"
            assert "the certificate there is not this launch's" in failed["message"]
            assert not impostor.requests
            assert sound.engine.requests


def test_a_damaged_certificate_is_told(world: World, secret: LaunchSecret) -> None:
    world.launch(secret=replace(secret, certificate="-----BEGIN CERTIFICATE-----\nno"))
    world.launch("other")
    with world.serving():
        assert world.chat(model="other").status_code == 200
        problems = world.client.get("/admin/status").json()["registry_problems"]
        assert "certificate cannot be read" in json.dumps(problems)
