"""Many large bodies at once."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeltainer.gateway.body_budget import BodyBudget
from modeltainer.gateway.settings import GatewaySettings
from tests.engine.scripted import Gate, whole
from tests.gateway.setup import World

MIB = 1024 * 1024


@given(
    st.lists(st.tuples(st.integers(1, 10), st.booleans(), st.integers(0, 3)), max_size=30),
    st.integers(10, 20),
)
def test_never_more_than_the_limit_and_all_comes_back(
    takers: list[tuple[int, bool, int]], limit: int
) -> None:
    held, most = 0, 0

    async def one(budget: BodyBudget, size: int, turns: int) -> None:
        nonlocal held, most
        await budget.take(size, 30)
        held += size
        most = max(most, held)
        try:
            for _ in range(turns):
                await asyncio.sleep(0)
        finally:
            held -= size
            budget.give(size)

    async def all_of_them() -> None:
        budget = BodyBudget(limit)
        tasks = []
        for size, leaves, turns in takers:
            task = asyncio.ensure_future(one(budget, size, turns))
            tasks.append(task)
            if leaves:
                asyncio.get_running_loop().call_soon(task.cancel)
            await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.wait_for(budget.take(limit, 1), 1)

    asyncio.run(all_of_them())
    assert most <= limit


def test_large_bodies_wait_for_one_another_and_all_arrive(world: World) -> None:
    engine = world.launch().engine
    gate = Gate()
    engine.answer = [gate, *whole({"ok": 1})]
    body = b'{"model":"m","prompt":"' + b"x" * (4 * MIB) + b'"}'
    with (
        world.serving(max_buffered_bytes=10 * MIB, max_body_bytes=5 * MIB) as serving,
        ThreadPoolExecutor(8) as pool,
    ):
        answers = [
            pool.submit(serving.client.post, "/v1/completions", content=body) for _ in range(8)
        ]
        world.until(lambda: len(engine.requests) == 2)
        assert world.gateway.proxy.in_flight > 2
        assert serving.chat("nobody's").status_code == 404  # small ones do not wait
        assert len(engine.requests) == 2
        gate.event.set()
        assert [one.result().status_code for one in answers] == [200] * 8
        assert {len(one.body) for one in engine.requests} == {len(body)}
        world.settled()


def test_who_waits_too_long_is_told(world: World) -> None:
    engine = world.launch().engine
    gate = Gate()
    engine.answer = [gate, *whole({"ok": 1})]
    body = b'{"model":"m","prompt":"' + b"x" * (4 * MIB) + b'"}'
    with (
        world.serving(max_buffered_bytes=5 * MIB, max_body_bytes=5 * MIB, pool_timeout=0.2),
        ThreadPoolExecutor(1) as pool,
    ):
        first = pool.submit(world.client.post, "/v1/completions", content=body)
        engine.wait_request()
        refused = world.client.post("/v1/completions", content=body)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "gateway_busy"
        gate.event.set()
        assert first.result().status_code == 200
        world.settled()


def test_room_for_at_least_one() -> None:
    with pytest.raises(ValueError, match="at least max_body_bytes"):
        GatewaySettings(max_body_bytes=2048, max_buffered_bytes=1024)
