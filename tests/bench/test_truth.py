"""Figures against an engine whose timing is known: within 2 percent, as one user or as many.

The engine's times are chosen so large that 2 percent of them are several milliseconds: medians
stay within that on a busy machine too.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from modeltainer.bench.metrics import Slo, summarise
from modeltainer.bench.schedule import ClosedLoop, constant
from tests.bench.engine import serving
from tests.bench.load import load

TTFT_S, GAP_S, TOKENS = 0.4, 0.1, 9


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(ttft=TTFT_S, gap=GAP_S, tokens=TOKENS) as made:
        yield made


# With many streams the lag of a busy machine grows, and the times with it.
@pytest.mark.parametrize(("streams", "each", "slower"), [(1, 4, 1), (32, 5, 1), (256, 4, 3)])
def test_closed_loop(streams: int, each: int, slower: int) -> None:
    ttft_s, gap_s = slower * TTFT_S, slower * GAP_S
    e2e_s = ttft_s + gap_s * (TOKENS - 1)
    loop = ClosedLoop(streams)
    with serving(ttft=ttft_s, gap=gap_s, tokens=TOKENS) as url:
        result = load(url, "plain", loop, tokens=TOKENS, requests=streams * each, warmup=streams)
    found = summarise(result.records, Slo(ttft_s=1.5 * ttft_s))
    assert found["failed"] == 0
    assert found["window"]["steady"]
    assert found["ttft_s"]["p50"] == pytest.approx(ttft_s, rel=0.02)
    assert found["tpot_s"]["p50"] == pytest.approx(gap_s, rel=0.02)
    assert found["e2e_s"]["p50"] == pytest.approx(e2e_s, rel=0.02)
    assert found["requests_per_s"] == pytest.approx(streams / e2e_s, rel=0.02)
    assert found["output_tokens_per_s"] == pytest.approx(streams * TOKENS / e2e_s, rel=0.02)
    assert found["tokens_per_s_per_user"]["p50"] == pytest.approx(1 / gap_s, rel=0.02)
    assert found["goodput"]["fraction"] == pytest.approx(1, rel=0.02)


# Here each single request counts, not a median: only a stall of 0.6 s makes a quick one late.
@pytest.mark.parametrize(
    ("streams", "workers", "requests"), [(1, 1, 8), (32, 1, 160), (32, 2, 160), (256, 2, 1024)]
)
def test_goodput_of_a_known_part(streams: int, workers: int, requests: int) -> None:
    loop, ttft_s = ClosedLoop(streams), 3 * TTFT_S
    with serving(ttft=ttft_s, gap=GAP_S, tokens=2) as url:
        result = load(
            url, "mixed", loop, tokens=2, requests=requests, warmup=streams, workers=workers
        )
    assert len(result.workers) == workers
    rows = [row for row in result.records if not row.warmup]
    assert sorted(row.index for row in rows) == list(range(requests))
    found = summarise(rows, Slo(ttft_s=1.5 * ttft_s))
    assert found["uncut"]["goodput"]["fraction"] == pytest.approx(0.75, rel=0.02)


def test_open_loop_keeps_its_rate(url: str) -> None:
    result = load(url, "plain", constant(40.0, 120), tokens=2)
    rows = sorted(result.records, key=lambda row: row.index)
    assert [row.intended_s for row in rows] == pytest.approx([n / 40 for n in range(120)])
    assert rows[-1].sent_s == pytest.approx(119 / 40, rel=0.02)
    assert summarise(rows, Slo())["ttft_s"]["p50"] == pytest.approx(TTFT_S, rel=0.02)
