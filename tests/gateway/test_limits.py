"""Limits of a key: nothing overshoots, nothing leaks."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from modeltainer.gateway.limits import Bucket, KeyLimits, Limiter, Refusal, Reservation
from modeltainer.gateway.paths import PROXIED
from modeltainer.registry import keys
from modeltainer.registry.keys import KeyRecord
from tests.engine.scripted import (
    DONE,
    STREAM_HEAD,
    Close,
    Gate,
    Pause,
    Send,
    Step,
    piece,
    stream,
    token,
    whole,
)
from tests.gateway.setup import World

RPM, TPM, CONCURRENT = 30, 1000, 4


class Machine(RuleBasedStateMachine):
    """Requests in any order and number."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        key = KeyRecord("k", "k", "", rpm=RPM, tpm=TPM, concurrent=CONCURRENT)
        self.limits = KeyLimits(key, 0.0)
        self.running: list[Reservation] = []
        self.admitted = 0
        self.promised = 0

    @rule(seconds=st.floats(0, 30))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(tokens=st.integers(0, 2 * TPM))
    def ask(self, tokens: int) -> None:
        found = self.limits.reserve(tokens, self.now)
        if isinstance(found, Refusal):
            # Waiting as long as it was told to is enough, but for those at once.
            if found.limit != "concurrent":
                later = self.limits.reserve(tokens, self.now + found.retry_after_s + 0.001)
                assert not isinstance(later, Refusal)
                self.now += found.retry_after_s + 0.001
                found = later
            else:
                assert len(self.running) == CONCURRENT
                return
        self.running.append(found)
        self.admitted += 1
        self.promised += found.tokens

    @rule(data=st.data(), tokens=st.integers(0, 3 * TPM))
    def end(self, data: st.DataObject, tokens: int) -> None:
        if self.running:
            index = data.draw(st.integers(0, len(self.running) - 1))
            reservation = self.running.pop(index)
            self.limits.settle(reservation, tokens, self.now)
            self.promised += tokens - reservation.tokens

    @invariant()
    def never_more_than_allowed(self) -> None:
        assert self.limits.running == len(self.running) <= CONCURRENT
        assert self.admitted <= RPM * (1 + self.now / 60) + 0.001


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


@given(st.integers(1, 10_000), st.lists(st.integers(-500, 500), max_size=20))
def test_a_bucket_is_never_fuller_than_a_minute(per_minute: int, taken: list[int]) -> None:
    bucket = Bucket(per_minute, 0.0)
    for second, amount in enumerate(taken):
        bucket.take(amount, float(second))
        assert bucket.level(float(second)) <= per_minute
    assert bucket.wait_s(per_minute, 1e9) == 0


def test_keys_without_limits_cost_nothing() -> None:
    assert Limiter().of(KeyRecord("k", "k", ""), 0.0) is None


def limited(world: World, **limits: int) -> dict[str, str]:
    _, key = keys.create(world.layout, "guest", **limits)  # type: ignore[arg-type]
    return {"authorization": f"Bearer {key}"}


def ask(world: World, headers: dict[str, str], **more: object) -> httpx.Response:
    body = {"model": "m", "messages": [], **more}
    return world.client.post("/v1/chat/completions", json=body, headers=headers)


def test_requests_a_minute(world: World) -> None:
    engine = world.launch().engine
    guest = limited(world, rpm=3)
    with world.serving():
        answers = [ask(world, guest) for _ in range(5)]
        assert [one.status_code for one in answers] == [200] * 3 + [429] * 2
        error = answers[-1].json()["error"]
        assert (error["code"], error["type"]) == ("rate_limit_exceeded", "rate_limit_error")
        assert error["message"].startswith("The API key 'guest' may use 3 requests a minute")
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 20
        assert world.chat().status_code == 200  # another key
        assert len(engine.requests) == 4
        assert 'limited_total{limit="requests"} 2' in world.client.get("/metrics").text


def test_tokens_are_reserved_and_settled(world: World) -> None:
    engine = world.launch().engine
    engine.answer = whole({"usage": {"prompt_tokens": 50, "completion_tokens": 10}})
    guest = limited(world, tpm=300)
    with world.serving():
        for _ in range(2):  # 200 are reserved each time, 60 used
            assert ask(world, guest, max_tokens=200).status_code == 200
            world.settled()
        assert ask(world, guest, max_tokens=200).status_code == 429
        engine.answer = whole({"error": {"message": "no"}}, "400 Bad")
        guest = limited(world, tpm=300)
        for _ in range(5):  # what was not answered costs nothing
            assert ask(world, guest, max_tokens=250).status_code == 400
            world.settled()


