"""Run one point with client processes of its own, and gather their rows."""

from __future__ import annotations

import contextlib
import math
import pickle
import queue
import signal
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from modeltainer.bench.client import clock
from modeltainer.bench.point import PointPlan, PointResult, WorkerPlan
from modeltainer.bench.record import Record
from modeltainer.bench.schedule import OpenLoop
from modeltainer.bench.validity import WorkerStats

STREAMS_PER_WORKER = 256
"""Above this a second client process is used, where there is a core for it."""
_START_AFTER_S = 0.1
_DEAD_AFTER = 10
"""So many answers in a row that never were: the server is gone."""
_GONE = frozenset(
    {"connect", "closed", "error_in_answer", *(f"http_{n}" for n in (404, 502, 503, 504))}
)
"""How a dead server looks, itself or through a gateway: the streams under way end in an error
there, and whoever asks next is told that nobody serves the model (503), or that there is none of
that name (404: one that no configuration names). It was there when the run began."""
_TERM_WAIT_S = 10.0

OnRecord = Callable[[Record], None]


class WorkerError(RuntimeError):
    """A client process failed; its own words are in the message."""


@contextmanager
def deaf_to_ctrl_c() -> Iterator[None]:
    """Processes begun within never hear SIGINT, not even while Python starts.

    Ctrl-C goes to the whole group of a terminal: this process alone says what is to be done about
    it. A blocked signal stays blocked in children; here it is delivered at the end.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Process:
    def __init__(self, plan: PointPlan, worker: int, lines: queue.SimpleQueue[_Line]) -> None:
        with deaf_to_ctrl_c():
            self._process = subprocess.Popen(
                [sys.executable, "-m", "modeltainer.bench.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        self.worker = worker
        self._lines = lines
        self._stderr = b""
        data = pickle.dumps(WorkerPlan(plan, worker))
        self._write(struct.pack("!I", len(data)) + data)
        self._threads = [
            threading.Thread(target=target, daemon=True) for target in (self._read, self._listen)
        ]
        for thread in self._threads:
            thread.start()

    def _write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has failed; its end and its words come by the other way

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put((self, line))
        self._lines.put((self, None))

    def _listen(self) -> None:
        assert self._process.stderr is not None
        self._stderr = self._process.stderr.read()

    def start(self, moment: float) -> None:
        self._write(struct.pack("!d", moment))

    def terminate(self) -> None:
        self._process.terminate()

    def finish(self) -> int:
        """Wait for its end, by force if need be."""
        try:
            code = self._process.wait(_TERM_WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        for thread in self._threads:
            thread.join(1)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        return code

    @property
    def words(self) -> str:
        """The end of its standard error."""
        return self._stderr.decode(errors="replace").strip()[-600:]


_Line = tuple[_Process, "bytes | None"]


def run_point(plan: PointPlan, on_record: OnRecord | None = None) -> PointResult:
    """Carry out a plan. Ctrl-C, or a server that is gone, ends it with the rows so far.

    Args:
        plan: what to do.
        on_record: called with each row as it comes; what it raises ends the point.

    Raises:
        WorkerError: a client process failed.
    """
    result = PointResult(plan)
    lines: queue.SimpleQueue[_Line] = queue.SimpleQueue()
    processes: list[_Process] = []
    try:
        for worker in range(plan.workers):
            processes.append(_Process(plan, worker, lines))
        _gather(plan, processes, lines, result, on_record)
    except KeyboardInterrupt:
        result.ended_early = "interrupted"
        _end(processes, lines, result, on_record)
    finally:
        for process in processes:
            process.terminate()
        codes = [(process, process.finish()) for process in processes]
    if not result.ended_early:
        for process, code in codes:
            if code > 0:
                raise WorkerError(f"client process {process.worker} failed: {process.words}")
    return result


def _gather(
    plan: PointPlan,
    processes: list[_Process],
    lines: queue.SimpleQueue[_Line],
    result: PointResult,
    on_record: OnRecord | None,
) -> None:
    waiting = set(processes)
    running = set(processes)
    deaths = _Deaths(plan)
    while running:
        process, line = lines.get()
        if line is None:
            running.discard(process)
            if process in waiting:
                return  # failed before it began
        elif line == b"ready\n":
            waiting.discard(process)
            if not waiting:
                moment = clock() + _START_AFTER_S
                for one in processes:
                    one.start(moment)
        else:
            record = _take(line, result, on_record)
            if record is not None:
                deaths.take(record)
                if deaths.certain and not result.ended_early:
                    result.ended_early = "server_died"
                    for one in processes:
                        one.terminate()
    if deaths.nothing_else and not result.ended_early:
        result.ended_early = "server_died"


class _Deaths:
    """Answers in a row that look like a dead server's, of each target by itself."""

    def __init__(self, plan: PointPlan) -> None:
        # Of an open loop a second's worth at least: one that is only too busy turns many away
        # between two that it answers.
        rate = plan.schedule.rate if isinstance(plan.schedule, OpenLoop) else 0.0
        self._limit = max(_DEAD_AFTER, 2 * plan.users, math.ceil(rate))
        self._row: Counter[str] = Counter()
        self._all: Counter[str] = Counter()

    def take(self, record: Record) -> None:
        if record.failure == "interrupted":
            return
        self._all[record.target] += 1
        self._row[record.target] = (self._row[record.target] + 1) * (record.failure in _GONE)

    @property
    def certain(self) -> bool:
        return any(count >= self._limit for count in self._row.values())

    @property
    def nothing_else(self) -> bool:
        """A target's every answer, of a point too short for certainty."""
        return any(count == self._all[name] for name, count in self._row.items() if count)


def _end(
    processes: list[_Process],
    lines: queue.SimpleQueue[_Line],
    result: PointResult,
    on_record: OnRecord | None,
) -> None:
    for process in processes:
        process.terminate()
    running = set(processes)
    while running:
        try:
            process, line = lines.get(timeout=_TERM_WAIT_S)
        except queue.Empty:
            return
        if line is None:
            running.discard(process)
        elif line != b"ready\n":
            _take(line, result, on_record)


_decode_record = msgspec.json.Decoder(Record).decode
_decode_stats = msgspec.json.Decoder(dict[str, WorkerStats]).decode


def _take(line: bytes, result: PointResult, on_record: OnRecord | None) -> Record | None:
    if line.startswith(b'{"stats":'):
        result.workers.append(_decode_stats(line)["stats"])
        return None
    record = _decode_record(line)
    result.records.append(record)
    if on_record is not None:
        on_record(record)
    return record
