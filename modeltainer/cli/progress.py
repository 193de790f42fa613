"""Progress of launches that are waited for: live lines on a terminal, else a line per change."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from modeltainer.cli.clocks import progress_line
from modeltainer.registry.records import Clocks, State
from modeltainer.view import Row

if TYPE_CHECKING:
    from rich.text import Text


class Watch:
    """The launches as last seen, and since when each is in its state (this process's clock)."""

    def __init__(
        self, last: Mapping[str, Clocks], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``last``: the last start of each model, where it is known."""
        self._last, self._clock = last, clock
        self._lock = threading.Lock()
        self._rows: list[Row] = []
        self._seen_at = 0.0
        self._since: dict[str, tuple[State, float]] = {}

    def update(self, rows: list[Row]) -> None:
        """Take in what was just read."""
        now = self._clock()
        with self._lock:
            for row in rows:
                if self._since.get(row.launch_id, (None, 0.0))[0] is not row.state:
                    self._since[row.launch_id] = (row.state, now)
            self._rows, self._seen_at = list(rows), now

    def lines(self) -> list[str]:
        """One line per launch, with its clocks as they stand now."""
        now, now_unix = self._clock(), time.time()
        with self._lock:
            rows, late = self._rows, now - self._seen_at
            return [
                f"{row.launch_id}: "
                + progress_line(
                    _aged(row, late),
                    now - self._since[row.launch_id][1],
                    now_unix,
                    self._last.get(row.model),
                )
                for row in rows
            ]


def _aged(row: Row, late_s: float) -> Row:
    """The row was read a moment ago; its age goes on."""
    from dataclasses import replace

    return replace(row, age_s=row.age_s + late_s)


@contextmanager
def shown(last: Mapping[str, Clocks] | None = None) -> Iterator[Callable[[list[Row]], None]]:
    """Show progress on standard error; gives the function to call with the rows at each change.

    Args:
        last: the last start of each model, where it is known.
    """
    watch = Watch(last or {})
    if not sys.stderr.isatty():
        said: dict[str, str] = {}

        def plainly(rows: list[Row]) -> None:
            watch.update(rows)
            for row, line in zip(rows, watch.lines(), strict=True):
                mark = f"{row.state} {row.reason}"
                if said.get(row.launch_id) != mark:
                    said[row.launch_id] = mark
                    click.echo(line, err=True)

        yield plainly
        return
    from rich.console import Console
    from rich.live import Live

    def picture() -> Text:
        from rich.text import Text

        return Text("\n".join(watch.lines()), no_wrap=True, overflow="ellipsis")

    with Live(
        get_renderable=picture, console=Console(stderr=True, highlight=False), refresh_per_second=4
    ):
        yield watch.update
