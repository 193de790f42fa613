"""Keys: who may come in, what they may use, and that a revoked key stops working."""

from __future__ import annotations

import time

import httpx
import pytest

from modeltainer.gateway.settings import GatewaySettings
from modeltainer.registry import keys
from tests.gateway.setup import World

BODY = {"model": "m"}


def status(world: World, headers: dict[str, str], model: str = "m") -> int:
    return httpx.post(
        f"{world.url}/v1/completions", json={"model": model}, headers=headers
    ).status_code


def test_ways_to_send_a_key(world: World) -> None:
    world.launch()
    with world.serving():
        assert status(world, {"authorization": f"Bearer {world.key}"}) == 200
        assert status(world, {"authorization": f"bearer {world.key}"}) == 200
        assert status(world, {"x-api-key": world.key}) == 200
        for wrong in (
            {},
            {"authorization": world.key},
            {"authorization": "Bearer"},
            {"authorization": "Basic eDp5"},
            {"authorization": f"Bearer {world.key}x"},
            {"x-api-key": "mt-ü"},
        ):
            raw = {name.encode(): value.encode() for name, value in wrong.items()}
            response = httpx.post(f"{world.url}/v1/completions", json=BODY, headers=raw)
            assert response.status_code == 401
            assert response.json()["error"]["type"] == "authentication_error"
        assert {line["status"] for line in world.log("request")} == {200, 401}


def test_revoked_and_new_keys_count_without_restart(world: World) -> None:
    world.launch()
    with world.serving():
        record, plain = keys.create(world.layout, "guest")
        headers = {"authorization": f"Bearer {plain}"}
        assert status(world, headers) == 200  # at once: no look at the folder has to come round
        assert keys.revoke(world.layout, record.id) == record
        world.until(lambda: status(world, headers) == 401, within=2)


def test_expired_key(world: World) -> None:
    world.launch()
    _, plain = keys.create(world.layout, "short", expires_unix=time.time() + 0.6)
    with world.serving():
        headers = {"authorization": f"Bearer {plain}"}
        assert status(world, headers) == 200
        world.until(lambda: status(world, headers) == 401, within=2)


def test_key_for_some_models_only(world: World) -> None:
    world.launch("m", aliases=("nick",))
    world.launch("secret")
    _, plain = keys.create(world.layout, "some", models=["m"])
    with world.serving():
        headers = {"authorization": f"Bearer {plain}"}
        assert status(world, headers) == 200
        assert status(world, headers, "nick") == 200
        assert status(world, headers, "secret") == 403
        listed = httpx.get(f"{world.url}/v1/models", headers=headers).json()["data"]
        assert [one["id"] for one in listed] == ["m", "nick"]
        assert httpx.get(f"{world.url}/v1/models/secret", headers=headers).status_code == 404
        assert httpx.get(f"{world.url}/admin/status", headers=headers).status_code == 403
        near = httpx.post(f"{world.url}/v1/completions", json={"model": "secre"}, headers=headers)
        assert "secret" not in near.json()["error"]["message"].replace("'secre'", "")


def test_owner_token_works_like_a_key(world: World) -> None:
    world.launch()
    with world.serving():
        headers = {"authorization": "Bearer owner"}
        assert httpx.get(f"{world.url}/admin/status", headers=headers).status_code == 200


def test_no_auth_on_a_unix_socket_only(world: World) -> None:
    world.launch()
    folder = world.layout.root / "run"
    folder.mkdir(mode=0o700)
    with world.serving(listen="unix", socket=folder / "g.sock", auth="none"):
        assert (folder / "g.sock").stat().st_mode & 0o777 == 0o600
        del world.client.headers["authorization"]
        assert world.chat().status_code == 200
        assert world.client.get("/admin/status").status_code == 200
    with pytest.raises(ValueError, match="auth: none needs listen: unix"):
        GatewaySettings(listen="tcp", auth="none")
