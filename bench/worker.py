"""One client process: ``python -m modeltainer.bench.worker``, started by :mod:`.run` only.

It reads its plan from standard input, writes ``ready``, reads the moment to start, and writes rows
as lines of JSON, the last line its own statistics. SIGTERM ends it early; what has ended by then
is written, what has not becomes a row with the failure ``interrupted``.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import pickle
import random
import resource
import signal
import struct
import sys
from collections.abc import Iterator

import msgspec
import uvloop

from modeltainer.bench.answer import Answer
from modeltainer.bench.client import Client, Exchange, Target, clock
from modeltainer.bench.metrics import percentile
from modeltainer.bench.point import PointPlan, WorkerPlan
from modeltainer.bench.record import Record, from_exchange, jsonl
from modeltainer.bench.schedule import ClosedLoop, OpenLoop, share
from modeltainer.bench.validity import WorkerStats
from modeltainer.bench.workload import PATHS

FLUSH_S = 0.2
_PREBUILT_BYTES = 64 * 1024 * 1024
_SPIN_S = 0.0015
"""The event loop's timers count milliseconds; the last of a wait is spent looking at the clock."""
_AFTER_REFUSAL_S = 0.1
"""A user who is refused faster than this waits this long, so that a dead server gives no flood."""


class Bodies:
    """Request bodies; as many as there is room for are made before the clock runs."""

    def __init__(self, plan: PointPlan, indices: Iterator[int]) -> None:
        self._plan = plan
        self._made: dict[tuple[int, int], bytes] = {}
        room = _PREBUILT_BYTES
        for index in indices:
            for side in range(len(plan.targets)):
                body = self._make(index, side)
                self._made[index, side] = body
                room -= len(body)
            if room < 0:
                break

    def take(self, index: int, side: int) -> bytes:
        """The body of one request."""
        return self._made.pop((index, side), None) or self._make(index, side)

    def _make(self, index: int, side: int) -> bytes:
        return self._plan.workload.body(index, self._plan.targets[side].model, side)


