"""How things are written on a terminal: tables, spans of time, colours, JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

STATE_COLOURS = {
    "ready": "green",
    "ok": "green",
    "draining": "yellow",
    "loading": "cyan",
    "pulling": "cyan",
    "starting": "cyan",
    "warning": "yellow",
    "failed": "red",
    "failure": "red",
}


def echo_json(value: Any) -> None:
    """Plain JSON types as one indented document on standard output."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def note(message: str) -> None:
    """A line for people, on standard error, so that standard output stays clean for scripts."""
    click.echo(message, err=True)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their content, two spaces between; the last one is not padded."""
    plain = [list(heads), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in plain) for column in range(len(heads))]
    lines = []
    for number, row in enumerate(plain):
        cells = [
            _styled(cell, header=number == 0) + " " * (width - len(cell))
            for cell, width in zip(row, widths, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _styled(cell: str, *, header: bool) -> str:
    if header:
        return click.style(cell, bold=True)
    colour = STATE_COLOURS.get(cell)
    return click.style(cell, fg=colour) if colour else cell


def span(seconds: float | None) -> str:
    """``8 s``, ``4 min``, ``3 h 20 min``, ``2 d 4 h``; ``-`` for None. Rounded down."""
    if seconds is None:
        return "-"
    whole = max(0, int(seconds))
    if whole < 120:
        return f"{whole} s"
    minutes = whole // 60
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def indented(lines: Sequence[str], by: str = "    ") -> str:
    """Lines, each moved to the right."""
    return "\n".join(by + line for line in lines)


def coded(message: str, code: str) -> str:
    """A message with the name of its cause, by which docs/troubleshooting.md can be searched."""
    return f"{message} [{code}]" if code else message


def counted(number: int, noun: str) -> str:
    """``1 model``, ``3 models``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
