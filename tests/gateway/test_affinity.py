"""What belongs together stays together: sessions, prompts that begin alike, arms of a split."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import time
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeltainer.config.schema import Config
from modeltainer.gateway.affinity import choose_arm, prefix_key, score, session_key
from modeltainer.gateway.body import Body, parse
from modeltainer.gateway.headers import look_at
from modeltainer.gateway.routing import choose, lasting
from modeltainer.registry import keys
from tests.engine.scripted import Gate
from tests.gateway.setup import World
from tests.gateway.test_routing import ONE

KEYS = st.binary(min_size=1, max_size=40)


def body(**members: Any) -> Body:
    return parse(json.dumps({"model": "m", **members}).encode())


def turns(*contents: str) -> list[dict[str, str]]:
    roles = ["system", "user", "assistant", "user", "assistant"]
    return [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]


# -- pure --


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.integers(1, 100), min_size=1), KEYS)
def test_only_the_keys_of_an_arm_that_goes_move(arms: dict[str, int], key: bytes) -> None:
    chosen = choose_arm(arms, key)
    for gone in arms:
        left = {name: weight for name, weight in arms.items() if name != gone}
        if gone != chosen and left:
            assert choose_arm(left, key) == chosen


def test_shares_are_as_the_weights() -> None:
    found = Counter(choose_arm({"a": 70, "b": 20, "c": 10}, b"%d" % n) for n in range(20_000))
    assert found["a"] / 20_000 == pytest.approx(0.7, abs=0.02)
    assert found["b"] / 20_000 == pytest.approx(0.2, abs=0.02)


@given(KEYS, st.text(max_size=100), st.integers(1, 2**31))
def test_scores_are_finite_and_above_zero(key: bytes, place: str, weight: int) -> None:
    assert 0 < score(key, place, weight) < float("inf")


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), KEYS)
def test_an_affine_request_never_goes_to_an_overloaded_endpoint(
    loads: list[int], key: bytes
) -> None:
    targets = [replace(ONE, key=str(n)) for n in range(len(loads))]
    outstanding = {str(n): load for n, load in enumerate(loads)}
    chosen = choose(targets, outstanding=outstanding, last_turn={}, affinity=key)
    assert chosen is not None
    assert outstanding[chosen.key] <= 1.25 * (sum(loads) + 1) / len(loads) + 1
    idle = choose(targets, outstanding={}, last_turn={}, affinity=key)
    assert idle == choose(list(reversed(targets)), outstanding={}, last_turn={}, affinity=key)


@given(st.lists(st.one_of(st.none(), st.floats(0, 100)), min_size=1), st.floats(0, 100))
def test_jobs_that_end_soon_come_last(ends: list[float | None], until: float) -> None:
    targets = [replace(ONE, key=str(n), ends_unix=end) for n, end in enumerate(ends)]
    found = lasting(targets, until)
    enough = [one for one in targets if one.ends_unix is None or one.ends_unix >= until]
    assert list(found) == (enough or targets)


def test_later_turns_begin_as_the_first_one() -> None:
    first = prefix_key(body(messages=turns("be brief", "hello")))
    assert first == prefix_key(body(messages=turns("be brief", "hello", "hi", "and then?")))
    assert first != prefix_key(body(messages=turns("be brief", "good day")))
    assert first != prefix_key(body(messages=turns("be long", "hello")))
    long = "x" * 5000
    assert prefix_key(body(prompt=long + "a")) == prefix_key(body(prompt=long + "b"))
    assert prefix_key(body(prompt="a")) != prefix_key(body(prompt="b"))


@pytest.mark.parametrize("messages", [[], [1, "x", None], ["a", "b"], [[1]], [{"role": 5}], {}, 7])
def test_any_prompt_has_a_key_or_none(messages: Any) -> None:
    assert isinstance(prefix_key(body(messages=messages)), bytes)
    assert prefix_key(body()) is None


def test_a_session_is_named_by_header_or_body() -> None:
    named, empty = look_at([(b"x-session-id", b"s")]), look_at([(b"x-session-id", b"")])
    assert session_key(named.session, body(prompt_cache_key="t")) == b"session:s"
    assert session_key(empty.session, body(prompt_cache_key="t")) == b"session:t"
    assert session_key(None, body(prompt_cache_key=7)) is None


# -- through the gateway --


def config(splits: dict[str, dict[str, int]], *names: str) -> Config:
    model = {"engine": "vllm", "source": "org/name"}
    return Config.model_validate({"models": dict.fromkeys(names, model), "splits": splits})


def served(world: World, count: int, name: str = "chat", **more: Any) -> Counter[str]:
    answers = [world.chat(name, **more) for _ in range(count)]
    assert {one.status_code for one in answers} == {200}
    return Counter(one.headers["x-modeltainer-model"] for one in answers)


def test_a_split_name_is_served_by_weight_and_says_by_whom(world: World) -> None:
    old, new = world.launch("old"), world.launch("new")
    with world.serving(lambda: config({"chat": {"old": 75, "new": 25}}, "old", "new")):
        found = served(world, 200)
        assert found["old"] == len(old.engine.requests)
        assert found["new"] == len(new.engine.requests)
        assert 20 <= found["new"] <= 85
        assert {json.loads(one.body)["model"] for one in new.engine.requests} == {"new"}
        cards = {one["id"]: one for one in world.client.get("/v1/models").json()["data"]}
        assert cards["chat"]["split"] == {"old": 75, "new": 25}
        assert cards["chat"]["state"] == "ready"
        assert cards["chat"]["replicas"] == 2
        metrics = world.client.get("/metrics").text
        assert f'split_total{{name="chat",model="new"}} {found["new"]}\n' in metrics
        assert {line["split"] for line in world.log("request")} == {"chat"}


@pytest.mark.parametrize(
    "session", [{"user": "ann"}, {"prompt_cache_key": "talk 1"}, {"headers": "talk 2"}]
)
def test_a_session_and_a_user_stay_with_their_arm(world: World, session: dict[str, str]) -> None:
    world.launch("old"), world.launch("new")
    with world.serving(lambda: config({"chat": {"old": 50, "new": 50}}, "old", "new")):
        if "headers" in session:
            world.client.headers["x-session-id"] = session.pop("headers")
        assert len(served(world, 20, **session)) == 1


def test_what_is_down_or_weighs_nothing_gets_nothing(world: World) -> None:
    world.launch("old"), world.launch("off")
    splits = {"chat": {"old": 1, "new": 99, "off": 0}, "cold": {"new": 1, "off": 0}}
    with world.serving(lambda: config(splits, "old", "new", "off")):
        assert served(world, 20) == {"old": 20}
        refused = world.chat("cold")
        assert refused.status_code == 503
        assert refused.headers["x-modeltainer-model"] == "new"
        assert "new" in refused.json()["error"]["message"]


def test_a_key_may_use_the_split_or_only_one_of_its_arms(world: World) -> None:
    world.launch("old"), world.launch("new")
    _, by_name = keys.create(world.layout, "by name", models=("chat",))
    _, one_arm = keys.create(world.layout, "one arm", models=("new",))
    _, other = keys.create(world.layout, "other", models=("third",))
    with world.serving(lambda: config({"chat": {"old": 99, "new": 1}}, "old", "new", "third")):
        world.client.headers["authorization"] = f"Bearer {by_name}"
        assert served(world, 30)["old"] > 0
        assert world.chat("old").status_code == 403
        world.client.headers["authorization"] = f"Bearer {one_arm}"
        assert served(world, 10) == {"new": 10}
        world.client.headers["authorization"] = f"Bearer {other}"
        refused = world.chat("chat")
        assert refused.status_code == 403
        assert "x-modeltainer-model" not in refused.headers
        assert "'chat'" in refused.json()["error"]["message"]


def test_a_reload_changes_the_weights(world: World) -> None:
    world.launch("old"), world.launch("new")
    weights = {"old": 1, "new": 0}
    with world.serving(lambda: config({"chat": weights}, "old", "new")):
        assert served(world, 10) == {"old": 10}
        weights.update(old=0, new=1)
        reloading = asyncio.run_coroutine_threadsafe(world.gateway.reload(), world.loop)
        assert reloading.result(5)
        assert served(world, 10) == {"new": 10}


def test_a_session_stays_with_its_replica_until_that_is_busy_or_gone(world: World) -> None:
    launched = [world.launch() for _ in range(3)]
    with world.serving(), world.raw() as connection:
        world.client.headers["x-session-id"] = "talk"
        for _ in range(6):
            assert world.chat().status_code == 200
        [home] = [one for one in launched if one.engine.requests]
        assert len(home.engine.requests) == 6
        gate = Gate()
        home.engine.answer = [gate]
        connection.sendall(world.raw_request(b'{"model":"m"}', more="x-session-id: talk\r\n"))
        world.until(lambda: len(home.engine.requests) == 7)
        assert world.chat().status_code == 200
        gate.event.set()
        assert len(home.engine.requests) == 7
        home.engine.stop()
        for _ in range(3):
            assert world.chat().status_code == 200


def test_prompts_that_begin_alike_share_a_replica(world: World) -> None:
    launched = [world.launch() for _ in range(3)]
    with world.serving(routing="prefix"):
        for number in range(12):
            messages = turns("be brief", "hello", "hi", f"question {number}")
            assert world.chat(messages=messages).status_code == 200
        assert sorted(len(one.engine.requests) for one in launched) == [0, 0, 12]
        for number in range(30):
            assert world.chat(messages=turns("be brief", f"{number}")).status_code == 200
        assert all(one.engine.requests for one in launched)


def test_a_job_about_to_end_gets_requests_only_if_there_is_no_other(world: World) -> None:
    ending = world.launch(ends_unix=time.time() + 30)
    with world.serving(walltime_reserve=60):
        assert world.chat().status_code == 200
        lasting_one = world.launch(ends_unix=time.time() + 3600)
        world.until(lambda: sum(one.verified for one in world.gateway.endpoints.all) == 2)
        for _ in range(6):
            assert world.chat().status_code == 200
        assert len(ending.engine.requests) == 1
        assert len(lasting_one.engine.requests) == 6


def test_a_long_answer_goes_to_a_job_that_lasts_for_it(world: World) -> None:
    now = time.time()
    soon, later = world.launch(ends_unix=now + 300), world.launch(ends_unix=now + 1500)
    with world.serving(walltime_reserve=60):

        def went(asked: dict[str, Any]) -> tuple[int, int]:
            before = len(soon.engine.requests), len(later.engine.requests)
            for _ in range(6):
                assert world.chat(**asked).status_code == 200
            return len(soon.engine.requests) - before[0], len(later.engine.requests) - before[1]

        assert went({"max_tokens": 20_000}) == (3, 3)  # nothing is known of the model's pace
        world.loop.call_soon_threadsafe(world.gateway.metrics.gap.of("m").observe, 0.05)
        world.until(lambda: world.gateway.metrics.gap.of("m").mean > 0)
        assert went({"max_tokens": 20_000}) == (0, 6)  # 1,000 s
        assert went({"max_completion_tokens": 20_000}) == (0, 6)
        assert went({"max_tokens": 2_000}) == (3, 3)
        assert went({}) == (3, 3)
        assert went({"max_tokens": 10**400}) == (0, 6)  # nothing is thought to take for ever
        later.writer.write(ends_unix=now + 30)
        endpoints = world.gateway.endpoints
        world.until(
            lambda: any(one.ends_unix == now + 30 for one in endpoints.table.candidates("m"))
        )
        assert went({"max_tokens": 20_000}) == (6, 0)  # neither does, but one may


def test_long_answers_do_not_all_go_to_the_one_job_that_lasts_for_them(world: World) -> None:
    now = time.time()
    soon, later = world.launch(ends_unix=now + 300), world.launch(ends_unix=now + 1500)
    gate = Gate()
    soon.engine.answer = later.engine.answer = [gate]
    with world.serving(walltime_reserve=60), contextlib.ExitStack() as stack:
        world.loop.call_soon_threadsafe(world.gateway.metrics.gap.of("m").observe, 0.05)
        world.until(lambda: world.gateway.metrics.gap.of("m").mean > 0)
        for number in range(1, 9):
            connection = stack.enter_context(world.raw())
            connection.sendall(world.raw_request(b'{"model":"m","max_tokens":20000}'))
            world.until(
                lambda: len(soon.engine.requests + later.engine.requests) == number  # noqa: B023
            )
        assert 2 <= len(soon.engine.requests) < len(later.engine.requests)
        gate.event.set()


@pytest.mark.parametrize(
    ("splits", "says"),
    [
        ("  chat: {old: 1, newer: 1}", "there is no model 'newer'; did you mean 'new'?"),
        ("  old: {new: 1}", "'old' is a model's name or alias"),
        ("  nick: {new: 1}", "'nick' is a model's name or alias"),
        ("  chat: {old: 0}", "at least one model needs a weight above 0"),
        ("  chat: {old: -1}", "greater than or equal to 0"),
    ],
)
def test_faults_of_splits_are_said_with_their_line(tmp_path: Path, splits: str, says: str) -> None:
    from modeltainer.config import ConfigError, load

    file = tmp_path / "models.yaml"
    file.write_text(
        "models:\n  old: {engine: vllm, source: a/b, aliases: [nick]}\n"
        f"  new: {{engine: vllm, source: a/b}}\nsplits:\n{splits}\n"
    )
    with pytest.raises(ConfigError) as found:
        load(file)
    assert says in str(found.value)
    assert f"{file}:4" in str(found.value) or f"{file}:5" in str(found.value)


@pytest.mark.parametrize("by", ["session", "prompt"])
def test_what_belongs_together_is_not_remembered(world: World, by: str) -> None:
    launched = [world.launch(), world.launch()]

    def ask(first: int, count: int) -> int:
        """Each request is of its own kind; bytes that are in use afterwards."""
        for number in range(first, first + count):
            name = f"{number:04}" * 1024
            headers = {"x-session-id": name} if by == "session" else {}
            body = {"model": "m", "prompt": name if by == "prompt" else "x"}
            assert world.client.post("/v1/completions", json=body, headers=headers).is_success
        world.settled()
        for one in launched:
            one.engine.requests.clear()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    with world.serving(routing="prefix"):
        tracemalloc.start()
        try:
            before = ask(0, 200)
            assert ask(200, 400) - before < 400 * 1024  # a quarter of the names
        finally:
            tracemalloc.stop()
