"""The harness measured by itself: how far off it is at a given load, on this machine, now."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from modeltainer.bench.client import target
from modeltainer.bench.metrics import percentile, tpot, ttft
from modeltainer.bench.point import PointPlan, capped
from modeltainer.bench.run import WorkerError, deaf_to_ctrl_c, run_point
from modeltainer.bench.schedule import ClosedLoop
from modeltainer.bench.workload import Length, Workload

TTFT_S = 0.05
LENGTH_S = 1.0
"""About how long a calibration lasts."""


@dataclass(frozen=True)
class Floor:
    """The error of harness and mock together, an upper bound of the harness's own; seconds."""

    concurrency: int
    chunk_gap_s: float
    requests: int
    ttft_s: float
    """Median of |measured - true|."""
    ttft_p95_s: float
    tpot_s: float
    """Median of |measured - true|."""
    cpu_share: float
    """CPU of the busiest client process, in cores."""


@contextmanager
def mock_server(ttft_s: float, gap_s: float, tokens: int, *, tcp: bool = False) -> Iterator[str]:
    """A scripted server in a process of its own; gives its URL, ``unix:/path`` unless ``tcp``."""
    with tempfile.TemporaryDirectory(prefix="mt-bench-") as folder:
        if tcp:
            with socket.create_server(("127.0.0.1", 0)) as probe:
                port = str(probe.getsockname()[1])
            where, url = ["--port", port], f"http://127.0.0.1:{port}"
        else:
            path = str(Path(folder) / "mock.sock")
            where, url = ["--socket", path], f"unix:{path}"
        words = [sys.executable, "-m", "modeltainer.bench.mock", *where]
        timing = ["--ttft", str(ttft_s), "--gap", str(gap_s), "--tokens", str(tokens)]
        process: subprocess.Popen[bytes] | None = None
        try:
            with deaf_to_ctrl_c():
                process = subprocess.Popen([*words, *timing], stdout=subprocess.PIPE)
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise WorkerError("the mock server of the calibration did not start")
            yield url
        finally:
            if process is not None:
                with process:
                    process.terminate()


def calibrate(concurrency: int, chunk_gap_s: float, workers: int = 1) -> Floor:
    """Drive the mock with so many streams at such a gap between chunks.

    Raises:
        WorkerError: a process of the harness failed.
        KeyboardInterrupt: Ctrl-C; half a calibration says nothing.
    """
    tokens = max(2, round((LENGTH_S - TTFT_S) / chunk_gap_s))
    workload = Workload(prompt=Length(16, 16), output=Length(tokens, tokens))
    with mock_server(TTFT_S, chunk_gap_s, tokens) as url:
        plan = PointPlan(
            label="calibration",
            targets=(target(url, "mock"),),
            schedule=ClosedLoop(concurrency),
            workload=workload,
            requests=max(2 * concurrency, 4),
            warmup=concurrency,
            timeout_s=30.0,
            workers=capped(workers, concurrency),
        )
        result = run_point(plan)
    if result.ended_early == "interrupted":
        raise KeyboardInterrupt
    rows = [row for row in result.records if row.ok and not row.warmup]
    if not rows:
        raise WorkerError("the calibration got no answers")
    first = sorted(abs((ttft(row) or 0.0) - TTFT_S) for row in rows)
    after = sorted(abs((tpot(row) or 0.0) - chunk_gap_s) for row in rows)
    return Floor(
        concurrency=concurrency,
        chunk_gap_s=chunk_gap_s,
        requests=len(rows),
        ttft_s=percentile(first, 50),
        ttft_p95_s=percentile(first, 95),
        tpot_s=percentile(after, 50),
        cpu_share=max((one.cpu_share for one in result.workers), default=0.0),
    )
