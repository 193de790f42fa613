"""How launches ended up, in words: for ``up`` and ``demo``."""

from __future__ import annotations

import click

from modeltainer.cli.text import coded, indented
from modeltainer.registry.records import State
from modeltainer.view import Row


def failures_of(rows: list[Row]) -> list[Row]:
    """Those that ended while they were waited for."""
    return [row for row in rows if row.state is State.ENDED]


def failure_text(row: Row) -> str:
    """Why one ended: what happened, what to do, the log's last lines, where there is more."""
    cause = row.cause
    message = coded(cause.message, cause.code) if cause else "it ended, and left no reason"
    lines = [f"{click.style(row.launch_id, bold=True)}: {message}"]
    if cause is not None and cause.hint:
        lines.append(f"  {click.style('hint:', bold=True)} {cause.hint}")
    if cause is not None and cause.log:
        lines += ["  the log's last lines:", indented(cause.log)]
    lines.append(f"  all of it: mt-submit logs {row.launch_id}")
    return "\n".join(lines)
