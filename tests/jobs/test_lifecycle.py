"""The life of a replica never sticks, never comes back from the dead, and keeps its deadlines."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from modeltainer.jobs.lifecycle import PROPAGATION_S, Act, Ask, Facts, Life, Limits, step
from modeltainer.registry.records import State

ORDER = [State.LOADING, State.READY, State.DRAINING, State.ENDED]
LIMITS = Limits(load_timeout_s=100, drain_s=60, kill_wait_s=30)

moments = st.lists(
    st.tuples(
        st.floats(0.01, 40),
        st.booleans(),
        st.sampled_from([None, None, None, Ask.STOP, Ask.WALLTIME, Ask.RELEASE, Ask.DRAIN]),
        st.booleans(),
    ),
    max_size=60,
)


@given(moments)
def test_states_only_move_forward(steps: list[tuple[float, bool, Ask | None, bool]]) -> None:
    life, now = Life(State.LOADING, 0.0), 0.0
    for pause, answered, ask, idle in steps:
        now += pause
        before = life
        life, act = step(life, Facts(now, answered=answered, ask=ask, idle=idle), LIMITS)
        assert ORDER.index(life.state) >= ORDER.index(before.state)
        if act is Act.PUBLISH_READY:
            assert answered
            assert before.state is State.LOADING
        if before.ask is Ask.STOP:
            assert life.ask is Ask.STOP


@given(moments)
def test_a_stop_always_ends_within_the_kill_wait(
    steps: list[tuple[float, bool, Ask | None, bool]],
) -> None:
    life, now = Life(State.LOADING, 0.0), 0.0
    for pause, answered, ask, idle in steps:
        now += pause
        life, _ = step(life, Facts(now, answered=answered, ask=ask, idle=idle), LIMITS)
    asked_at, ended = now, False
    while now < asked_at + LIMITS.kill_wait_s:
        life, act = step(life, Facts(now, ask=Ask.STOP), LIMITS)
        if act is Act.TERMINATE:
            ended = True
            break
        now += 0.5
    assert ended


@given(st.sampled_from([State.LOADING, State.READY, State.DRAINING]))
def test_a_dead_engine_ends_the_life_at_once(state: State) -> None:
    life, act = step(Life(state, 0.0), Facts(1.0, engine_exited=True, answered=True), LIMITS)
    assert life.state is State.ENDED
    assert act is Act.FINISH
    assert step(life, Facts(2.0, ask=Ask.STOP), LIMITS) == (life, Act.NOTHING)


def test_an_idle_engine_waits_until_gateways_know() -> None:
    life, act = step(Life(State.READY, 0.0), Facts(10.0, ask=Ask.STOP), LIMITS)
    assert act is Act.BEGIN_DRAIN
    life, act = step(life, Facts(10.1, ask=Ask.STOP, idle=True), LIMITS)
    assert act is Act.NOTHING
    life, act = step(life, Facts(10.1 + PROPAGATION_S, ask=Ask.STOP, idle=True), LIMITS)
    assert act is Act.TERMINATE


def test_a_walltime_gives_requests_the_whole_drain_time() -> None:
    life, _ = step(Life(State.READY, 0.0), Facts(0.0, ask=Ask.WALLTIME), LIMITS)
    assert step(life, Facts(59.0), LIMITS)[1] is Act.NOTHING
    assert step(life, Facts(60.0), LIMITS)[1] is Act.TERMINATE


def test_a_stop_during_the_walltime_drain_shortens_it() -> None:
    life, _ = step(Life(State.READY, 0.0), Facts(0.0, ask=Ask.WALLTIME), LIMITS)
    life, _ = step(life, Facts(1.0, ask=Ask.STOP), LIMITS)
    assert step(life, Facts(23.0), LIMITS)[1] is Act.TERMINATE
    assert life.ask is Ask.STOP


def test_a_replaced_replica_drains_in_peace_until_its_walltime_presses() -> None:
    life, act = step(Life(State.READY, 0.0), Facts(0.0, ask=Ask.DRAIN), LIMITS)
    assert act is Act.BEGIN_DRAIN
    life, act = step(life, Facts(300.0, ask=Ask.DRAIN), LIMITS)
    assert act is Act.NOTHING
    life, act = step(life, Facts(301.0, ask=Ask.WALLTIME), LIMITS)
    assert act is Act.NOTHING
    assert step(life, Facts(360.9, ask=Ask.WALLTIME), LIMITS)[1] is Act.NOTHING
    assert step(life, Facts(361.0, ask=Ask.WALLTIME), LIMITS)[1] is Act.TERMINATE


def test_loading_has_a_time_limit() -> None:
    life, act = step(Life(State.LOADING, 0.0), Facts(100.0), LIMITS)
    assert act is Act.TERMINATE
    assert life.timed_out
