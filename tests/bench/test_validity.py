"""Each rule by which a point is called invalid, alone, and just on the other side of its limit."""

from __future__ import annotations

from typing import Any

import pytest

from modeltainer.bench.calibrate import Floor
from modeltainer.bench.metrics import Slo, summarise
from modeltainer.bench.schedule import constant, poisson
from modeltainer.bench.validity import (
    MAX_CACHED_SHARE,
    MAX_CPU,
    MAX_FAILED_SHARE,
    MAX_LAG_SHARE,
    MIN_LAG_S,
    MIN_RATE_SHARE,
    MIN_TPOT_ERROR_S,
    WorkerStats,
    problems,
    short_answers,
)
from modeltainer.bench.window import towards_the_end
from modeltainer.bench.workload import Length, Workload
from tests.bench.test_pure import record

TTFT_S, TPOT_S = 1.0, 0.1
LIMIT_S = MAX_LAG_SHARE * TTFT_S
EPS = 1e-6


def summary(
    *, failed: int = 0, asked: int = 100, lag: float = 0.0, cached: float | None = 0.0, **more: Any
) -> dict[str, Any]:
    """What the rules look at, of a point that is well."""
    return {
        "requests_measured": asked,
        "failed_measured": failed,
        "ttft_s": {"p50": TTFT_S},
        "tpot_s": {"p50": TPOT_S},
        "e2e_s": {"p50": 5.0},
        "send_lag_s": {"p99": None, "p95": lag, "p90": 0.0, "max": 9.0},
        "cached_share": cached,
        "window": {"steady": True},
        "in_flight": {"middle": 4.0, "last": 4.5, "growing": False},
        **more,
    }


def floor(ttft_s: float = 0.0, tpot_s: float = 0.0) -> Floor:
    return Floor(1, 0.02, 10, ttft_s, ttft_s, tpot_s, 0.1)


def found(
    seen: dict[str, Any] | None = None,
    *,
    cpu: float = 0.1,
    loop_lag: float = 0.0,
    wanted_rate: float | None = None,
    sent_rate: float | None = None,
    floor: Floor | None = None,
    **more: bool,
) -> list[str]:
    workers = [WorkerStats(0, 0.01, 0.0), WorkerStats(1, cpu, loop_lag)]
    return problems(
        seen or summary(),
        workers,
        wanted_rate=wanted_rate,
        sent_rate=sent_rate,
        floor=floor,
        **more,
    )


GROWING: dict[str, Any] = {"in_flight": {"middle": 10.0, "last": 30.0, "growing": True}}
UNSTEADY: dict[str, Any] = {"window": {"steady": False}}


@pytest.mark.parametrize(
    ("bad", "good", "says"),
    [
        ({"cpu": MAX_CPU + EPS}, {"cpu": MAX_CPU}, "used 85% of a core"),
        (
            {"seen": summary(lag=LIMIT_S + EPS)},
            {"seen": summary(lag=LIMIT_S)},
            "left up to 50.0 ms late",
        ),
        ({"loop_lag": LIMIT_S + EPS}, {"loop_lag": LIMIT_S}, "the client's loop was 50.0 ms late"),
        (
            {"wanted_rate": 10.0, "sent_rate": 10 * MIN_RATE_SHARE - EPS},
            {"wanted_rate": 10.0, "sent_rate": 10 * MIN_RATE_SHARE},
            "9.50 requests/s were sent of 10.00",
        ),
        (
            {"floor": floor(ttft_s=LIMIT_S + EPS)},
            {"floor": floor(ttft_s=LIMIT_S)},
            "50.0 ms off in TTFT",
        ),
        (
            {"floor": floor(tpot_s=MAX_LAG_SHARE * TPOT_S + EPS)},
            {"floor": floor(tpot_s=MAX_LAG_SHARE * TPOT_S)},
            "5.0 ms off in TPOT",
        ),
        ({"calibration_failed": True}, {"calibration_failed": False}, "the calibration failed"),
        (
            {"seen": summary(cached=MAX_CACHED_SHARE + 0.01)},
            {"seen": summary(cached=MAX_CACHED_SHARE)},
            "26% of the prompt tokens came from the prefix cache",
        ),
        (
            {"seen": summary(cached=1.0)},
            {"seen": summary(cached=1.0), "cache_intended": True},
            "prefix cache",
        ),
        (
            {"seen": summary(failed=6)},
            {"seen": summary(failed=round(100 * MAX_FAILED_SHARE))},
            "6 of 100 requests failed",
        ),
        ({"seen": summary(asked=0)}, {"seen": summary(asked=1)}, "no request was measured"),
        (
            {"seen": summary(**UNSTEADY), "open_loop": True},
            {"seen": summary(**UNSTEADY), "open_loop": False},
            "never got steady",
        ),
        (
            {"seen": summary(**GROWING), "open_loop": True},
            {"seen": summary(**GROWING), "open_loop": False},
            "10.0 in flight in the middle, 30.0 towards the end",
        ),
    ],
)
def test_each_rule_alone(bad: dict[str, Any], good: dict[str, Any], says: str) -> None:
    [problem] = found(**bad)
    assert says in problem
    assert found(**good) == []


