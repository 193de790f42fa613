"""Attacks on the gateway by a client, or by whoever can reach its port."""

from __future__ import annotations

import contextlib
import json
import os
import select
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeltainer.gateway.registry_follower import RegistryFollower
from modeltainer.gateway.timed_connection import TimedProtocol
from modeltainer.registry import keys, launches
from modeltainer.registry.endpoints import EndpointReader
from modeltainer.registry.keys import KeyRing
from modeltainer.registry.layout import LAUNCH_ID, Layout, new_launch_id
from modeltainer.registry.records import Endpoint, State, encode
from tests.engine.scripted import ScriptedEngine, whole
from tests.gateway.setup import World, read_until

BODY = b'{"model":"m","messages":[]}'


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def exchange(world: World, *pieces: bytes) -> bytes:
    """Send bytes on a connection of its own; everything that comes back until it is closed."""
    with world.raw() as connection:
        for piece in pieces:
            connection.sendall(piece)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return answer


@pytest.mark.parametrize(
    "head",
    [
        "content-length: {n}\r\ntransfer-encoding: chunked\r\n",
        "content-length: {n}\r\ncontent-length: 0\r\n",
        "transfer-encoding: xchunked\r\n",
        "transfer-encoding : chunked\r\n",
        "content-length: +{n}\r\n",
        "content-length: {n}\r\nx-evil: a\0b\r\n",
        "content-length: {n}\r\nx evil: a\r\n",
    ],
)
def test_smuggling_heads_are_refused(world: World, head: str) -> None:
    launched = world.launch("m")
    inside = b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n"
    with world.serving():
        request = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
            f"authorization: Bearer {world.key}\r\n{head.format(n=len(BODY))}\r\n"
        ).encode()
        answer = exchange(world, request + BODY + inside)
    assert answer.startswith(b"HTTP/1.1 400")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert launched.engine.requests == []


def test_what_the_engine_gets_is_one_request_with_no_field_of_ours_forged(world: World) -> None:
    launched = world.launch("m")
    launched.engine.answer = whole({"ok": True})
    with world.serving():
        more = (
            "x-api-key: stolen\r\ncookie: session=1\r\nproxy-authorization: Basic eDp5\r\n"
            "connection: close, authorization\r\nx-request-id: a\r\n"
        )
        answer = exchange(world, world.raw_request(BODY, more=more))
    assert answer.startswith(b"HTTP/1.1 200")
    [request] = launched.engine.requests
    assert request.header("authorization") == f"Bearer {launched.secret.key}"
    assert [name for name, _ in request.headers if name == "authorization"] == ["authorization"]
    for name in ("x-api-key", "cookie", "proxy-authorization", "connection"):
        assert request.header(name) is None
    assert request.body == BODY


def test_a_head_without_end_is_cut_off(world: World) -> None:
    with world.serving(), world.raw() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nx-long: ")
        answer = b""
        try:
            for _ in range(200):
                connection.sendall(b"a" * 4096)
        except OSError:
            pass  # it has hung up on us, as it should
        else:
            answer = connection.recv(65536)
        assert not answer or answer.startswith(b"HTTP/1.1 431")


def test_a_large_body_is_refused_before_it_is_read(world: World) -> None:
    with world.serving(max_body_bytes=4096):
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
            f"authorization: Bearer {world.key}\r\ncontent-length: 1000000000\r\n\r\n"
        )
        with world.raw() as connection:
            connection.sendall(head.encode())
            assert connection.recv(1024).startswith(b"HTTP/1.1 413")


def test_slow_heads_and_bodies_are_hung_up_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TimedProtocol, "head_timeout_s", 0.2)
    monkeypatch.setattr(TimedProtocol, "body_timeout_s", 0.2)
    launched = world.launch("m")
    with world.serving():
        with world.raw() as silent, world.raw() as slow_head, world.raw() as slow_body:
            slow_head.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nx-a: b")
            slow_body.sendall(world.raw_request(BODY)[:-5])
            assert silent.recv(1024) == b""
            assert slow_head.recv(1024).startswith(b"HTTP/1.1 408")
            assert slow_body.recv(1024).startswith(b"HTTP/1.1 408")
        assert launched.engine.requests == []
        launched.engine.answer = whole({"ok": True})
        assert world.chat().status_code == 200
        world.settled()


def test_trailers_without_end_are_cut_off(world: World) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    for trailer in (b"x-a: " + b"y" * 4096, b"x-a: y\r\n" * 512):
        with world.serving(), world.raw() as connection:
            connection.sendall(head + b"0\r\n")
            sent = 0
            with contextlib.suppress(ConnectionError):
                while sent < 4_000_000:
                    connection.sendall(trailer)
                    sent += len(trailer)
                    time.sleep(0.001)
            assert sent < 4_000_000


