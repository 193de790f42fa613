"""A server that dies behind a gateway, which goes on to answer: with errors."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from modeltainer.bench.client import target
from modeltainer.bench.point import PointPlan
from modeltainer.bench.record import Record, read_jsonl
from modeltainer.bench.run import _Deaths
from modeltainer.bench.schedule import ClosedLoop, Schedule, constant
from modeltainer.bench.workload import Workload
from modeltainer.config.schema import Config
from tests.bench.engine import serving
from tests.bench.load import load
from tests.bench.shell import QUICK, bench, summary
from tests.bench.test_pure import record
from tests.engine.scripted import DONE, END, STREAM_HEAD, Pause, Request, Send, Step, piece, whole
from tests.gateway.setup import World

CONFIG = Config.model_validate({"models": {"m": {"engine": "vllm", "source": "org/name"}}})
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "world")
    yield made
    made.close()


def answer(request: Request) -> list[Step]:
    if not json.loads(request.body).get("stream"):
        choice = {"index": 0, "message": {"content": "a"}, "finish_reason": "length"}
        return whole({"choices": [choice], "usage": USAGE})
    steps: list[Step] = [Send(STREAM_HEAD)]
    for number in range(4):
        delta = {"content": "word "}
        choice = {"index": 0, "delta": delta, "finish_reason": "length" if number == 3 else None}
        document = {"choices": [choice], "usage": USAGE if number == 3 else None}
        steps += [Pause(0.02), piece(b"data: " + json.dumps(document).encode() + b"\n\n")]
    return [*steps, piece(DONE), END]


@pytest.mark.parametrize(("config", "status"), [(CONFIG, "http_503"), (None, "http_404")])
def test_an_engine_that_dies_behind_the_gateway_ends_the_run(
    world: World, tmp_path: Path, config: Config | None, status: str
) -> None:
    """Who asks afterwards is told that the model is not up, or where no configuration names it,
    that there is none."""
    engine = world.launch().engine
    engine.answer = answer

    def kill() -> None:
        engine.wait_request(60, timeout=60)
        engine.stop()

    with world.serving(lambda: config):
        killer = threading.Thread(target=kill)
        killer.start()
        done = bench(
            *("m", "--url", world.url, "--key", world.key, "--no-nonce", "--concurrency", "2,4,8"),
            *("--requests", "400", *QUICK),
            folder=tmp_path / "run",
        )
        killer.join()
    assert done.returncode == 1, done.stderr
    assert "the server is gone" in done.stderr
    found = summary(tmp_path / "run")
    assert found["ended_early"] == "server_died"
    assert [point["ended_early"] for point in found["points"]] == ["server_died"]
    assert not found["points"][0]["valid"]
    rows = [row for row in read_jsonl(tmp_path / "run" / "requests.jsonl") if not row.warmup]
    assert sum(row.ok for row in rows) >= 10
    failures = [row.failure for row in rows if not row.ok]
    assert status in failures
    assert 10 <= len(failures) < 100  # no flood


def test_users_of_a_gateway_without_an_engine_are_not_a_flood() -> None:
    with serving(ttft=0.01, gap=0.001, tokens=2, refuse_after=30) as url:
        result = load(url, "plain", ClosedLoop(4), tokens=2, requests=100_000)
    assert result.ended_early == "server_died"
    assert sum(row.ok for row in result.records) == 30
    assert {row.failure for row in result.records} >= {"", "http_503"}
    assert 10 <= sum(not row.ok for row in result.records) < 200


def test_a_point_too_short_for_certainty_whose_every_answer_is_a_refusal() -> None:
    with serving(ttft=0.01, gap=0.001, tokens=2, refuse_after=1) as url:
        assert load(url, "plain", requests=1).ended_early == ""
        assert load(url, "plain", requests=3).ended_early == "server_died"


def plan(schedule: Schedule) -> PointPlan:
    return PointPlan("p", (target("http://x", "m"),), schedule, Workload())


def rows(failure: str, count: int, side: str = "a") -> list[Record]:
    return [record(0.0, 1.0, failure=failure, target=side) for _ in range(count)]


@pytest.mark.parametrize(
    ("schedule", "seen", "certain"),
    [
        (ClosedLoop(1), rows("connect", 10), True),
        (ClosedLoop(1), rows("connect", 9), False),
        (ClosedLoop(1), rows("http_503", 5) + rows("error_in_answer", 5), True),
        (ClosedLoop(1), rows("http_503", 9) + rows("", 1) + rows("http_503", 9), False),
        (ClosedLoop(1), rows("http_429", 50), False),
        (ClosedLoop(1), rows("timeout", 50), False),
        (ClosedLoop(20), rows("http_502", 39), False),
        (ClosedLoop(20), rows("http_502", 40), True),
        (constant(100.0, 1000), rows("http_503", 99), False),
        (constant(100.0, 1000), rows("http_503", 100), True),
        (ClosedLoop(1), rows("closed", 9) + rows("interrupted", 5) + rows("closed", 1), True),
    ],
)
def test_how_many_in_a_row_are_a_death(
    schedule: Schedule, seen: list[Record], certain: bool
) -> None:
    deaths = _Deaths(plan(schedule))
    for row in seen:
        deaths.take(row)
    assert deaths.certain is certain


def test_one_side_of_two_that_dies_is_not_hidden_by_the_other() -> None:
    deaths = _Deaths(plan(ClosedLoop(1)))
    for alive, dead in zip(rows("", 10), rows("http_503", 10, "b"), strict=True):
        deaths.take(alive)
        deaths.take(dead)
    assert deaths.certain
