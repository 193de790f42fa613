"""What makes load generators lie; each test shows a naive client fall for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from modeltainer.bench.metrics import Slo, chunk_gaps, e2e, summarise, tpot, ttft
from modeltainer.bench.record import Record
from modeltainer.bench.schedule import ClosedLoop, constant
from modeltainer.bench.workload import Workload
from tests.bench import naive
from tests.bench.engine import serving
from tests.bench.load import load

TTFT_S, GAP_S, TOKENS = 0.3, 0.05, 12
NEAR = 0.05


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(ttft=TTFT_S, gap=GAP_S, tokens=TOKENS) as made:
        yield made


def one(url: str, model: str) -> Record:
    """The middle one of five: a busy machine delays one, not most."""
    records = load(url, model, ClosedLoop(5), tokens=TOKENS, requests=5).records
    return sorted(records, key=lambda row: (row.last_token_s or 0) - (row.first_token_s or 0))[2]


def test_role_only_chunks_and_pings_are_no_first_token(url: str) -> None:
    fooled = naive.ask(url, "pings", TOKENS)
    assert fooled.ttft_s < TTFT_S / 2
    record = one(url, "pings")
    assert ttft(record) == pytest.approx(TTFT_S, abs=NEAR)
    assert record.chunks == TOKENS


@pytest.mark.parametrize("model", ["bundled", "bundled-uncounted"])
def test_a_chunk_is_not_a_token(url: str, model: str) -> None:
    fooled = naive.ask(url, model, TOKENS)
    assert fooled.tokens < TOKENS / 2
    record = one(url, model)
    assert (record.output_tokens, record.chunks) == (TOKENS, 3)
    assert max(chunk_gaps(record)) == pytest.approx(4 * GAP_S, abs=NEAR)


def test_tokens_bundled_in_the_first_chunk_do_not_count_as_generated_behind_it(url: str) -> None:
    counted, uncounted = one(url, "bundled"), one(url, "bundled-uncounted")
    assert counted.token_source == "usage_each_event"
    assert uncounted.token_source == "usage"
    per_token, guess = tpot(counted), tpot(uncounted)
    assert per_token is not None
    assert guess is not None
    # 8 tokens come behind the first chunk, in two gaps of 4; who counts 11 is too fast by a third.
    assert per_token == pytest.approx(GAP_S, rel=0.1)
    assert guess == pytest.approx(GAP_S * 8 / 11, rel=0.1)


def test_without_usage_the_tokens_are_called_a_guess(url: str) -> None:
    record = one(url, "no-usage")
    assert (record.token_source, record.output_tokens) == ("chunks", TOKENS)
    assert record.prompt_tokens is None


@pytest.mark.parametrize(
    ("model", "failure"),
    [
        ("error-in-stream", "error_in_answer"),
        ("error-as-200", "error_in_answer"),
        ("truncated", "truncated"),
        ("no-done", "truncated"),
        ("cut", "closed"),
    ],
)
def test_status_200_is_not_success(url: str, model: str, failure: str) -> None:
    assert naive.ask(url, model, TOKENS).ok
    result = load(url, model, tokens=TOKENS, requests=2)
    assert [row.failure for row in result.records] == [failure, failure]
    found = summarise(result.records, Slo())
    assert found["goodput"] == {"met": 0, "fraction": 0.0, "requests_per_s": 0.0}
    assert found["output_tokens_per_s"] == 0


def test_latency_ends_with_the_last_token(url: str) -> None:
    true = TTFT_S + GAP_S * (TOKENS - 1)
    assert naive.ask(url, "late-end", TOKENS).e2e_s > true + 0.4
    assert e2e(one(url, "late-end")) == pytest.approx(true, abs=NEAR)


def test_events_cut_anywhere_and_crlf(url: str) -> None:
    record = one(url, "split")
    assert (record.failure, record.chunks, record.output_tokens) == ("", TOKENS, TOKENS)


def test_reasoning_is_generated_too(url: str) -> None:
    record = one(url, "reasoning")
    assert ttft(record) == pytest.approx(TTFT_S, abs=NEAR)
    assert record.chunks == TOKENS


def test_an_answer_that_was_not_streamed_has_no_first_token(url: str) -> None:
    record = one(url, "whole")
    assert record.ok
    assert ttft(record) is None
    assert tpot(record) is None
    assert e2e(record) == pytest.approx(TTFT_S, abs=NEAR)


def test_coordinated_omission() -> None:
    """The server answers nothing for a second. Who asks only after an answer sees one slow one."""
    with serving(ttft=0.02, gap=0.01, tokens=2) as url:
        waits = [naive.ask(url, "stalls", 2).e2e_s for _ in range(60)]
        # One request of 60: their 95th percentile knows nothing of the stall.
        assert max(waits) > 0.7
        assert sorted(waits)[56] < 0.2
    with serving(ttft=0.02, gap=0.01, tokens=2) as url:
        result = load(url, "stalls", constant(50.0, 150), tokens=2)
        found = summarise(result.records, Slo(ttft_s=0.1))["uncut"]
    # A third of the requests were meant to start in the stall, and waited for half of it.
    assert found["goodput"]["fraction"] == pytest.approx(1 - 0.9 / 3, abs=0.05)
    assert found["ttft_s"]["p95"] > 0.7


def test_waiting_in_the_servers_queue_is_waiting() -> None:
    """Twice as many are asked as the server carries: latency grows until the end."""
    with serving(ttft=0.05, gap=0.01, tokens=6, slots=1) as url:
        rows = load(url, "queues", constant(20.0, 40), tokens=6).records
    late = [ttft(row) or 0.0 for row in sorted(rows, key=lambda row: row.index)]
    assert late[-1] > 1.5
    assert late[-1] > late[20] > late[0]


def test_every_prompt_is_new_by_default(url: str) -> None:
    texts = [Workload(salt=salt).prompt_text(n) for salt in ("x", "y") for n in range(200)]
    heads = {" ".join(text.split()[:9]) for text in texts}
    assert len(heads) == len(texts)
    again = Workload(salt="x", nonce=False).prompt_text(3)
    assert again == Workload(salt="y", nonce=False).prompt_text(3)


def test_users_of_a_dead_server_are_not_a_flood_and_the_rows_stay() -> None:
    with serving(ttft=0.01, gap=0.001, tokens=2, die_after=30) as url:
        result = load(url, "plain", ClosedLoop(4), tokens=2, requests=100_000)
    assert result.ended_early == "server_died"
    assert 26 <= sum(row.ok for row in result.records) <= 30  # of 4 some were under way
    assert 10 <= sum(not row.ok for row in result.records) < 200