def test_an_upload_that_stops_is_hung_up_on_however_much_has_come(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TimedProtocol, "body_timeout_s", 0.3)
    monkeypatch.setattr(TimedProtocol, "body_bytes_per_s", 100)
    with world.serving(), world.raw() as connection:
        connection.sendall(world.raw_request(b"x" * 1_000_000)[:-10])
        assert connection.recv(1024).startswith(b"HTTP/1.1 408")


def test_a_client_that_stops_reading_is_hung_up_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TimedProtocol, "send_timeout_s", 0.3)
    engine = world.launch("m").engine
    engine.answer = whole({"x": "y" * 20_000_000})
    with world.serving(), world.raw() as connection:
        connection.sendall(world.raw_request(BODY))
        engine.wait_request()
        world.settled()
        assert len(read_until(connection, b"")) < 20_000_000


def test_a_body_that_takes_long_to_look_through_holds_up_nobody(world: World) -> None:
    world.launch("m").engine.answer = whole({"ok": True})
    long = b'{"model":"m","a":{"model":1},"x":[' + b"[]," * 3_000_000 + b"1]}"
    with world.serving(), world.raw() as connection:
        connection.sendall(world.raw_request(long))
        answered = 0
        while not select.select([connection], [], [], 0)[0]:
            answered += world.client.get("/health").status_code == 200
        assert connection.recv(1024).startswith(b"HTTP/1.1 200")
        assert answered > 5


def test_large_bodies_of_one_key_that_stall_keep_out_no_other_key(world: World) -> None:
    world.launch("m").engine.answer = whole({"ok": True})
    _, other = keys.create(world.layout, "other")
    body = b'{"model":"m","prompt":"' + b"x" * 2_000_000 + b'"}'
    serving = world.serving(
        max_body_bytes=2_100_000, max_buffered_bytes=8_400_000, pool_timeout=0.2
    )
    with serving, contextlib.ExitStack() as stack:
        stalled = [stack.enter_context(world.raw()) for _ in range(5)]
        for connection in stalled:
            connection.sendall(world.raw_request(body, "/v1/completions")[:-10])
        full, _, _ = select.select(stalled, [], [], 5)
        assert full[0].recv(1024).startswith(b"HTTP/1.1 503")
        headers = {"authorization": f"Bearer {other}"}
        answer = world.client.post("/v1/completions", content=body, headers=headers)
        assert answer.status_code == 200


def test_a_browsers_password_does_nothing_for_another_site(world: World) -> None:
    engine = world.launch("m").engine
    engine.answer = whole({"ok": True})
    body = '{"model":"m","prompt":"x"}'
    with world.serving(batches={"enabled": True}):
        world.client.headers.pop("authorization")
        assert world.client.get("/docs", auth=("me", world.key)).status_code == 200
        for path in ("/v1/completions", "/v1/batches", "/v1/batches/b/cancel"):
            answer = world.client.post(
                path,
                content=body,
                auth=("me", world.key),
                headers={"content-type": "text/plain", "origin": "https://elsewhere.example"},
            )
            assert answer.status_code == 401
        answer = world.client.post(
            "/v1/files",
            files={"file": ("x", b"{}")},
            data={"purpose": "batch"},
            auth=("me", world.key),
        )
        assert answer.status_code == 401
        assert engine.requests == []


@pytest.mark.parametrize("more", [b"", b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"])
def test_a_body_that_comes_when_it_was_answered_holds_no_connection(
    world: World, monkeypatch: pytest.MonkeyPatch, more: bytes
) -> None:
    monkeypatch.setattr("modeltainer.gateway.serve.CLIENT_KEEP_ALIVE_S", 1)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n"
    with world.serving(), world.raw() as connection:
        connection.sendall(head)
        assert read_until(connection, b"}}").startswith(b"HTTP/1.1 401")
        connection.sendall(b"hello" + more)
        assert (b"200 OK" in read_until(connection, b"")) is bool(more)


def test_a_client_that_keeps_its_connection_is_not_hurried(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched = world.launch("m")
    launched.engine.answer = whole({"ok": True})
    monkeypatch.setattr(TimedProtocol, "head_timeout_s", 0.3)
    with world.serving(), world.raw() as connection:
        for _ in range(2):
            connection.sendall(world.raw_request(BODY))
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            # Between requests uvicorn's keep-alive counts, not the time of a begun request.
            time.sleep(0.5)


def test_guessed_keys_open_nothing(world: World) -> None:
    launched = world.launch("m")
    near = world.key[:-1] + ("a" if world.key[-1] != "a" else "b")
    with world.serving():
        for guess in ("", "mt-", near, world.key.upper(), launched.secret.key, "owner "):
            world.client.headers["authorization"] = f"Bearer {guess}x"
            assert world.chat().status_code == 401
            assert world.client.get("/admin/status").status_code == 401
    assert launched.engine.requests == []


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "m\0", "..", "m/../../secret.json", "${HOME}"]
)
def test_a_models_name_is_never_a_path(world: World, name: str) -> None:
    world.launch("m")
    with world.serving():
        answer = world.chat(name)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    "path", ["/v1/../admin/status", "/v1/%2e%2e/admin/status", "//admin/status", "/v1/models/../x"]
)
def test_paths_do_not_climb_past_the_key(world: World, path: str) -> None:
    with world.serving():
        answer = exchange(
            world, f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode()
        )
    assert answer.startswith(b"HTTP/1.1 401")