def test_small_lags_and_errors_are_never_held_against_a_fast_server() -> None:
    fast: dict[str, Any] = {"ttft_s": {"p50": 0.001}, "tpot_s": {"p50": 0.0005}}
    seen = summary(lag=MIN_LAG_S, **fast)
    least = floor(MIN_LAG_S, MIN_TPOT_ERROR_S)
    assert found(seen, loop_lag=MIN_LAG_S, floor=least) == []
    more = floor(MIN_LAG_S + EPS, MIN_TPOT_ERROR_S + EPS)
    assert len(found(seen, loop_lag=MIN_LAG_S + EPS, floor=more)) == 3


def test_the_longest_lag_counts_where_there_are_too_few_for_percentiles() -> None:
    lags = {"p99": None, "p95": None, "p90": None, "max": LIMIT_S + EPS}
    assert len(found(summary(send_lag_s=lags))) == 1


def test_answers_that_are_not_streamed_are_judged_by_their_whole_time() -> None:
    whole = summary(ttft_s={"count": 0}, tpot_s={"count": 0}, e2e_s={"p50": 10.0})
    assert found(whole, loop_lag=0.4, floor=floor(0.4, MIN_TPOT_ERROR_S)) == []
    assert len(found(whole, loop_lag=0.6)) == 1


def test_a_point_of_failures_only_is_not_valid() -> None:
    rows = [record(n / 10, 0.001, failure="http_503") for n in range(40)]
    [problem] = found(summarise(rows, Slo()))
    assert problem == "40 of 40 requests failed"


def test_a_load_that_piles_up_is_told_from_one_that_is_carried() -> None:
    """Twice as many come as the server, which takes one after the other, can answer."""
    starts = constant(20.0, 400).starts_s
    piled = [record(start, (number + 1) * 0.1 - start) for number, start in enumerate(starts)]
    seen = summarise(piled, Slo())
    assert seen["in_flight"]["growing"]
    assert any("came faster" in one for one in found(seen, open_loop=True))
    carried = [record(start, 0.7) for start in starts]
    assert summarise(carried, Slo())["in_flight"]["middle"] == pytest.approx(14, abs=0.5)
    assert found(summarise(carried, Slo()), open_loop=True) == []


@pytest.mark.parametrize("took", [0.05, 0.4, 2.0])
def test_arrivals_at_random_are_no_pile(took: float) -> None:
    grows = 0
    for seed in range(200):
        rows = [record(start, took) for start in poisson(4.0, 120, seed).starts_s]
        grows += towards_the_end(rows).growing
    assert grows <= 4


def test_a_server_that_is_mostly_idle_is_steady() -> None:
    rows = [record(start, 0.1) for start in constant(1.0, 20).starts_s]
    seen = summarise(rows, Slo())
    assert seen["window"]["steady"]
    assert seen["requests"] == 20
    assert found(seen, open_loop=True) == []


def test_a_cache_of_which_the_server_says_nothing_is_unknown_and_not_unused() -> None:
    def seen(*cached: int | None) -> Any:
        return summarise([record(n, 0.1, cached_tokens=one) for n, one in enumerate(cached)], Slo())

    assert seen(None, None, None)["cached_share"] is None
    assert found(summary(cached=None)) == []
    assert seen(0, 0, 0)["cached_share"] == 0.0
    assert seen(None, 5, 10)["cached_share"] == 0.5  # vLLM says nothing where it is 0


@pytest.mark.parametrize(
    ("tokens", "workload", "short"),
    [
        (94, {}, True),
        (95, {}, False),
        (50, {"ignore_eos": False}, False),
        (50, {"ignore_eos": False, "ignore_eos_refused": True}, True),
        (50, {"extra": {"max_tokens": 50}}, False),
        (50, {"output_tokens_of": (50,) * 9}, False),
    ],
)
def test_short_answers(tokens: int, workload: dict[str, Any], short: bool) -> None:
    asked = Workload(output=Length(100, 100), **workload)
    rows = [record(n, 0.1, index=n, output_tokens=tokens) for n in range(9)]
    assert len(short_answers(rows, asked)) == short
    guessed = [record(n, 0.1, output_tokens=tokens, token_source="chunks") for n in range(9)]
    assert short_answers(guessed, asked) == []
