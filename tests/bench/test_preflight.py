"""What is asked of a server before any load."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modeltainer.bench import preflight
from modeltainer.bench.client import target
from modeltainer.bench.workload import Length, Workload
from modeltainer.config.schema import Config
from modeltainer.registry.records import State
from tests.bench.engine import serving
from tests.bench.shell import QUICK, bench
from tests.gateway.setup import World

CONFIG = Config.model_validate({"models": {"m": {"engine": "vllm", "source": "org/name"}}})
TARGET = target("http://127.0.0.1:1", "m")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "world")
    yield made
    made.close()


@pytest.mark.parametrize(
    "state", ["queued", "starting", "pulling", "loading", "draining", "not-ready"]
)
def test_no_state_but_ready_is_measured(state: str) -> None:
    with pytest.raises(preflight.PreflightError, match="is not up") as raised:
        preflight._known(TARGET, {"m": {"id": "m", "state": state}})
    assert raised.value.kind == "model"
    assert state == "not-ready" or state in raised.value.message
    assert "mt-submit up" in raised.value.hint


@pytest.mark.parametrize("entry", [{}, {"state": "ready"}, {"state": {"of": "another server"}}])
def test_ready_or_a_server_that_says_nothing_of_it(entry: dict[str, Any]) -> None:
    assert preflight._known(TARGET, {"m": entry}) == entry


@pytest.mark.parametrize("state", [State.QUEUED, State.PULLING, State.LOADING, State.DRAINING])
def test_a_model_on_its_way_is_refused_through_the_gateway(
    world: World, tmp_path: Path, state: State
) -> None:
    engine = world.launch(state=state).engine
    with world.serving(lambda: CONFIG):
        card = world.client.get("/v1/models").json()["data"]
        assert [one["state"] for one in card] == [state.value], json.dumps(card)
        done = bench("m", "--url", world.url, "--key", world.key, *QUICK, folder=tmp_path / "run")
    assert done.returncode == 9, done.stderr
    assert f"m is not up yet, or not any more: it is {state.value}" in done.stderr
    assert "hint:" in done.stderr
    assert engine.requests == []
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "workload",
    [
        Workload(output=Length(900, 900)),
        Workload(prompt_tokens_of=(4000, None), output_tokens_of=(900, None)),
    ],
)
def test_its_questions_ask_for_a_single_token(tmp_path: Path, workload: Workload) -> None:
    noted = tmp_path / "asked.jsonl"
    with serving(ttft=0.0, gap=0.0, tokens=1000, record=str(noted)) as url:
        to = target(url, "plain")
        assert preflight.adapt(to, workload) == workload
        preflight.size(to, workload)
    asked = [json.loads(line)["asked"] for line in noted.read_text().splitlines()]
    assert len(asked) > 2
    assert {one["max_tokens"] for one in asked} == {1}
    assert asked[0]["messages"] == [{"role": "user", "content": "word"}]
