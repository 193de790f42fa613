"""The circuit breaker: opens on failures in a row only, heals by one probe at a time."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from modeltainer.gateway.breaker import (
    FAILURES,
    LONGEST_PAUSE_S,
    Breaker,
    BreakerState,
    counts_against,
)


@pytest.mark.parametrize(
    ("status", "counts"),
    [(code, code in (502, 503, 504)) for code in (200, 400, 404, 413, 429, 500, 502, 503, 504)],
)
def test_what_counts(status: int, counts: bool) -> None:
    assert counts_against(status) is counts


def test_opens_probes_and_heals() -> None:
    breaker = Breaker()
    for _ in range(FAILURES):
        assert breaker.admits(0.0)
        breaker.failed(0.0, breaker.begin(0.0))
    assert breaker.state(0.5) is BreakerState.OPEN
    assert not breaker.admits(0.5)
    assert breaker.state(1.0) is BreakerState.HALF_OPEN
    assert breaker.begin(1.0) is True
    assert not breaker.admits(1.0)  # one probe at a time
    breaker.failed(1.0, True)
    assert breaker.opens_in(1.0) == 2.0  # twice as long
    assert breaker.begin(3.0) is True
    breaker.succeeded(True)
    assert breaker.state(3.0) is BreakerState.CLOSED
    assert breaker.admits(3.0)


class Machine(RuleBasedStateMachine):
    """Any order of requests, verdicts and waits."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker()
        self.now = 0.0
        self.out: list[bool] = []
        self.in_a_row = 0
        self.was_open = False

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.breaker.admits(self.now))
    @rule()
    def begin(self) -> None:
        self.out.append(self.breaker.begin(self.now))

    @precondition(lambda self: self.out)
    @rule(data=st.data(), verdict=st.sampled_from(["succeeded", "failed", "abandoned"]))
    def end(self, data: st.DataObject, verdict: str) -> None:
        probe = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        before = self.breaker.state(self.now)
        if verdict == "failed":
            self.breaker.failed(self.now, probe)
        else:
            getattr(self.breaker, verdict)(probe)
            # Only a failure opens, and only a probe's success closes.
            after = self.breaker.state(self.now)
            closes = verdict == "succeeded" and probe
            assert after is (BreakerState.CLOSED if closes else before)

    @invariant()
    def one_probe_at_most(self) -> None:
        assert sum(self.out) <= 1

    @invariant()
    def heals_by_time_alone(self) -> None:
        if not any(self.out):
            assert self.breaker.admits(self.now + LONGEST_PAUSE_S)
        assert 0 <= self.breaker.opens_in(self.now) <= LONGEST_PAUSE_S


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
