"""Carries out the batches that clients have ordered at the gateways of one registry.

One process at a time does so (:mod:`.__main__` sees to that), and asks the gateway of its own host.
Whatever ends it, the next one goes on with the rows that have no answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from modeltainer.batch.orders import Batch, BatchBook, BatchState, Flaw, Order, Status
from modeltainer.batch.results import Results
from modeltainer.batch.rows import BadBatchError, BatchRow, read_rows
from modeltainer.batch.run import Limits, Progress, run
from modeltainer.batch.stored_files import FileStore, new_id

if TYPE_CHECKING:
    import httpx

    from modeltainer.gateway.settings import BatchSettings
    from modeltainer.registry.layout import Layout

LOOK_S = 1.0
"""Between two looks at the orders, and between two notes of how far a batch is."""
IDLE_S = 30.0
"""Without an open batch for so long, the process ends; a gateway starts it again."""
PAUSE_S = 30.0
"""Before a batch is tried again that the filesystem has broken off."""


class Stop:
    """Why a running batch is to end before its last row."""

    def __init__(self) -> None:
        self.wanted = asyncio.Event()
        self.outcome: Status = "cancelled"

    def ask(self, outcome: Status) -> None:
        """The first reason stays."""
        if not self.wanted.is_set():
            self.outcome = outcome
            self.wanted.set()


class BatchService:
    """All batches of one registry."""

    def __init__(
        self,
        layout: Layout,
        settings: BatchSettings,
        client_for: Callable[[Order], httpx.AsyncClient],
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """``client_for`` opens a client of the gateway that asks as the order's key."""
        self._book, self._files = BatchBook(layout), FileStore(layout)
        self._settings, self._client_for, self._say = settings, client_for, say
        self._running: dict[str, tuple[Batch, asyncio.Task[None], Stop]] = {}
        self._not_before: dict[str, float] = {}

    async def serve(self, over: Callable[[], bool]) -> None:
        """Work until ``over`` says so, or until nothing was open for :data:`IDLE_S`."""
        worked_at = time.monotonic()
        try:
            while not over():
                with contextlib.suppress(OSError):  # the filesystem is away for a moment
                    if await self.look():
                        worked_at = time.monotonic()
                if time.monotonic() - worked_at > IDLE_S:
                    return
                await asyncio.sleep(LOOK_S)
        finally:
            tasks = [task for _, task, _ in self._running.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def look(self) -> bool:
        """Start what waits and stop what shall end; whether there is anything open."""
        for batch_id, (_, task, _) in list(self._running.items()):
            if task.done():
                del self._running[batch_id]
                self._took_note(batch_id, task)
        batches = await asyncio.to_thread(self._book.all_open)
        now, clock = time.time(), time.monotonic()
        for batch in batches:
            known = self._running.get(batch.order.id)
            if known is None:
                continue
            if batch.cancel_unix is not None:
                known[2].ask("cancelled")
            elif now >= batch.order.expires_unix:
                known[2].ask("expired")
        waiting = [
            one
            for one in batches
            if one.order.id not in self._running
            and clock >= self._not_before.get(one.order.id, float("-inf"))
        ]
        taken = Counter(batch.order.key_id for batch, _, _ in self._running.values())
        for batch in next_ones(waiting, taken, self._settings.max_running - len(self._running)):
            stop = Stop()
            if batch.cancel_unix is not None:
                stop.ask("cancelled")
            task = asyncio.create_task(self._carry_out(batch, stop))
            self._running[batch.order.id] = batch, task, stop
        return bool(batches)

    def _took_note(self, batch_id: str, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._say(f"{batch_id}: broken off: {type(error).__name__}: {error}")
            self._not_before[batch_id] = time.monotonic() + PAUSE_S

    async def _carry_out(self, batch: Batch, stop: Stop) -> None:
        order, state = batch.order, batch.state
        if state.status == "finalizing":
            await self._publish(order, state)
            return
        try:
            rows = await asyncio.to_thread(self._rows, order)
        except BadBatchError as error:
            flaw = Flaw(error.code, str(error), error.line)
            await self._note(order, state := replace(state, flaws=(flaw,)))
            await self._finalize(order, state, "failed")
            return
        begun = state.begun_unix or time.time()
        state = replace(state, status="in_progress", total=len(rows), begun_unix=begun)
        await self._note(order, state)
        self._say(f"{order.id}: {len(rows)} rows for {order.endpoint}")
        with await asyncio.to_thread(Results, self._book.folder(order.id) / "output.jsonl") as out:
            outcome = await self._work(order, state, rows, out, stop)
            if outcome == "expired":
                for row in rows:
                    if row.custom_id not in out.done:
                        message = f"not done within {order.completion_window}"
                        out.fail(row.custom_id, None, message, "batch_expired")
            state = replace(
                state,
                output_file_id=new_id("file-") if out.done else None,
                error_file_id=new_id("file-") if out.failed else None,
                completed=len(out.done),
                failed=out.failed,
            )
        await self._finalize(order, state, outcome)

    def _rows(self, order: Order) -> list[BatchRow]:
        try:
            rows = read_rows(self._files.content(order.input_file_id), None)
        except FileNotFoundError:
            message = f"the file {order.input_file_id} is not there any more"
            raise BadBatchError(message, code="file_not_found") from None
        for row in rows:
            if row.url != order.endpoint:
                message = f"{row.custom_id}: url is {row.url}, the batch's is {order.endpoint}"
                raise BadBatchError(message, code="mismatched_url")
        return rows

    async def _work(
        self,
        order: Order,
        state: BatchState,
        rows: Sequence[BatchRow],
        out: Results,
        stop: Stop,
    ) -> Status:
        latest = Progress(total=len(rows))

        def look(progress: Progress) -> None:
            nonlocal latest
            latest = progress

        patience_s = max(1.0, order.expires_unix - time.time())
        limits = Limits(self._settings.concurrency, patience_s=patience_s)
        async with self._client_for(order) as client:
            work = asyncio.create_task(run(rows, out, client, limits, look))
            stopped = asyncio.create_task(stop.wanted.wait())
            try:
                while not work.done() and not stopped.done():
                    await asyncio.wait(
                        {work, stopped}, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED
                    )
                    seen = replace(state, completed=latest.done, failed=latest.failed)
                    if seen != state and not work.done():
                        state = seen
                        await self._note(order, state)
                if work.done():
                    work.result()
                    return "completed"
                return stop.outcome
            finally:
                for task in (work, stopped):
                    task.cancel()
                await asyncio.gather(work, stopped, return_exceptions=True)

    async def _note(self, order: Order, state: BatchState) -> None:
        await asyncio.to_thread(self._book.write, order.id, state)

    async def _finalize(self, order: Order, state: BatchState, outcome: Status) -> None:
        state = replace(state, status="finalizing", outcome=outcome, finalizing_unix=time.time())
        await self._note(order, state)
        await self._publish(order, state)

    async def _publish(self, order: Order, state: BatchState) -> None:
        """Give the client its files. Begun again after a crash, it ends what it had begun."""
        folder = self._book.folder(order.id)
        for file_id, name, kind in (
            (state.output_file_id, "output.jsonl", "output"),
            (state.error_file_id, "output.failed.jsonl", "error"),
        ):
            if file_id is not None:
                await asyncio.to_thread(
                    self._files.add,
                    file_id,
                    folder / name,
                    key_id=order.key_id,
                    name=f"{order.id}_{kind}.jsonl",
                    purpose="batch_output",
                )
        assert state.outcome is not None
        state = replace(state, status=state.outcome, outcome=None, ended_unix=time.time())
        await self._note(order, state)
        await asyncio.to_thread(self._book.end, order.id)
        self._say(f"{order.id}: {state.status}, {state.completed} of {state.total} rows")


def next_ones(waiting: Sequence[Batch], running: Counter[str], free: int) -> list[Batch]:
    """Which batches to start: the key that has the fewest running goes first, then the oldest.

    Args:
        waiting: the oldest first.
        running: batches under way, by key.
        free: how many may start.
    """
    taken, left = running.copy(), list(waiting)
    chosen: list[Batch] = []
    while left and len(chosen) < free:
        first = min(left, key=lambda one: taken[one.order.key_id])
        left.remove(first)
        taken[first.order.key_id] += 1
        chosen.append(first)
    return chosen