def test_a_guess_costs_no_more_than_was_reserved(world: World) -> None:
    world.launch().engine.answer = whole({"text": "no counts"})
    guest = limited(world, tpm=600)
    [key] = [one for one in keys.list_keys(world.layout) if one.name == "guest"]

    def level() -> float:
        world.settled()
        limits = world.gateway.proxy.admission._limiter.of(key, time.monotonic())
        assert isinstance(limits, KeyLimits)
        assert limits._tokens is not None
        return limits._tokens.level(time.monotonic())

    with world.serving():
        files = {"model": (None, b"m"), "file": ("x.wav", bytes(1_000_000))}
        answer = world.client.post("/v1/audio/translations", files=files, headers=guest)
        assert answer.status_code == 200
        assert level() == 600
        long = "x" * 1_000_000
        assert ask(world, guest, messages=[{"role": "user", "content": long}]).status_code == 200
        assert 0 <= level() < 100  # no debt


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize", "/v1/messages/count_tokens"])
def test_what_only_looks_at_tokens_uses_none(world: World, path: str) -> None:
    engine = world.launch().engine
    guest, once = limited(world, tpm=100), limited(world, rpm=1)
    asked = {"model": "m", "prompt": "x" * 10_000, "max_tokens": 1000}

    def look(key: dict[str, str]) -> int:
        answer = world.client.post(path, json=asked, headers=key)
        world.settled()
        return answer.status_code

    with world.serving():
        engine.answer = whole({"count": 2500, "tokens": [1] * 2500})
        assert [look(guest) for _ in range(6)] == [200] * 6
        engine.answer = whole({"usage": {"prompt_tokens": 400, "completion_tokens": 10}})
        assert ask(world, guest).status_code == 200  # all of the tokens are there
        world.settled()
        assert look(guest) == 200  # though its key is in debt
        assert [look(once) for _ in range(2)] == [200, 429]  # it is a request


ONE_OF_EACH = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/audio/transcriptions",
]
"""Of each family and form."""


@pytest.mark.parametrize("path", ONE_OF_EACH)
@pytest.mark.parametrize(
    "steps",
    [
        whole({"ok": 1}),
        whole({"error": {"message": "x"}}, "500 No"),
        [Close()],
        stream(token("a"), DONE),
        [Send(STREAM_HEAD), piece(token("a")), piece(DONE), Gate()],
        [Send(STREAM_HEAD), piece(token("a")), Pause(0.02), Close()],
        stream(DONE),
        [Gate()],
    ],
)
def test_places_come_back_however_a_request_ends(
    world: World, path: str, steps: list[Step]
) -> None:
    world.launch().engine.answer = steps
    guest = limited(world, concurrent=1)
    with world.serving(first_byte_timeout=0.2):
        for _ in range(3):
            if PROXIED[path].form == "json":
                asked: dict[str, Any] = {"content": json.dumps({"model": "m", "stream": True})}
            else:
                asked = {"files": {"model": (None, "m"), "stream": (None, "true")}}
            response = httpx.post(f"{world.url}{path}", headers=guest, **asked)
            assert response.status_code != 429
            world.settled()


@pytest.mark.parametrize("path", PROXIED)
def test_places_come_back_when_clients_leave(world: World, path: str) -> None:
    engine = world.launch().engine
    engine.answer = [Gate()]
    guest = limited(world, concurrent=1)
    with world.serving():
        for count in range(1, 4):
            connection = world.raw()
            request = world.smallest_request(path)
            bearer = guest["authorization"].encode()
            connection.sendall(request.replace(f"Bearer {world.key}".encode(), bearer))
            engine.wait_request(count)
            assert ask(world, guest).status_code == 429
            connection.close()
            world.settled()


def test_requests_that_come_together_do_not_overshoot(world: World) -> None:
    engine, gate = world.launch().engine, Gate()
    engine.answer = [gate, *whole({"ok": 1})]
    guest = limited(world, concurrent=4)
    answers: list[int] = []
    with world.serving():
        threads = [
            threading.Thread(
                target=lambda: answers.append(ask(world, guest).status_code), daemon=True
            )
            for _ in range(12)
        ]
        for thread in threads:
            thread.start()
        world.until(lambda: len(answers) == 8)
        gate.event.set()
        for thread in threads:
            thread.join()
        assert sorted(answers) == [200] * 4 + [429] * 8
        assert len(engine.requests) == 4