class Worker:
    """Carries out one part of a plan."""

    def __init__(self, part: WorkerPlan) -> None:
        self._plan, self._worker = part.plan, part.worker
        self._schedule = share(part.plan.schedule, part.worker, part.plan.workers)
        path, timeout_s = PATHS[part.plan.workload.api], part.plan.timeout_s
        self._clients = [Client(one, path, timeout_s) for one in part.plan.targets]
        self._bodies = Bodies(part.plan, itertools.islice(self._indices(), 4096))
        self._rows: list[Record] = []
        self._origin = 0.0
        self._lags: list[float] = []
        self._running: set[asyncio.Task[None]] = set()

    def _indices(self) -> Iterator[int]:
        every = itertools.count(self._worker, self._plan.workers)
        if isinstance(self._schedule, OpenLoop):
            return itertools.islice(every, len(self._schedule.starts_s))
        limit = self._plan.requests
        return every if limit is None else itertools.takewhile(lambda n: n < limit, every)

    async def warm_up(self) -> None:
        """Requests that count for nothing: they open connections and wake the server."""
        self._origin = clock()
        share_ = range(self._worker, self._plan.warmup, self._plan.workers)
        # Their prompts must not be those of the measurement, which a prefix cache would know then.
        asked = [
            self._ask(1_000_000_000 + number, side, None, warmup=True)
            for number in share_
            for side in range(len(self._clients))
        ]
        await asyncio.gather(*asked)
        self.flush()

    async def run(self, start: float) -> None:
        """Until all is done, or until cancelled."""
        self._origin = start
        whole = asyncio.current_task()
        assert whole is not None
        watch = asyncio.create_task(self._watch_lag(whole))
        try:
            if isinstance(self._schedule, ClosedLoop):
                indices = self._indices()
                users = [self._user(indices) for _ in range(self._schedule.concurrency)]
                self._running = {asyncio.create_task(user) for user in users}
            else:
                await self._open_loop(self._schedule)
            await asyncio.gather(*self._running)
        finally:
            watch.cancel()
            for task in list(self._running):
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)
            self.flush()
            for client in self._clients:
                client.close()

    async def _user(self, indices: Iterator[int]) -> None:
        await _until(self._origin)
        end = None if self._plan.duration_s is None else self._origin + self._plan.duration_s
        sides = list(range(len(self._clients)))
        for index in indices:
            if end is not None and clock() >= end:
                return
            order = list(sides)
            if len(order) > 1:  # which side goes first is drawn, so that neither always does
                random.Random(f"{self._plan.workload.seed}/{index}/order").shuffle(  # noqa: S311
                    order
                )
            for side in order:
                asked = clock()
                failure = await self._ask(index, side, None)
                if failure and clock() - asked < _AFTER_REFUSAL_S:
                    await asyncio.sleep(_AFTER_REFUSAL_S)

    async def _open_loop(self, schedule: OpenLoop) -> None:
        for index, start_s in zip(self._indices(), schedule.starts_s, strict=True):
            if self._plan.duration_s is not None and start_s >= self._plan.duration_s:
                return
            intended = self._origin + start_s
            await _until(intended)
            task = asyncio.create_task(self._open_one(index, intended))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _open_one(self, index: int, intended: float) -> None:
        await self._ask(index, 0, intended)

    async def _ask(
        self, index: int, side: int, intended: float | None, *, warmup: bool = False
    ) -> str:
        body = self._bodies.take(index, side)
        if intended is None:
            intended = clock()  # its user is free now
        try:
            exchange = await self._clients[side].perform(body)
        except asyncio.CancelledError:
            now = clock()
            exchange = Exchange(Answer(), sent=min(now, intended), ended=now)
            exchange.failure, exchange.detail = "interrupted", "the run was ended"
            self._note(exchange, index, side, intended, warmup)
            raise
        self._note(exchange, index, side, intended, warmup)
        return exchange.failure

    def _note(
        self, exchange: Exchange, index: int, side: int, intended: float, warmup: bool
    ) -> None:
        to: Target = self._plan.targets[side]
        self._rows.append(
            from_exchange(
                exchange,
                point=self._plan.label,
                index=index,
                target="ab"[side],
                model=to.model,
                worker=self._worker,
                origin=self._origin,
                intended=intended,
                warmup=warmup,
            )
        )

    async def _watch_lag(self, whole: asyncio.Task[None]) -> None:
        flushed = clock()
        while True:
            wanted = clock() + 0.05
            await asyncio.sleep(0.05)
            self._lags.append(max(0.0, clock() - wanted))
            if clock() - flushed > FLUSH_S:
                try:
                    self.flush()
                except BrokenPipeError:  # the parent was killed: no load goes on without it
                    whole.cancel()
                    return
                flushed = clock()

    def flush(self) -> None:
        """Write the rows that there are."""
        if self._rows:
            sys.stdout.buffer.write(jsonl(self._rows))
            sys.stdout.buffer.flush()
            self._rows.clear()

    @property
    def loop_lag_s(self) -> float:
        """95th percentile."""
        return percentile(sorted(self._lags), 95) if self._lags else 0.0


async def _until(moment: float) -> None:
    while (left := moment - clock()) > 0:  # noqa: ASYNC110 -- a time, not an event
        await asyncio.sleep(left - _SPIN_S if left > _SPIN_S else 0)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _main() -> None:
    size = struct.unpack("!I", sys.stdin.buffer.read(4))[0]
    part: WorkerPlan = pickle.loads(sys.stdin.buffer.read(size))  # noqa: S301 -- our parent's
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    worker = Worker(part)
    try:
        await worker.warm_up()
        sys.stdout.buffer.write(b"ready\n")
        sys.stdout.buffer.flush()
        data = await asyncio.to_thread(sys.stdin.buffer.read, 8)
        start = struct.unpack("!d", data)[0]
        gc.collect()
        gc.freeze()
        gc.disable()  # nothing here makes cycles, and a collection would stall every stream
        began, cpu = clock(), _cpu_s()
        await worker.run(start)
    except asyncio.CancelledError:
        worker.flush()
        return
    wall = max(1e-3, clock() - began)
    stats = WorkerStats(part.worker, (_cpu_s() - cpu) / wall, worker.loop_lag_s)
    sys.stdout.buffer.write(msgspec.json.encode({"stats": stats}) + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    """Serve one plan."""
    loop = uvloop.new_event_loop()
    with contextlib.closing(loop), contextlib.suppress(BrokenPipeError):
        loop.run_until_complete(_main())


if __name__ == "__main__":
    main()
