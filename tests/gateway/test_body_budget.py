"""Many large bodies at once."""

from __future__ import annotations

import asyncio
import functools
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeltainer.gateway.body_budget import SMALL, BodyBudget
from modeltainer.gateway.settings import GatewaySettings
from modeltainer.registry import keys
from tests.engine.scripted import Gate, Request, Step, whole
from tests.gateway.setup import World
from tests.gateway.test_lifecycle import Process

MIB = 1024 * 1024


@settings(deadline=None)
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


@settings(deadline=None)
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


def test_a_keys_small_bodies_do_not_overtake_its_large_ones() -> None:
    async def all_of_them() -> None:
        budget = BodyBudget(10)
        await budget.take("a", 8, 1)
        large, small = (asyncio.ensure_future(budget.take("a", size, 30)) for size in (10, 1))
        await asyncio.sleep(0)
        assert not small.done()
        budget.give("a", 8)
        await asyncio.wait_for(large, 1)
        budget.give("a", 10)
        await asyncio.wait_for(small, 1)

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


def test_a_key_may_use_half_of_what_is_little_more_than_one_body(world: World) -> None:
    engine = world.launch().engine
    gate = Gate()
    engine.answer = [gate, *whole({"ok": 1})]
    _, other = keys.create(world.layout, "other")
    body = b'{"model":"m","prompt":"' + b"x" * (2 * MIB) + b'"}'
    with (
        world.serving(max_buffered_bytes=9 * MIB, max_body_bytes=9 * MIB) as serving,
        ThreadPoolExecutor(4) as pool,
    ):
        ask = functools.partial(serving.client.post, "/v1/completions", content=body)
        answers = [pool.submit(ask) for _ in range(3)]
        world.until(lambda: len(engine.requests) == 2)
        answers.append(pool.submit(ask, headers={"authorization": f"Bearer {other}"}))
        world.until(lambda: len(engine.requests) == 3)
        assert not any(one.done() for one in answers)
        gate.event.set()
        assert [one.result().status_code for one in answers] == [200] * 4


def test_a_hundred_bodies_take_no_more_memory_than_they_may(world: World, tmp_path: Path) -> None:
    engine = world.launch().engine
    engine.reading.clear()
    clients, limit = 100, 210 * MIB
    pieces = [b'{"prompt":"', *[b"x" * MIB] * 20, b'","model":"m"}']
    length = sum(map(len, pieces))

    def answer(request: Request) -> list[Step]:
        assert len(request.body) == length
        request.body = b""
        return whole({"ok": 1})

    engine.answer = answer
    process = Process(
        world, tmp_path, max_buffered_bytes=limit, max_body_bytes=21 * MIB, pool_timeout=120
    )
    client = process.client()
    client.timeout = 120

    def ask(_: int) -> int:
        headers = {"content-length": str(length)}
        return client.post("/v1/completions", content=iter(pieces), headers=headers).status_code

    try:
        process.routed()
        before = memory(process, "VmRSS")
        with client, ThreadPoolExecutor(clients) as pool:
            answers = pool.map(ask, range(clients))
            world.until(lambda: engine.left_unread == 9, within=60)  # and room for another key's
            engine.reading.set()
            assert list(answers) == [200] * clients
        assert memory(process, "VmHWM") - before < limit + clients * 1.5 * SMALL
    finally:
        process.process.kill()
        process.ended()


def memory(process: Process, what: str) -> int:
    """Bytes, as the kernel counts them (proc(5))."""
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    found = re.search(rf"^{what}:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def test_room_for_at_least_one() -> None:
    with pytest.raises(ValueError, match="at least max_body_bytes"):
        GatewaySettings(max_body_bytes=2048, max_buffered_bytes=1024)
