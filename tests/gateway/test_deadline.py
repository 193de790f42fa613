"""A deadline that is moved on is reached once, and not before its time."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from modeltainer.gateway.deadline import Deadline


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from([0.03, 0.01, 0.0]), max_size=5))
def test_the_last_word_counts(moves: list[float]) -> None:
    """Each is a time from now; 0 is none."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        reached: list[float] = []
        deadline = Deadline(loop, lambda: reached.append(loop.time()))
        for seconds in moves:
            if seconds:
                deadline.within(seconds)
            else:
                deadline.off()
        due = deadline.at
        await asyncio.sleep(0.08)
        assert len(reached) == bool(due)
        assert all(at >= due - 0.002 for at in reached)

    asyncio.run(run())


def test_moved_while_it_is_waited_for() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        reached: list[float] = []
        deadline = Deadline(loop, lambda: reached.append(loop.time()))
        began = loop.time()
        deadline.within(0.05)
        for _ in range(4):
            await asyncio.sleep(0.03)
            deadline.at = loop.time() + 0.05  # as a stream does with each token
            assert reached == []
        await asyncio.sleep(0.1)
        [at] = reached
        assert at - began >= 0.16
        deadline.within(0.01)
        deadline.cancel()
        await asyncio.sleep(0.03)
        assert len(reached) == 1

    asyncio.run(run())
