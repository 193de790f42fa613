"""What the gateway publishes for the reconciler: who is asked, and how long first tokens take."""

from __future__ import annotations

import gzip
import threading
import time

from modeltainer.reconcile.demand import Demand, DemandReader, write
from tests.engine.scripted import DONE, END, STREAM_HEAD, Gate, Send, piece, stream, token, whole
from tests.gateway.setup import World


def test_streams_without_a_first_token_count_from_the_moment_they_are_asked_for(
    world: World,
) -> None:
    launched = world.launch()
    gate = Gate()
    launched.engine.answer = [Send(STREAM_HEAD), gate, piece(token("a")), piece(DONE), END]
    with world.serving():
        book = world.gateway.book
        assert book.demand().first_token_s == {}
        asking = threading.Thread(target=lambda: world.chat(stream=True), daemon=True)
        asking.start()
        world.until(lambda: book.demand().first_token_s.get("m", 0.0) >= 0.2)
        waiting = book.demand()
        assert waiting.in_flight == {"m": 1}
        assert waiting.launches == {launched.launch_id: 1}
        gate.event.set()
        asking.join(5)
        world.settled()
        answered = book.demand()
        assert answered.in_flight == answered.launches == {}
        assert 0.2 <= answered.first_token_s["m"] <= 5.0  # it counts for a while


def test_whole_answers_and_streams_that_are_refused_have_no_first_token(world: World) -> None:
    engine = world.launch().engine
    with world.serving():
        world.chat()
        engine.stop()
        assert world.chat(stream=True).status_code == 503
        world.settled()
        assert world.gateway.book.demand().first_token_s == {}


def test_compressed_streams_have_a_first_token_too(world: World) -> None:
    gate = Gate()
    data = gzip.compress(token("a") + DONE)
    head = STREAM_HEAD.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n")
    world.launch().engine.answer = [Send(head), piece(data[:12]), gate, piece(data[12:]), END]
    with world.serving():
        book = world.gateway.book
        began = time.monotonic()
        asked = {"model": "m", "stream": True}
        with world.client.stream("POST", "/v1/completions", json=asked) as response:
            pieces = response.iter_raw()
            next(pieces)
            first_s = time.monotonic() - began
            world.until(lambda: time.monotonic() - began > first_s + 0.1)
            told = book.demand().first_token_s["m"]
            gate.event.set()
            list(pieces)
        world.settled()
        assert told == book.demand().first_token_s["m"] <= first_s + 0.001  # it is rounded


def test_a_stream_that_gets_an_error_has_no_first_token(world: World) -> None:
    world.launch().engine.answer = whole({"error": {"message": "no"}}, "400 Bad Request")
    with world.serving():
        assert world.chat(stream=True).status_code == 400
        world.settled()
        assert world.gateway.book.demand().first_token_s == {}


def test_the_slowest_are_what_counts(world: World) -> None:
    engine = world.launch().engine
    engine.answer = stream(token("a"), DONE)
    with world.serving():
        for _ in range(20):
            world.chat(stream=True)
        world.settled()
        quick = world.gateway.book.demand().first_token_s["m"]
        now = world.gateway.book
        for number in range(3):
            now.asked(number, "m")
        world.until(lambda: now.demand().first_token_s["m"] > quick)


def test_gateways_are_added_up_and_dead_ones_are_not_believed(world: World) -> None:
    now = [0.0]
    reader = DemandReader(world.layout, clock=lambda: now[0])

    def publish(counter: int, *names: str) -> None:
        for name in names:
            launches = {"m-r0": 2, "m-r1": 1}
            said = Demand(counter, 60.0, {"m": 3}, {"m": 0.5}, {"m": 1.5 * len(name)}, launches)
            write(world.layout, name, said)

    publish(1, "a", "bb")
    assert reader.read().loads(["m"]) == {}  # the first sight proves nothing
    publish(2, "a", "bb")
    found = reader.read()
    assert found.loads(["m", "other"])["m"].in_flight == 6
    assert found.loads(["m"])["m"].first_token_s == 3.0
    assert found.loads(["other"])["other"].first_token_s is None
    assert (found.in_flight("m-r0"), found.in_flight("m-r1"), found.in_flight("x")) == (4, 2, 0)
    now[0] = 29.0
    publish(3, "a")
    reader.read()
    now[0] = 31.0
    assert reader.read().in_flight("m-r0") == 2  # bb is silent
