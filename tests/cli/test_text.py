"""What is shown of launches: clocks, the table, spans."""

from __future__ import annotations

import io
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeltainer.cli.clocks import clock_time, progress_line
from modeltainer.cli.listing import device, listing
from modeltainer.cli.logs import last_lines
from modeltainer.cli.text import span, table
from modeltainer.registry.records import Cause, Clocks, State
from modeltainer.view import Row

NOON = time.mktime((2026, 11, 24, 12, 0, 0, 0, 0, -1))
QUEUED = Row(
    "qwen-r0-abc234",
    "qwen",
    0,
    State.QUEUED,
    "slurm",
    job_id="4711",
    gres="gpu:a100_1g.10gb:1",
    age_s=12.4,
    reason="Resources",
    start_estimate_unix=NOON + 2 * 3600 + 120,
)
LOADED = replace(
    QUEUED, state=State.LOADING, node="c1", queue_s=12.9, pulling_s=30.0, reason="", age_s=50
)


@pytest.mark.parametrize(
    ("row", "in_state_s", "line"),
    [
        (QUEUED, 5, "queued 12 s (Resources; estimated start 14:02)"),
        (replace(QUEUED, start_estimate_unix=None, reason=""), 5, "queued 12 s"),
        (replace(LOADED, state=State.PULLING), 7, "queued 12 s → pulling 7 s"),
        (LOADED, 8.2, "queued 12 s → pulling 30 s → loading 8 s"),
        (replace(LOADED, pulling_s=0.0), 8.2, "queued 12 s → loading 8 s"),
        (
            replace(LOADED, state=State.READY, loading_s=8.7),
            99,
            "queued 12 s → pulling 30 s → loading 8 s → ready",
        ),
        (
            replace(
                LOADED,
                state=State.READY,
                staging_s=31.0,
                loading_s=64.0,
                weights_s=5.2,
                compile_s=27.0,
            ),
            99,
            "queued 12 s → pulling 30 s → copying to the node 31 s → "
            "loading 64 s (weights 5 s, compile 27 s) → ready",
        ),
        (
            replace(LOADED, state=State.ENDED, cause=Cause("out-of-memory", "no memory")),
            0,
            "queued 12 s → pulling 30 s → failed",
        ),
    ],
)
def test_each_phase_has_its_own_clock(row: Row, in_state_s: float, line: str) -> None:
    assert progress_line(row, in_state_s, NOON) == line


def test_what_a_start_took_last_time_is_said() -> None:
    last = Clocks(pulling_s=2.0, staging_s=10.0, loading_s=42.0, weights_s=30.0, warm_up_s=12.2)
    assert progress_line(LOADED, 8.2, NOON, last).endswith(
        "loading 8 s (last time 42 s: weights 30 s, warm-up 12 s)"
    )
    pulling = replace(LOADED, state=State.PULLING)
    assert progress_line(pulling, 7, NOON, last).endswith("pulling 7 s (last time 12 s)")
    assert progress_line(QUEUED, 7, NOON, last) == progress_line(QUEUED, 7, NOON)
    assert progress_line(LOADED, 7, NOON, Clocks()) == progress_line(LOADED, 7, NOON)


def test_an_estimate_on_another_day_says_which() -> None:
    assert clock_time(NOON + 60, NOON) == "12:01"
    assert clock_time(NOON + 86400, NOON) == "Wed 12:00"
    assert clock_time(NOON + 30 * 86400, NOON) == "2026-12-24 12:00"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "-"),
        (0.9, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7200, "2 h"),
        (7260, "2 h 1 min"),
        (172800, "2 d"),
        (180000, "2 d 2 h"),
        (-5, "0 s"),
    ],
)
def test_spans(seconds: float | None, words: str) -> None:
    assert span(seconds) == words


@pytest.mark.parametrize(
    ("gres", "words"),
    [
        (None, "cpu"),
        ("gpu:1", "gpu"),
        ("gpu:2", "2x gpu"),
        ("gpu:a100:1", "a100"),
        ("gpu:a100:4", "4x a100"),
        ("gpu:a100_1g.10gb:1", "a100_1g.10gb"),
        ("gpu", "gpu"),
        ("shard:1", "1 shard"),
        ("shard:a100:3", "3 shards a100"),
    ],
)
def test_device(gres: str | None, words: str) -> None:
    assert device(gres) == words


def test_the_listing_says_why_one_waits_and_why_one_failed() -> None:
    failed = replace(
        LOADED, state=State.ENDED, cause=Cause("out-of-memory", "no memory", "ask for more")
    )
    lines = listing([QUEUED, failed], NOON).splitlines()
    assert "queued" in lines[1]
    assert "failed" in lines[2]
    assert lines[3] == "qwen-r0-abc234: Resources; estimated start 14:02"
    assert lines[4] == "qwen-r0-abc234: no memory [out-of-memory] (ask for more)"


def test_an_empty_listing_says_what_to_do() -> None:
    assert "mt-submit up" in listing([], NOON)


CELLS = st.lists(st.text("abc déf", max_size=9), min_size=3, max_size=3)


@given(st.lists(CELLS, max_size=5))
def test_columns_stand_below_their_heads(rows: list[list[str]]) -> None:
    lines = table(("ONE", "TWO", "END"), [[*row[:2], "X"] for row in rows]).split("\n")
    plain = [line.replace("\x1b[1m", "").replace("\x1b[0m", "") for line in lines]
    assert {line.rindex("X") for line in plain[1:]} <= {plain[0].index("END")}


@given(st.lists(st.text("ab\u00e9", max_size=5)), st.integers(0, 12), st.booleans())
def test_last_lines(lines: list[str], count: int, whole: bool) -> None:
    text = "\n".join(lines) + ("\n" if whole else "")
    file = io.BytesIO(text.encode())
    assert last_lines(file, count) == "".join(
        text.splitlines(keepends=True)[-count:] if count else []
    )
    assert file.read() == b""


def test_last_lines_of_a_large_file() -> None:
    file = io.BytesIO(b"".join(b"line %d\n" % number for number in range(50_000)))
    assert last_lines(file, 2) == "line 49998\nline 49999\n"
    file.seek(0)
    assert len(last_lines(file, 30_000).splitlines()) == 30_000
