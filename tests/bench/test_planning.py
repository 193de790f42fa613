"""How many replicas a number of users needs, and what launches have cost: pure."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeltainer.bench.report.capacity import (
    Capacity,
    NoCapacityError,
    measured,
    replicas,
    requests_in_flight,
)

pandas = pytest.importorskip("pandas")


def sweep(*points: tuple[int, float, bool]) -> Any:
    same = {"target": "a", "closed": True, "problems": "sent late"}
    rows = [
        {**same, "load": n, "goodput": good, "valid": ok, "e2e_s_p50": n / 4}
        for n, good, ok in points
    ]
    return pandas.DataFrame(rows)


def test_the_heaviest_load_that_keeps_the_objectives() -> None:
    found = measured(sweep((1, 1.0, True), (4, 0.96, True), (16, 0.5, True), (32, 1.0, True)))
    assert found == Capacity(requests=4, answer_s=1.0)
    assert measured(sweep((1, 1.0, True), (4, 1.0, False))) == Capacity(1, 0.25)


@pytest.mark.parametrize(
    ("points", "why"),
    [
        (sweep((1, 0.9, True)), "lightest load, 90% of the answers keep"),
        (sweep((1, 1.0, False), (4, 1.0, True)), "not valid: sent late"),
        (sweep((1, 1.0, True)).assign(closed=False), "--concurrency"),
    ],
)
def test_a_sweep_that_says_nothing(points: Any, why: str) -> None:
    with pytest.raises(NoCapacityError, match=why):
        measured(points)


def test_little_and_the_binomial_quantile() -> None:
    # 100 users, a tenth of them waiting: 10, spread 3, and 95 % of the time below 10 + 1.645 * 3
    assert requests_in_flight(100, 2, 18) == pytest.approx(14.93, abs=0.01)
    assert requests_in_flight(100, 2, 18, confidence=0.5) == pytest.approx(10)
    assert requests_in_flight(7, 5, 0) == 7
    assert replicas(100, Capacity(4, 2.0), think_s=18) == 4
    assert replicas(1, Capacity(4, 2.0), think_s=1000) == 1


@given(st.integers(1, 5000), st.integers(1, 256), st.floats(0.1, 100), st.floats(0, 600))
def test_more_users_never_need_fewer(users: int, each: int, answer: float, think: float) -> None:
    one = Capacity(each, answer)
    needed = replicas(users, one, think)
    assert needed <= replicas(users + 1, one, think)
    assert needed * each >= min(users, users * answer / (answer + think)) - 1e-6


def test_hours_of_gpus() -> None:
    from modeltainer.bench.report.launches import launches_frame, startup_split, tokens_by

    row = {"launch_id": "m-r0", "model": "m", "state": "ready", "node": "c1", "queue_s": 5.0}
    clocks = {"pulling_s": None, "staging_s": 900.0, "loading_s": 900.0, "serving_s": 1800.0}
    frame = launches_frame([{**row, **clocks, "gpus": gpus} for gpus in (2, 0, 0.25)])
    assert frame["gpu_hours"].tolist() == [2.0, 0.0, 0.25]
    assert frame["job_hours"].tolist() == [1.0, 1.0, 1.0]
    assert launches_frame([]).empty
    assert startup_split(launches_frame([])) is None
    assert tokens_by([], "model") is None
