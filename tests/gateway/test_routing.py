"""Which endpoint gets a request, and what happens when it fails."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeltainer.config.load import load
from modeltainer.gateway.identity import served_names
from modeltainer.gateway.routing import Target, choose, table, unknown_model
from modeltainer.registry.launches import new_secret
from modeltainer.registry.records import State
from tests.engine.scripted import (
    DONE,
    END,
    STREAM_HEAD,
    Close,
    Gate,
    Pause,
    Reset,
    ScriptedEngine,
    Send,
    Step,
    piece,
    stream,
    token,
    whole,
)
from tests.gateway.setup import World

ONE = Target(
    key="1.a",
    launch_id="a",
    model="m",
    aliases=("nick",),
    host="h",
    port=1,
    served_name="m",
    job_id="1",
    node="n",
    started_unix=0.0,
    api_key="k",
    nonce="n",
)


def test_names_and_aliases() -> None:
    other = replace(ONE, key="2.b", model="nick2", aliases=("m", "both"))
    found = table([ONE, other], {"cold": ("both", "ice"), "m": ()})
    assert found.model_named("nick") == "m"
    assert found.model_named("m") == "m"  # a model's own name goes before an alias
    assert found.model_named("both") == "cold"  # models.yaml's word goes before an endpoint's
    assert found.model_named("ice") == "cold"
    assert found.candidates("cold") == ()
    assert found.model_named("nothing") is None
    assert found.names == ["cold", "m", "nick2", "both", "ice", "nick"]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.data())
def test_choice_is_among_the_least_loaded(load: list[int], data: st.DataObject) -> None:
    targets = [replace(ONE, key=str(n)) for n in range(len(load))]
    failed = data.draw(st.sets(st.sampled_from([one.key for one in targets])))
    outstanding = {str(n): count for n, count in enumerate(load)}
    untried = [one for one in targets if one.key not in failed]
    chosen = choose(untried, outstanding=outstanding, last_turn={})
    left = {key: count for key, count in outstanding.items() if key not in failed}
    if chosen is None:
        assert not left
    else:
        assert left[chosen.key] == min(left.values())


def test_equal_load_goes_round() -> None:
    targets = [replace(ONE, key=str(n)) for n in range(3)]
    turns: dict[str, int] = {}
    order = []
    for turn in range(1, 10):
        chosen = choose(targets, outstanding={}, last_turn=turns)
        assert chosen is not None
        turns[chosen.key] = turn
        order.append(chosen.key)
    assert order == ["0", "1", "2"] * 3


def test_unknown_model_message() -> None:
    assert "did you mean 'qwen'?" in unknown_model("qwem", ["qwen", "llama"])
    assert "models here: qwen, llama" in unknown_model("zzz", ["qwen", "llama"])
    assert "no models are configured" in unknown_model("zzz", [])
    assert len(unknown_model("z" * 100_000, ["qwen"])) < 400


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        (b'{"data":[{"id":"a"},{"id":"b","aliases":["c","d"]}]}', {"a", "b", "c", "d"}),
        (b'{"models":[],"data":[{"id":7,"aliases":"x"},5]}', set()),
        (b'{"data":{}}', set()),
        (b"[]", set()),
        (b"<html>", set()),
        (b"[" * 100_000, set()),
    ],
)
def test_served_names(answer: bytes, names: set[str]) -> None:
    assert served_names(answer) == names


def test_requests_are_spread_and_stay_fair_while_files_are_rewritten(world: World) -> None:
    launched = [world.launch() for _ in range(3)]
    with world.serving():
        for number in range(30):
            launched[number % 3].writer.write()
            assert world.chat().status_code == 200
        assert [len(one.engine.requests) for one in launched] == [10, 10, 10]


def test_busy_endpoint_is_passed_over(world: World) -> None:
    slow, fast = world.launch(), world.launch()
    gate = Gate()
    with world.serving(), world.raw() as connection:
        slow.engine.answer = fast.engine.answer = [gate]
        connection.sendall(world.raw_request(b'{"model":"m"}'))
        world.until(lambda: len(slow.engine.requests) + len(fast.engine.requests) == 1)
        busy, free = (slow, fast) if slow.engine.requests else (fast, slow)
        free.engine.answer = whole({"ok": 1})
        for _ in range(5):
            assert world.chat().status_code == 200
        assert (len(busy.engine.requests), len(free.engine.requests)) == (1, 5)
        gate.event.set()


def test_refused_connection_fails_over(world: World) -> None:
    gone, there = world.launch(), world.launch()
    with world.serving():
        gone.engine.stop()
        for _ in range(4):
            assert world.chat().status_code == 200
        assert len(there.engine.requests) == 4
        world.settled()
        status = world.client.get("/admin/status").json()
        routed = {one["launch_id"]: one["routed"] for one in status["endpoints"]}
        assert routed == {gone.launch_id: False, there.launch_id: True}


@pytest.mark.parametrize(
    "death",
    [
        [Close()],
        [Reset()],
        [Send(b"HTTP/1.1 200 OK\r\n"), Pause(0.02), Close()],
        [Send(STREAM_HEAD), Pause(0.02), Reset()],
    ],
)
def test_death_before_the_first_byte_fails_over_with_the_same_bytes(
    world: World, death: list[Step]
) -> None:
    one, two = world.launch(), world.launch()
    good = stream(token("a"), DONE)
    tries: list[bytes] = []

    def answer(request: object) -> list[Step]:
        tries.append(getattr(request, "body", b""))
        return death if len(tries) == 1 else good

    one.engine.answer = two.engine.answer = answer
    with world.serving():
        response = world.chat(stream=True)
        assert response.content == token("a") + DONE
        assert response.headers["x-modeltainer-attempts"] == "2"
        assert tries[0] == tries[1]
        assert len(one.engine.requests) == len(two.engine.requests) == 1
        assert world.log("request")[-1]["attempts"] == 2
        world.settled()


def test_no_failover_after_the_first_byte(world: World) -> None:
    one, two = world.launch(), world.launch()
    broken: list[Step] = [Send(STREAM_HEAD), piece(token("a")), Pause(0.02), Close()]
    one.engine.answer = two.engine.answer = broken
    with world.serving():
        assert b"broke off" in world.chat(stream=True).content
        assert len(one.engine.requests) + len(two.engine.requests) == 1


def test_all_down_is_503(world: World) -> None:
    launched = [world.launch(), world.launch()]
    with world.serving():
        for one in launched:
            one.engine.stop()
        response = world.chat()
        assert response.status_code == 503
        assert response.headers["retry-after"]
        world.settled()


def test_only_ready_endpoints_are_routed_to(world: World) -> None:
    launched = world.launch(state=State.LOADING)
    with world.serving():
        assert world.chat().status_code == 404  # no models.yaml, and nothing serves it
        launched.writer.write(state=State.READY)
        world.until(lambda: world.chat().status_code == 200)
        launched.writer.write(state=State.DRAINING)
        world.until(lambda: world.chat().status_code == 404)
        launched.writer.write(state=State.READY)
        world.until(lambda: world.chat().status_code == 200)
        launched.writer.remove()
        world.until(lambda: world.chat().status_code == 404)


def test_a_request_just_after_the_launch_finds_it_before_the_next_look(
    world: World, tmp_path: Path
) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("models:\n  m: {source: '/m.gguf', engine: llamacpp}\n")
    with world.serving(lambda: load(file, {}), poll_interval=60):
        assert world.chat().status_code == 503
        launched = world.launch()
        assert world.chat().status_code == 200
        assert len(launched.engine.requests) == 1


def test_lost_lease_is_out(world: World) -> None:
    launched = world.launch(period_s=0.1)
    with world.serving():
        assert world.client.get("/admin/status").json()["endpoints"][0]["alive"] in (True, False)
        world.until(lambda: not world.gateway.endpoints.all)
        launched.writer.write()
        world.until(lambda: bool(world.gateway.endpoints.all))


def test_running_stream_goes_on_when_its_endpoint_drains(world: World) -> None:
    gate = Gate()
    launched = world.launch()
    launched.engine.answer = [
        Send(STREAM_HEAD),
        piece(token("a")),
        gate,
        piece(DONE),
        Send(b"0\r\n\r\n"),
    ]
    with (
        world.serving(),
        world.client.stream(
            "POST", "/v1/chat/completions", json={"model": "m", "stream": True}
        ) as response,
    ):
        received = response.iter_raw()
        assert next(received) == token("a")
        launched.writer.remove()
        world.until(lambda: not world.gateway.endpoints.all)
        gate.event.set()
        assert b"".join(received) == DONE


def test_a_strangers_server_is_never_adopted(world: World) -> None:
    secret = new_secret()
    with ScriptedEngine(["m", "nonce-of-another"]) as stranger:
        world.launch(engine=stranger, secret=secret)
        with world.serving():
            assert world.chat().status_code == 404
            [endpoint] = world.client.get("/admin/status").json()["endpoints"]
            assert endpoint["routed"] is False
            assert "another server" in endpoint["reason"]
            assert not stranger.requests
            stranger.names.append(secret.nonce)  # as if the right engine had come up there
            world.until(lambda: world.chat().status_code == 200)


def test_engine_that_refuses_the_key_is_out(world: World) -> None:
    launched = world.launch()
    with world.serving():
        launched.engine.key = "another"
        assert world.chat().status_code == 502
        assert world.chat().status_code in (404, 503)
        launched.engine.key = launched.secret.key
        world.until(lambda: world.chat().status_code == 200)


def test_port_taken_by_a_stranger_after_the_engine_died(world: World) -> None:
    launched = world.launch()
    with world.serving():
        assert world.chat().status_code == 200
        port = launched.engine.port
        launched.engine.stop()
        assert world.chat().status_code in (404, 503)
        with ScriptedEngine(["m"], port=port) as stranger:
            world.until(lambda: stranger.probes > 0)
            assert world.chat().status_code in (404, 503)
            assert not stranger.requests


def test_files_that_are_not_to_be_trusted(world: World) -> None:
    open_secret, other = world.launch("open"), world.launch("other")
    world.layout.secret(open_secret.launch_id).chmod(0o644)
    path = world.layout.endpoint(other.writer.endpoint.job_id, other.launch_id)
    path.write_bytes(path.read_bytes()[:-30])
    (world.layout.endpoints / "7.evil.json").symlink_to("/etc/passwd")
    with world.serving():
        assert world.chat("open").status_code == 404
        assert world.chat("other").status_code == 404
        problems = world.client.get("/admin/status").json()["registry_problems"]
        assert "open to others" in problems[f"{open_secret.writer.endpoint.key}.json"]
        assert len(problems) == 3


def test_a_half_written_file_counts_once_it_is_whole(world: World) -> None:
    launched = world.launch()
    path = world.layout.endpoint(launched.writer.endpoint.job_id, launched.launch_id)
    whole_file = path.read_bytes()
    path.write_bytes(whole_file[:-30])
    with world.serving():
        assert world.chat().status_code == 404
        path.write_bytes(whole_file)
        world.until(lambda: world.chat().status_code == 200)
        path.write_bytes(whole_file[:-30])
        world.until(lambda: world.chat().status_code == 404)


@pytest.mark.parametrize("skew_s", [-3600, 3600])
def test_a_node_whose_clock_is_wrong_is_routed_to(world: World, skew_s: float) -> None:
    wrong = time.time() + skew_s
    launched = world.launch(started_unix=wrong, ends_unix=wrong + 600)
    os.utime(world.layout.endpoint(launched.writer.endpoint.job_id, launched.launch_id), (wrong, 0))
    with world.serving():
        assert world.chat().status_code == 200


def test_what_a_crashed_job_left_gets_nothing(world: World) -> None:
    left = world.launch(period_s=0.5)
    left.engine.stop()
    with world.serving():
        assert world.chat().status_code == 404
        after = world.launch()
        for _ in range(4):
            world.until(lambda: world.chat().status_code == 200)
        assert len(after.engine.requests) == 4
        world.until(lambda: len(world.gateway.endpoints.all) == 1)  # its lease is over
        assert not left.engine.requests


def test_the_next_job_on_a_host_and_port_may_serve_another_model(world: World) -> None:
    left, other = world.launch("old"), world.launch("old")
    with world.serving():
        left.engine.stop()
        secret = new_secret()
        with ScriptedEngine(["new", secret.nonce], secret.key, left.engine.port) as engine:
            world.launch("new", engine=engine, secret=secret)
            world.until(lambda: world.chat("new").status_code == 200)
            for _ in range(6):
                assert world.chat("old").status_code == 200
            assert len(other.engine.requests) == 6
            assert {json.loads(one.body)["model"] for one in engine.requests} == {"new"}


def test_an_engine_that_does_not_list_its_model_gets_nothing(world: World) -> None:
    launched = world.launch()
    launched.engine.names.remove("m")
    with world.serving():
        assert world.chat().status_code == 404
        [endpoint] = world.client.get("/admin/status").json()["endpoints"]
        assert endpoint["reason"] == "it does not serve 'm'"
        assert not launched.engine.requests
        launched.engine.names.append("m")
        world.until(lambda: world.chat().status_code == 200)


def test_unroutable_host(world: World) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        launched = world.launch()
        launched.writer.write(port=closed.getsockname()[1])
    with world.serving():
        [endpoint] = world.client.get("/admin/status").json()["endpoints"]
        assert "cannot connect" in endpoint["reason"]


def test_the_key_is_not_shown_to_a_server_without_the_nonce(world: World) -> None:
    with ScriptedEngine(["m"]) as stranger:
        world.launch(engine=stranger)
        with world.serving():
            world.until(lambda: stranger.probes >= 2)
            assert not stranger.keys_seen


def test_the_query_reaches_the_engine(world: World) -> None:
    engine = world.launch().engine
    with world.serving():
        world.client.post("/v1/messages?beta=true&x=%2F", json={"model": "m"})
        assert engine.requests[0].path == "/v1/messages?beta=true&x=%2F"


def shown(world: World) -> tuple[str, float]:
    """The one endpoint's state, and its requests under way as the status, the page and the metrics
    have them."""
    [one] = world.client.get("/admin/status").json()["endpoints"]
    assert f'<td class="n">{one["in_flight"]}</td>' in world.client.get("/admin").text
    [line] = re.findall(r"endpoint_in_flight\{.*\} (\d+)\n", world.client.get("/metrics").text)
    assert int(line) == one["in_flight"]
    assert one["connections"]["taken"] == one["in_flight"]
    return one["state"], one["in_flight"]


def test_requests_of_an_endpoint_that_left_are_counted_until_they_end(world: World) -> None:
    gate = Gate()
    launched = world.launch()
    launched.engine.answer = [Send(STREAM_HEAD), piece(token("a")), gate, piece(DONE), END]
    with world.serving(), world.raw() as connection:
        connection.sendall(world.raw_request(b'{"model":"m","stream":true}'))
        launched.engine.wait_request()
        launched.writer.write(state=State.DRAINING)
        world.until(lambda: not world.gateway.endpoints.all)
        assert world.gateway.endpoints.in_flight() == {launched.launch_id: 1}
        assert shown(world) == ("draining", 1)
        launched.writer.write(state=State.READY)  # two have its name now
        world.until(lambda: bool(world.gateway.endpoints.all))
        assert shown(world) == ("ready", 1)
        gate.event.set()
        world.settled()
        assert shown(world) == ("ready", 0)
        assert not any(world.gateway.endpoints.in_flight().values())
