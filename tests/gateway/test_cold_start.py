"""Requests that are held while their model starts."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from modeltainer.config.load import load
from modeltainer.gateway import start_marks
from modeltainer.gateway.cold_start import ColdStart
from modeltainer.gateway.endpoint_set import EndpointSet
from modeltainer.gateway.errors import GatewayError
from modeltainer.gateway.log import JsonLog
from modeltainer.gateway.settings import ColdStartSettings, GatewaySettings
from modeltainer.gateway.standing import Standing, starts_in
from modeltainer.reconcile.decide import decide
from modeltainer.registry import deployments
from modeltainer.registry.days import day_of
from modeltainer.registry.deployments import Deployment, History
from modeltainer.registry.layout import Layout
from modeltainer.registry.records import State
from modeltainer.view import Row
from tests.engine.scripted import DONE, stream, token, whole
from tests.gateway.setup import World


@pytest.fixture
def config(world: World) -> Callable[[], Any]:
    file = world.layout.root.parent / "models.yaml"
    file.write_text("models: {cold: {engine: vllm, source: a/b}}")
    return lambda: load(file, {})


def held(world: World, seconds: float) -> httpx.Response:
    """The answer to a request whose model comes up so much later."""
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(world.chat("cold")), daemon=True)
    asking.start()
    time.sleep(seconds)
    assert not answers
    launched = world.launch("cold")
    launched.engine.answer = whole({"ok": 1})
    asking.join(10)
    launched.engine.stop()
    return answers[0]


def pinged(world: World, until: bytes) -> tuple[httpx.Headers, list[bytes], bytes]:
    """A stream's headers, the lines of the pings that it begins with, and the rest; its model comes
    up when the pings have said ``until``."""
    body = {"model": "cold", "messages": [], "stream": True}
    with world.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        received, seen = answer.iter_raw(), b""
        while until not in seen:
            seen += next(received)
        assert b"data:" not in seen
        launched = world.launch("cold", state=State.LOADING)
        launched.engine.answer = stream(token("a"), DONE)
        launched.writer.write(state=State.READY)
        seen += b"".join(received)
    launched.engine.stop()
    pings, data, rest = seen.partition(b"data:")
    *said, last = pings.split(b"\n")
    assert last == b""
    return answer.headers, said, data + rest


def test_a_stream_that_is_held_is_pinged(world: World, config: Callable[[], Any]) -> None:
    cold = {"enabled": True, "wait": 10}
    with world.serving(config, cold_start=cold, ping_interval=0.1):
        headers, said, rest = pinged(world, b": ping\n" * 5)
        assert headers["x-modeltainer-model"] == "cold"
        assert set(said) == {b": ping"}
        assert rest == token("a") + DONE
        world.settled()
        text = world.client.get("/metrics").text
        [line] = [one for one in text.splitlines() if "overhead_seconds_sum" in one]
        assert float(line.rpartition(" ")[2]) < 0.25  # the wait is not the gateway's own time


def queued(state: State = State.QUEUED, **fields: Any) -> Row:
    return Row("cold-r0-abcdef", "cold", 0, state, "slurm", **fields)


def test_pings_say_when_the_model_is_estimated_to_start(
    world: World, config: Callable[[], Any]
) -> None:
    world.rows = [queued(start_estimate_unix=time.time() + 100)]
    cold = {"enabled": True, "wait": 10}
    with world.serving(config, cold_start=cold, ping_interval=0.1):
        _, said, rest = pinged(world, b"waiting")
        form = rb": ping|: waiting for cold: starts in about (100|9\d) s"
        assert all(re.fullmatch(form, one) for one in said)
        assert rest == token("a") + DONE


@pytest.mark.parametrize(
    ("rows", "seconds"),
    [
        ([], None),
        ([queued()], None),
        ([queued(), queued(start_estimate_unix=30.0), queued(start_estimate_unix=25.0)], 15.0),
        ([queued(start_estimate_unix=5.0)], None),
        ([queued(start_estimate_unix=10.0)], None),
        ([queued(start_estimate_unix=30.0), queued(State.LOADING)], None),
        ([queued(State.ENDED), queued(State.SUBMITTED, start_estimate_unix=30.0)], 20.0),
        ([replace(queued(start_estimate_unix=30.0), model="other")], None),
    ],
)
def test_when_a_model_is_estimated_to_start(rows: list[Row], seconds: float | None) -> None:
    assert starts_in("cold", rows, now_unix=10.0) == seconds


def test_pings_say_nothing_of_a_start_that_was_to_be_by_now_or_was_seen_long_ago(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modeltainer.gateway.cold_start.OUTLOOK_S", 0.5)
    monkeypatch.setattr("modeltainer.gateway.standing.CACHE_S", 0.1)
    rows, down = [queued(start_estimate_unix=time.time() + 100)], False

    def ask() -> list[Row]:
        if down:
            raise OSError("the scheduler is down")
        return rows

    log = JsonLog(tmp_path / "log")
    endpoints = EndpointSet(GatewaySettings(), log)
    held = ColdStart(ColdStartSettings(wait=10), Layout(tmp_path), endpoints, Standing(ask), log)

    class HeardError(Exception):
        pass

    async def until(form: str) -> None:
        async def ping(said: str) -> None:
            if re.fullmatch(form, said):
                raise HeardError

        with pytest.raises(HeardError):
            await held.hold("cold", ping, 0.1)

    async def ask_again() -> None:
        nonlocal down, rows
        told = r"waiting for cold: starts in about (100|9\d) s"
        await until(told)
        rows = [queued(start_estimate_unix=time.time() - 1)]
        await until("ping")
        rows = [queued(start_estimate_unix=time.time() + 100)]
        await until(told)
        down = True
        await until("ping")

    asyncio.run(ask_again())


def test_an_answer_in_one_piece_is_not(world: World, config: Callable[[], Any]) -> None:
    cold = {"enabled": True, "wait": 10}
    with world.serving(config, cold_start=cold, ping_interval=0.1):
        assert held(world, 0.3).json() == {"ok": 1}


@pytest.mark.parametrize("interval", [0.0, 0.1])
def test_what_does_not_come_up_in_time(
    world: World, config: Callable[[], Any], interval: float
) -> None:
    cold = {"enabled": True, "wait": 0.3}
    with world.serving(config, cold_start=cold, ping_interval=interval):
        answer = httpx.post(
            f"{world.url}/v1/chat/completions",
            json={"model": "cold", "stream": True},
            headers={"authorization": f"Bearer {world.key}"},
        )
        assert answer.status_code == (200 if interval else 503)
        assert b"model_not_ready" in answer.content
        world.settled()


class Processes:
    """Gateways' processes over one registry, with a budget of one model."""

    LIMITS = ColdStartSettings(enabled=True, max_jobs=1, gpu_hours=2.5)

    def __init__(self, folder: Path, **limits: Any) -> None:
        self.limits = self.LIMITS.model_copy(update=limits)
        self.layout = Layout(folder / "registry")
        self.layout.create()
        self._log = JsonLog(folder / "log")

    def new(self) -> ColdStart:
        endpoints = EndpointSet(GatewaySettings(), self._log)
        return ColdStart(self.limits, self.layout, endpoints, Standing(list), self._log)


