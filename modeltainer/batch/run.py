"""Carrying a batch out: a bounded number of requests at a time, each row retried by itself.

Sharding over replicas is the gateway's: it sends each request to the least loaded.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modeltainer.batch.results import Results
from modeltainer.batch.rows import BatchRow

if TYPE_CHECKING:
    import httpx

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0


@dataclass(frozen=True)
class Limits:
    """How hard a batch tries. Times in seconds."""

    concurrency: int = 16
    tries: int = 6
    """Per row, for faults of the model or the network."""
    patience_s: float = 600.0
    """How long a row waits for a model that is not up, a gateway that is away, or its key's turn
    (429)."""


@dataclass
class Progress:
    """Counts of one run."""

    total: int
    done: int = 0
    """Rows with an answer, those of earlier runs too."""
    failed: int = 0
    retries: int = 0
    tokens: int = 0
    """Completion tokens of this run, from the servers' own usage."""


async def run(
    rows: Sequence[BatchRow],
    results: Results,
    client: httpx.AsyncClient,
    limits: Limits,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Do every row that is not done yet. Cancelling it loses only what is under way.

    Raises:
        OSError: the output cannot be written any more; what it has is whole.
    """
    left = iter([row for row in rows if row.custom_id not in results.done])
    progress = Progress(total=len(rows), done=len(results.done & {row.custom_id for row in rows}))
    on_progress(progress)

    async def work() -> None:
        for row in left:
            await _do(row, results, client, limits, progress)
            on_progress(progress)

    workers = [asyncio.create_task(work()) for _ in range(limits.concurrency)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return progress


async def _do(
    row: BatchRow,
    results: Results,
    client: httpx.AsyncClient,
    limits: Limits,
    progress: Progress,
) -> None:
    import httpx

    began = time.monotonic()
    tries, pause = 0, FIRST_PAUSE_S
    while True:
        status: int | None = None
        wait_s: float | None = None
        try:
            response = await client.post(row.url, json=row.body)
        except httpx.TransportError as error:
            message = str(error) or type(error).__name__
            away = isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
        else:
            status = response.status_code
            if status == 200:
                _answered(row, response, results, progress)
                return
            message = response.text[:2000]
            away = status in (429, 503)  # no fault: its turn or its model has not come yet
            wait_s = _retry_after(response)
        tries += 0 if away else 1
        patience = limits.patience_s - (time.monotonic() - began)
        hopeless = status is not None and status not in RETRIED
        if hopeless or tries >= limits.tries or (away and patience <= 0):
            results.fail(row.custom_id, status, message)
            progress.failed += 1
            return
        progress.retries += 1
        wanted = pause if wait_s is None else max(wait_s, pause)
        if away:
            wanted = min(wanted, max(patience, 0.1))
        await asyncio.sleep(wanted * random.uniform(0.8, 1.2))  # noqa: S311 (spreads retries)
        pause = min(pause * 2, LONGEST_PAUSE_S)


def _answered(
    row: BatchRow, response: httpx.Response, results: Results, progress: Progress
) -> None:
    body = response.json()
    results.add(row.custom_id, 200, response.headers.get("x-request-id", ""), body)
    progress.done += 1
    usage = body.get("usage") if isinstance(body, dict) else None
    if isinstance(usage, dict) and isinstance(usage.get("completion_tokens"), int):
        progress.tokens += usage["completion_tokens"]


def _retry_after(response: httpx.Response) -> float | None:
    try:
        return min(float(response.headers["retry-after"]), LONGEST_PAUSE_S)
    except (KeyError, ValueError):
        return None
