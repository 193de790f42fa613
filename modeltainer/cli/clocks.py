"""The separate clocks of a start, as one line: queued → pulling → loading → ready. Pure."""

from __future__ import annotations

import time

from modeltainer.cli.text import span
from modeltainer.registry.records import Clocks, State
from modeltainer.view import Row


def progress_line(row: Row, in_state_s: float, now_unix: float, last: Clocks | None = None) -> str:
    """What a launch has been through and is at, with a clock for each phase.

    Args:
        row: the launch, as last seen.
        in_state_s: how long it was seen in its present state; the clock of a phase under way.
        now_unix: wall clock, to say on which day the queue's estimate is.
        last: the model's last start, to tell what is to be expected.
    """
    line = " → ".join([*_past(row), _present(row, in_state_s, now_unix)])
    expected = _expected(row, last) if last is not None else ""
    return f"{line} (last time {expected})" if expected else line


def _expected(row: Row, last: Clocks) -> str:
    if row.state is State.PULLING:
        return span((last.pulling_s or 0.0) + (last.staging_s or 0.0))
    if row.state is State.LOADING and last.loading_s is not None:
        split = _split(last)
        return span(last.loading_s) + (f": {split}" if split else "")
    return ""


def _past(row: Row) -> list[str]:
    parts = []
    if row.queue_s is not None:
        parts.append(f"queued {span(row.queue_s)}")
    if row.pulling_s and row.state is not State.PULLING:
        parts.append(f"pulling {span(row.pulling_s)}")
    if row.staging_s and row.state is not State.PULLING:
        parts.append(f"copying to the node {span(row.staging_s)}")
    if row.loading_s is not None and row.state is not State.LOADING:
        split = _split(row)
        parts.append(f"loading {span(row.loading_s)}" + (f" ({split})" if split else ""))
    return parts


def _split(start: Row | Clocks) -> str:
    known = (
        ("weights", start.weights_s),
        ("compile", start.compile_s),
        ("warm-up", start.warm_up_s),
    )
    return ", ".join(f"{name} {span(value)}" for name, value in known if value is not None)


def _present(row: Row, in_state_s: float, now_unix: float) -> str:
    if row.state in {State.SUBMITTED, State.QUEUED}:
        why = [row.reason] if row.reason else []
        if row.start_estimate_unix is not None:
            why.append(f"estimated start {clock_time(row.start_estimate_unix, now_unix)}")
        detail = f" ({'; '.join(why)})" if why else ""
        return f"{row.state.value} {span(row.age_s)}{detail}"
    if row.state is State.STARTING:
        return f"starting {span(in_state_s)} on {row.node or 'a node'}"
    if row.state in {State.PULLING, State.LOADING}:
        return f"{row.state.value} {span(in_state_s)}"
    if row.state is State.ENDED:
        return "failed" if row.failed else f"ended ({row.cause.code if row.cause else 'stopped'})"
    return f"{row.state.value}"


def clock_time(unix: float, now_unix: float) -> str:
    """``14:02`` today, ``Tue 14:02`` within a week, else with the date; local time."""
    moment, today = time.localtime(unix), time.localtime(now_unix)
    if moment[:3] == today[:3]:
        return time.strftime("%H:%M", moment)
    if 0 <= unix - now_unix < 6 * 86400:
        return time.strftime("%a %H:%M", moment)
    return time.strftime("%Y-%m-%d %H:%M", moment)
