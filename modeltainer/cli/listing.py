"""The table of launches. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from modeltainer.cli.clocks import clock_time
from modeltainer.cli.text import coded, counted, span, table
from modeltainer.registry.records import State
from modeltainer.view import Row

HEADS = ("MODEL", "STATE", "NODE", "GPU", "AGE", "LEFT", "REQ", "URL", "JOB", "LAUNCH")


def listing(rows: Sequence[Row], now_unix: float) -> str:
    """The table, and below it what there is to say about those that wait or failed."""
    if not rows:
        return "nothing runs; start something with: mt-submit up MODEL"
    lines = [table(HEADS, [_cells(row) for row in rows])]
    lines += [f"{row.launch_id}: {words}" for row in rows if (words := _words(row, now_unix))]
    return "\n".join(lines)


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.model,
        "failed" if row.failed else row.state.value,
        f"{row.node} +{row.nodes - 1}" if row.node and row.nodes > 1 else row.node or "-",
        device(row.gres),
        span(row.age_s),
        span(row.time_left_s),
        "-" if row.requests is None else str(row.requests),
        row.url or "-",
        row.job_id or "-",
        row.launch_id,
    )


def device(gres: str | None) -> str:
    """``2x a100`` for ``gpu:a100:2``; one is not counted, none is ``cpu``. Shards are named."""
    if not gres:
        return "cpu"
    name, _, rest = gres.partition(":")
    kind, _, count = rest.rpartition(":")
    if not count.isdigit():
        kind, count = count, "1"
    if name == "shard":
        return f"{counted(int(count), name)} {kind}".rstrip()
    return f"{count}x {kind or name}" if count != "1" else kind or name


def _words(row: Row, now_unix: float) -> str:
    if row.cause is not None:
        hint = f" ({row.cause.hint})" if row.failed and row.cause.hint else ""
        return coded(row.cause.message, row.cause.code if row.failed else "") + hint
    if row.state not in {State.SUBMITTED, State.QUEUED}:
        return ""
    parts = [row.reason] if row.reason else []
    if row.start_estimate_unix is not None:
        parts.append(f"estimated start {clock_time(row.start_estimate_unix, now_unix)}")
    return "; ".join(parts)
