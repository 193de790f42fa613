"""Many large bodies at once."""

from __future__ import annotations

import asyncio
from collections import Counter
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
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(1, 10), st.booleans(), st.integers(0, 3)),
        max_size=30,
    ),
    st.integers(10, 30),
)
def test_never_more_than_the_limit_and_all_comes_back(
    takers: list[tuple[str, int, bool, int]], limit: int
) -> None:
    held: Counter[str] = Counter()
    most = 0

    async def one(budget: BodyBudget, key: str, size: int, turns: int) -> None:
        nonlocal most
        await budget.take(key, size, 30)
        held[key] += size
        most = max(most, held.total())
        try:
            for _ in range(turns):
                await asyncio.sleep(0)
        finally:
            held[key] -= size
            budget.give(key, size)

    async def all_of_them() -> None:
        budget = BodyBudget(limit, spare=10)
        tasks = []
        for key, size, leaves, turns in takers:
            task = asyncio.ensure_future(one(budget, key, size, turns))
            tasks.append(task)
            if leaves:
                asyncio.get_running_loop().call_soon(task.cancel)
            await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.wait_for(budget.take("d", limit, 1), 1)

    asyncio.run(all_of_them())
    assert most <= limit


@given(st.lists(st.integers(1, 10), min_size=1, max_size=30), st.integers(10, 100))
def test_one_key_leaves_room_for_anothers_body(sizes: list[int], limit: int) -> None:
    async def all_of_them() -> None:
        budget = BodyBudget(limit, spare=10)
        greedy = [asyncio.ensure_future(budget.take("greedy", size, 30)) for size in sizes]
        await asyncio.sleep(0)
        taken = sum(size for size, one in zip(sizes, greedy, strict=True) if one.done())
        assert taken > limit - 20 or taken == sum(sizes)
        await asyncio.wait_for(budget.take("other", min(10, limit - sizes[0]), 0), 1)
        for one in greedy:
            one.cancel()

    asyncio.run(all_of_them())


def test_large_bodies_wait_for_one_another_and_all_arrive(world: World) -> None:
    engine = world.launch().engine
    gate = Gate()
    engine.answer = [gate, *whole({"ok": 1})]
    body = b'{"model":"m","prompt":"' + b"x" * (4 * MIB) + b'"}'
    with (
        world.serving(max_buffered_bytes=15 * MIB, max_body_bytes=5 * MIB) as serving,
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