@given(st.text())
def test_any_name_makes_a_launch_id_that_stays_in_its_folder(name: str) -> None:
    made = new_launch_id(name, 0)
    assert LAUNCH_ID.fullmatch(made)
    assert Layout(Path("/r")).launch(made).parent == Path("/r/launches")


def test_a_log_line_cannot_be_forged(world: World) -> None:
    forged = '\\n{"time":"x","level":"info","event":"forged"}'
    launched = world.launch("m")
    launched.engine.answer = whole({"ok": True})
    with world.serving():
        world.chat(f"nope{forged}")
        world.client.get("/%0a%7b%22event%22:%22forged%22%7d")
        world.client.get("/v1/models", headers={"x-request-id": "a{}b\x7f"})
        lines = world.log("request")
    assert {line["event"] for line in lines} == {"request"}
    assert all(line["request_id"].startswith("req-") for line in lines)


def plant(layout: Layout, name: str, **fields: object) -> None:
    """An endpoint file as an attacker would write it."""
    launch_id = new_launch_id("m", 0)
    record = Endpoint(
        **{  # type: ignore[arg-type]
            "launch_id": launch_id,
            "model": "m",
            "replica": 0,
            "job_id": "1",
            "owner": "alice",
            "engine": "llamacpp",
            "runtime": "native",
            "state": State.READY,
            "node": "n",
            "host": "127.0.0.1",
            "port": 1,
            "period_s": 100.0,
            **fields,
        }
    )
    (layout.endpoints / (name or f"{record.key}.json")).write_bytes(encode(record))


def look(layout: Layout) -> tuple[int, dict[str, str]]:
    """How many targets the gateway sees, and what it leaves out."""
    follower = RegistryFollower(
        layout, KeyRing(layout), lambda _: None, interval_s=1, warn=lambda _: None
    )
    snapshot = follower.look()
    return len(snapshot.targets), snapshot.problems


def test_a_planted_record_without_its_launchs_secret_leads_nowhere(world: World) -> None:
    with ScriptedEngine(["m"]) as victim:
        plant(world.layout, "", port=victim.port)
        targets, problems = look(world.layout)
        with world.serving():
            assert world.chat().status_code in (404, 503)
        assert victim.connections == 0
    assert targets == 0
    assert len(problems) == 1


@pytest.mark.parametrize("fields", [{"launch_id": "../../../tmp/x-r0-aaaaaa"}, {"job_id": "../x"}])
def test_a_planted_record_cannot_name_a_folder_elsewhere(
    world: World, fields: dict[str, str]
) -> None:
    plant(world.layout, "1.x.json", **fields)
    assert look(world.layout)[0] == 0


def test_a_record_of_another_owner_is_not_believed(world: World) -> None:
    world.launch("m")
    reader = EndpointReader(world.layout, owners={os.getuid() + 1})
    assert reader.poll() == []
    assert "is not trusted here" in next(iter(reader.problems.values()))


def test_a_planted_link_is_not_followed(world: World, tmp_path: Path) -> None:
    launched = world.launch("m")
    secret = world.layout.secret(launched.launch_id)
    link = world.layout.endpoints / f"9.{launched.launch_id}.json"
    link.symlink_to(secret)
    os.mkfifo(world.layout.endpoints / "8.fifo.json")
    targets, problems = look(world.layout)
    assert targets == 1
    assert set(problems) == {link.name, "8.fifo.json"}
    assert json.loads(secret.read_text())["key"] not in str(problems)


def test_a_secret_that_others_can_read_is_not_used(world: World) -> None:
    launched = world.launch("m")
    world.layout.secret(launched.launch_id).chmod(0o644)
    targets, problems = look(world.layout)
    assert targets == 0
    assert "open to others" in next(iter(problems.values()))


def test_a_secret_whose_key_would_break_a_header_is_not_used(world: World) -> None:
    secret = launches.new_secret()
    bad = type(secret)(key="a\r\nx-injected: 1", nonce=secret.nonce)
    world.launch("m", secret=bad, engine=ScriptedEngine(["m"]))
    targets, problems = look(world.layout)
    assert targets == 0
    assert "cannot be used in a header" in next(iter(problems.values()))
