"""A run's rows as a table with every latency, by the same formulas as the summary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from modeltainer.bench.metrics import e2e, send_lag, tpot, ttft
from modeltainer.bench.record import Record

if TYPE_CHECKING:
    from pandas import DataFrame


def requests_frame(records: Sequence[Record], summary: dict[str, Any]) -> DataFrame:
    """One row per measured request: its fields, ``ttft_s``, ``tpot_s``, ``e2e_s``,
    ``send_lag_s``, and ``steady``: it counts for the figures."""
    import pandas as pd

    windows = {
        (point["point"], name): side["window"]
        for point in summary["points"]
        for name, side in point["targets"].items()
    }
    rows = []
    for record in records:
        if record.warmup:
            continue
        window = windows.get((record.point, record.target))
        rows.append(
            {
                "point": record.point,
                "target": record.target,
                "model": record.model,
                "index": record.index,
                "ok": record.ok,
                "failure": record.failure,
                "intended_s": record.intended_s,
                "ended_s": record.ended_s,
                "ttft_s": ttft(record),
                "tpot_s": tpot(record),
                "e2e_s": e2e(record),
                "send_lag_s": send_lag(record),
                "prompt_tokens": record.prompt_tokens,
                "output_tokens": record.output_tokens,
                "steady": window is not None
                and window["start_s"] <= record.intended_s <= window["end_s"],
            }
        )
    columns = [*rows[0]] if rows else ["point", "target", "steady", "ok"]
    frame = pd.DataFrame(rows, columns=columns)
    for name in ("ttft_s", "tpot_s", "e2e_s"):
        if name in frame:
            frame[name] = frame[name].astype(float)
    return frame


def points_frame(summary: dict[str, Any]) -> DataFrame:
    """One row per point and target: load, throughput, percentiles; seconds and tokens per second.
    A percentile that had too few samples is missing."""
    import pandas as pd

    rows = []
    for number, point in enumerate(summary["points"]):
        for name, side in point["targets"].items():
            row = {
                "order": number,
                "point": point["point"],
                "target": name,
                "model": side["model"],
                "load": point["concurrency"] or point["rate"],
                "closed": point["concurrency"] is not None,
                "valid": point["valid"],
                "problems": "; ".join(point["problems"]),
                "failed": side["failed"],
                "requests": side["requests"],
                "requests_per_s": side["requests_per_s"],
                "output_tokens_per_s": side["output_tokens_per_s"],
                "goodput": side["goodput"]["fraction"],
                "tokens_per_s_per_user": side["tokens_per_s_per_user"].get("p50"),
            }
            for metric in ("ttft_s", "tpot_s", "e2e_s"):
                for percent in ("p50", "p90", "p95", "p99"):
                    row[f"{metric}_{percent}"] = side[metric].get(percent)
            rows.append(row)
    frame = pd.DataFrame(rows)
    numbers = [name for name in frame if str(name).startswith(("ttft", "tpot", "e2e", "tokens"))]
    return frame.astype(dict.fromkeys(numbers, float)).sort_values("load", kind="stable")


def knee(throughput: Sequence[float], latency: Sequence[float]) -> int | None:
    """Where more load begins to cost more latency than it gives throughput: the point furthest
    below the straight line from the first to the last, both axes scaled to 0..1. None with fewer
    than four points, or where the latency hardly grows."""
    count = len(throughput)
    if count < 4:
        return None
    width, height = max(throughput) - min(throughput), max(latency) - min(latency)
    if width <= 0 or height <= 0.2 * min(latency):
        return None  # flat
    x = [(value - min(throughput)) / width for value in throughput]
    y = [(value - min(latency)) / height for value in latency]
    gains = [(x[i] - x[0]) * (y[-1] - y[0]) - (y[i] - y[0]) * (x[-1] - x[0]) for i in range(count)]
    best = max(range(count), key=gains.__getitem__)
    return best if gains[best] > 0.05 else None
