"""A run of ``mt-submit bench`` on the terminal: a line that lives, then a table."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from modeltainer.bench.point import PointPlan
from modeltainer.bench.record import Record
from modeltainer.bench.schedule import OpenLoop
from modeltainer.bench.store import Store
from modeltainer.bench.sweep import Announcer
from modeltainer.cli.text import note, table

_EVERY_S = 0.2


class Progress(Announcer):
    """Writes rows to the store as they come, and says on standard error how far it is."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._live = sys.stderr.isatty()

    def point_begins(self, plan: PointPlan) -> None:
        """A new point."""
        self._label, self._done, self._failed, self._tokens = plan.label, 0, 0, 0
        sides = len(plan.targets)
        if isinstance(plan.schedule, OpenLoop):
            self._of = f" of {len(plan.schedule.starts_s)}"
        elif plan.requests is not None:
            self._of = f" of {plan.requests * sides}"
        else:
            self._of = ""
        self._began = self._shown = time.monotonic()
        if not self._live:
            note(f"{self._label} …")

    def row(self, record: Record) -> None:
        """One request has ended."""
        self._store.add(record)
        if record.warmup:
            return
        self._done += 1
        self._failed += not record.ok
        self._tokens += record.output_tokens or 0
        now = time.monotonic()
        if self._live and now - self._shown > _EVERY_S:
            self._shown = now
            rate = self._tokens / max(1e-3, now - self._began)
            failed = f", {self._failed} failed" if self._failed else ""
            line = f"{self._label}: {self._done}{self._of} requests{failed}, {rate:.0f} tokens/s"
            click.echo(f"\r\x1b[K{line}", nl=False, err=True)

    def point_ends(self, summary: dict[str, Any]) -> None:
        """What is wrong with it, if anything."""
        self._store.add_point(summary)
        if self._live:
            click.echo("\r\x1b[K", nl=False, err=True)
        for problem in summary["problems"]:
            note(f"{summary['point']}: not valid: {problem}")
        for warning in summary["warnings"]:
            note(f"{summary['point']}: {warning}")


def summary_table(points: list[dict[str, Any]]) -> str:
    """A line per point and target."""
    paired = any(len(point["targets"]) > 1 for point in points)
    heads = ["POINT", "REQ", "FAILED", "REQ/S", "TOK/S", "TTFT p50", "p95", "TPOT p50", "p95"]
    heads += ["E2E p50", "GOODPUT", "STEADY", "TOKENS BY", "FLOOR", "VALID"]
    rows = []
    for point in points:
        for name, one in point["targets"].items():
            floor = point["floor"]
            rows.append(
                [
                    f"{point['point']} {name}" if paired else point["point"],
                    str(one["requests"]),
                    str(one["failed"]),
                    f"{one['requests_per_s']:.2f}",
                    f"{one['output_tokens_per_s']:.0f}",
                    *(_ms(one["ttft_s"].get(key)) for key in ("p50", "p95")),
                    *(_ms(one["tpot_s"].get(key)) for key in ("p50", "p95")),
                    _ms(one["e2e_s"].get("p50")),
                    f"{one['goodput']['fraction']:.0%}",
                    "yes" if one["window"]["steady"] else "no",
                    "+".join(sorted(one["token_sources"])) or "-",
                    _ms(floor["ttft_s"]) if floor else "-",
                    "yes" if point["valid"] else point["ended_early"] or "no",
                ]
            )
    lines = [table(heads, rows)]
    for point in points:
        lines += _differences(point)
    return "\n".join(lines)


def _differences(point: dict[str, Any]) -> list[str]:
    lines = []
    for name, label in (("ttft_s", "TTFT"), ("tpot_s", "TPOT"), ("e2e_s", "E2E")):
        found = point.get("paired", {}).get(name)
        if found is None:
            continue
        interval = found["interval"]
        between = f" (95 %: {_ms(interval[0])} to {_ms(interval[1])})" if interval else ""
        lines.append(
            f"{point['point']}: {label} of b - a, median of {found['count']} pairs: "
            f"{_ms(found['median'])}{between}"
        )
    return lines


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if abs(seconds) >= 10:
        return f"{seconds:.1f} s"
    return f"{seconds * 1000:.1f} ms"
