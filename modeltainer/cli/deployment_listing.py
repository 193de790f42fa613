"""Deployments as ``mt-submit ls`` shows them. Pure, but for what it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from modeltainer.cli.text import table
from modeltainer.registry.deployments import Deployment, History
from modeltainer.registry.records import State
from modeltainer.view import Row

HEADS = ("DEPLOYMENT", "WANTED", "READY", "MIN-MAX", "STARTS IN", "NOTE")


def as_json(
    declared: Mapping[str, Deployment], histories: Mapping[str, History], rows: Sequence[Row]
) -> list[dict[str, Any]]:
    """Plain JSON types, one object for each deployment."""
    return [
        {
            "model": model,
            "minimum": one.minimum,
            "maximum": one.maximum,
            "wanted": wanted(one, histories[model]),
            "ready": ready(model, rows),
            "failures": histories[model].failures,
            "cause": histories[model].cause,
            "cause_code": histories[model].cause_code,
            "note": histories[model].note,
            "load_s": max(histories[model].load_s, default=None),
            "queue_s": max(histories[model].queue_s, default=None),
            "start": None if (start := histories[model].start) is None else asdict(start),
            "gpu_seconds": histories[model].gpu_seconds,
        }
        for model, one in declared.items()
    ]


def deployment_table(
    declared: Mapping[str, Deployment],
    histories: Mapping[str, History],
    rows: Sequence[Row],
    *,
    reconciler: str | None,
) -> str:
    """The table, and what keeps it from coming true; empty when nothing is declared."""
    if not declared:
        return ""
    cells = []
    for model, one in declared.items():
        history = histories[model]
        load = max(history.load_s, default=None)
        cells.append(
            (
                model,
                str(wanted(one, history)),
                str(ready(model, rows)),
                f"{one.minimum}-{max(one.minimum, one.maximum)}",
                "-" if load is None else f"{load:.0f} s",
                history.note or "-",
            )
        )
    lines = [table(HEADS, cells)]
    if reconciler is None:
        lines.append(
            "nothing keeps these up: run mt-submit gateway start, or mt-submit reconcile from cron"
        )
    return "\n".join(lines)


def wanted(one: Deployment, history: History) -> int:
    """Replicas, as the reconciler last found right, within what is declared now."""
    return min(max(history.wanted, one.minimum), max(one.minimum, one.maximum))


def ready(model: str, rows: Sequence[Row]) -> int:
    """Replicas that answer."""
    return sum(row.model == model and row.state is State.READY for row in rows)