FULL = "1 models that were started on demand are"


def test_the_budget_holds_for_all_processes_and_what_is_started_has_its_own(
    tmp_path: Path,
) -> None:
    processes = Processes(tmp_path)

    async def ask() -> None:
        assert await processes.new().admit("first")
        with pytest.raises(GatewayError, match=FULL):
            await processes.new().admit("second")
        assert await processes.new().admit("first")

    asyncio.run(ask())
    [declared] = deployments.read_all(processes.layout).values()
    assert (declared.model, declared.gpu_hours_per_day) == ("first", 2.5)


def test_models_asked_of_two_processes_at_once_do_not_pass_the_budget(tmp_path: Path) -> None:
    async def ask(processes: Processes) -> list[bool | BaseException]:
        asked = (processes.new().admit(model) for model in ("first", "second"))
        return await asyncio.gather(*asked, return_exceptions=True)

    for attempt in range(20):
        processes = Processes(tmp_path / str(attempt))
        for model in ("first", "second"):  # long ago, so nothing says that they are new
            deployments.declare(processes.layout, Deployment(model, "", minimum=0))
        answers = asyncio.run(ask(processes))
        assert answers.count(True) <= 1
        assert all(answer is True or FULL in str(answer) for answer in answers)


def test_a_model_that_was_refused_is_admitted_when_there_is_room(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    busy = History("other", wanted=1)
    deployments.declare(processes.layout, Deployment("other", "", minimum=0))
    deployments.write_history(processes.layout, busy)

    async def ask() -> None:
        process = processes.new()
        for _ in range(2):  # a refusal leaves no mark that would let the next one in
            with pytest.raises(GatewayError, match=FULL):
                await process.admit("first")
        deployments.write_history(processes.layout, replace(busy, wanted=0))
        assert await process.admit("first")

    asyncio.run(ask())


def reconciled(processes: Processes, *, used_s: float) -> None:
    """One look of the reconciler's, at models of which the first has used so much today."""
    declared = deployments.read_all(processes.layout)
    now = time.time()
    known = {model: deployments.read_history(processes.layout, model) for model in declared}
    used = {day_of(now): used_s}
    known["first"] = replace(known["first"], gpu_seconds=used, on_demand_gpu_seconds=used)
    for history in decide(declared, [], known, now_unix=now).histories.values():
        deployments.write_history(processes.layout, history)


def test_the_gpu_hours_of_all_models_together_are_kept_to(tmp_path: Path) -> None:
    processes = Processes(tmp_path, max_jobs=9, gpu_hours=None, total_gpu_hours=2.0)
    deployments.declare(processes.layout, Deployment("kept", "", minimum=0))

    async def ask() -> None:
        assert await processes.new().admit("first")
        reconciled(processes, used_s=7199.0)
        assert await processes.new().admit("second")
        reconciled(processes, used_s=7200.0)
        for model in ("first", "second", "new"):
            with pytest.raises(GatewayError, match="total_gpu_hours") as refused:
                await processes.new().admit(model)
            assert (refused.value.status, refused.value.code) == (503, "gpu_hours_used_up")
            assert 0 < (refused.value.retry_after_s or 0) <= 86400
        assert await processes.new().admit("kept")  # it has limits of its own
        processes.limits = processes.LIMITS.model_copy(
            update={"max_jobs": 9, "gpu_hours": None, "total_gpu_hours": 3.0}
        )
        assert await processes.new().admit("new")
        assert await processes.new().admit("first")
        reconciled(processes, used_s=7200.0)
        assert not deployments.read_history(processes.layout, "first").note
        assert await processes.new().admit("first")

    asyncio.run(ask())


def test_a_model_that_has_used_up_its_own_gpu_hours_says_so(tmp_path: Path) -> None:
    processes = Processes(tmp_path, max_jobs=2)

    async def ask() -> None:
        assert await processes.new().admit("first")
        reconciled(processes, used_s=9000.0)
        with pytest.raises(GatewayError, match="first is not running, and its GPU hours"):
            await processes.new().admit("first")
        assert await processes.new().admit("second")
        first = deployments.read_history(processes.layout, "first")
        deployments.write_history(processes.layout, replace(first, spent_day="2020-01-01"))
        assert await processes.new().admit("first")  # that was another day

    asyncio.run(ask())


def test_hours_that_are_used_up_stay_so_when_other_limits_change(tmp_path: Path) -> None:
    processes = Processes(tmp_path)

    async def ask() -> None:
        assert await processes.new().admit("first")
        reconciled(processes, used_s=9000.0)
        for changed in ({"total_gpu_hours": 9.0}, {"gpu_hours": 2.0}):
            processes.limits = processes.LIMITS.model_copy(update=changed)
            with pytest.raises(GatewayError, match="first is not running, and its GPU hours"):
                await processes.new().admit("first")
        processes.limits = processes.LIMITS.model_copy(update={"gpu_hours": 3.0})
        assert await processes.new().admit("first")
        reconciled(processes, used_s=9000.0)
        assert not deployments.read_history(processes.layout, "first").note

    asyncio.run(ask())


def test_gateways_with_other_limits_leave_what_starts_or_runs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = Processes(tmp_path)
    gateway = processes.new()
    processes.limits = processes.LIMITS.model_copy(update={"gpu_hours": 9.0})
    other = processes.new()

    def limit() -> float | None:
        [declared] = deployments.read_all(processes.layout).values()
        return declared.gpu_hours_per_day

    async def ask() -> None:
        assert await gateway.admit("first")
        assert await other.admit("first")
        assert limit() == 2.5  # it is about to be started
        monkeypatch.setattr(start_marks, "MARK_S", 0.0)
        deployments.write_history(processes.layout, History("first", wanted=1))
        assert await other.admit("first")
        assert limit() == 2.5
        deployments.write_history(processes.layout, History("first", wanted=0))
        assert await other.admit("first")
        assert limit() == 9.0  # the next start

    asyncio.run(ask())


def test_a_model_that_is_kept_and_has_used_up_its_gpu_hours_says_so_at_once(
    world: World, config: Callable[[], Any]
) -> None:
    deployments.declare(world.layout, Deployment("cold", "", gpu_hours_per_day=2.0))
    spent = History("cold", wanted=1, spent_day=day_of(time.time()))
    deployments.write_history(world.layout, spent)
    with world.serving(config, cold_start={"wait": 600}):
        answer = world.chat("cold")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "gpu_hours_used_up")
        assert 0 < int(answer.headers["retry-after"]) <= 86400
