"""TLS from the gateway to the engine: one certificate per launch, and no other is taken."""

from __future__ import annotations

import json
import ssl
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
            assert not impostor.requests
            assert sound.engine.requests


def test_a_damaged_certificate_is_told(world: World, secret: LaunchSecret) -> None:
    world.launch(secret=replace(secret, certificate="-----BEGIN CERTIFICATE-----\nno"))
    world.launch("other")
    with world.serving():
        assert world.chat(model="other").status_code == 200
        problems = world.client.get("/admin/status").json()["registry_problems"]
        assert "certificate cannot be read" in json.dumps(problems)
