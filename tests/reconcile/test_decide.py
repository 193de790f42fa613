"""What is declared comes true and stays so, whatever happens; and never with more jobs than asked
for and their successors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeltainer.reconcile.decide import Cancel, Drain, Forget, Submit, backoff_s, decide
from modeltainer.reconcile.learn import gpu_seconds_today, learn
from modeltainer.reconcile.replica import Phase, Replica
from modeltainer.reconcile.scale import Load
from modeltainer.registry.days import day_of
from modeltainer.registry.deployments import Deployment, History
from modeltainer.registry.records import Cause
from tests.reconcile.simulation import EPOCH, Simulation

GONE = Cause("job-gone", "the job is gone")

events = st.lists(
    st.one_of(
        st.tuples(st.just("look"), st.none() | st.integers(0, 5)),
        st.tuples(st.just("tick"), st.integers(1, 40)),
        st.tuples(st.just("kill"), st.integers(0, 10)),
        st.tuples(st.just("silence"), st.integers(0, 10)),
        st.tuples(st.just("speak"), st.integers(0, 10)),
        st.tuples(st.just("redeclare"), st.integers(0, 2)),
        st.tuples(st.just("break"), st.integers(0, 1)),
    ),
    max_size=40,
)
bounds = st.tuples(st.integers(0, 3), st.integers(1, 4))


def simulation(
    low: int, high: int, walltime_s: float | None = None, spare: str | None = None
) -> Simulation:
    declared = Deployment("m", "a", low, max(low, high), spare_partition=spare)
    return Simulation({"m": declared}, walltime_s=walltime_s)


def happen(world: Simulation, event: str, value: int | None) -> None:
    running = [job for job in world.jobs if job.replica.phase in (Phase.STARTING, Phase.READY)]
    if event == "look":
        world.look(die_after=value)
    elif event == "tick":
        world.tick(float(value or 0))
    elif event == "redeclare" and "m" in world.deployments:
        declared = world.deployments["m"]
        world.deployments["m"] = replace(declared, revision=f"{declared.revision}{value}")
    elif event == "break":
        world.broken = bool(value)
    elif event == "speak":
        for job in world.jobs:
            if job.replica.phase is Phase.SILENT:
                job.replica = replace(job.replica, phase=Phase.READY, silent_s=0.0)
    elif running:
        job = running[(value or 0) % len(running)]
        if event == "kill":
            world.end(job, GONE)
        elif event == "silence":
            job.replica = replace(job.replica, phase=Phase.SILENT)


@settings(deadline=None)
@given(
    events,
    bounds,
    st.sampled_from([None, 60.0, 300.0]),
    st.sampled_from([None, "scavenger"]),
    st.sampled_from([0, 20, 40]),
)
def test_it_converges_after_anything_and_never_has_too_many_jobs(
    steps: list[tuple[str, int | None]],
    limits: tuple[int, int],
    walltime_s: float | None,
    spare: str | None,
    in_flight: int,
) -> None:
    world = simulation(*limits, walltime_s, spare)
    world.loads = {"m": Load(in_flight=in_flight, idle_s=0.0)} if in_flight else {}
    most = world.deployments["m"].maximum
    for event, value in steps:
        happen(world, event, value)
        assert world.with_job <= 2 * most
    happen(world, "break", 0)
    world.loads = {}  # no gateway says anything any more: as many as are wanted now
    for _ in range(500):
        world.look()
        assert world.with_job <= 2 * most
        world.tick(5.0)
    world.walltime_s = None  # those that come now stay
    for _ in range(200):
        world.look()
        world.tick(5.0)
    wanted = max(world.deployments["m"].minimum, world.histories["m"].wanted)
    assert world.count(Phase.READY) == wanted
    assert len(world.jobs) == wanted
    safe = sum(not job.replica.spare for job in world.jobs)
    assert safe == (min(wanted, max(1, limits[0])) if spare else wanted)
    assert not world.plan().actions


@settings(deadline=None)
@given(events, bounds)
def test_what_is_declared_no_more_leaves_nothing(
    steps: list[tuple[str, int | None]], limits: tuple[int, int]
) -> None:
    world = simulation(*limits)
    for event, value in steps:
        happen(world, event, value)
    world.deployments.clear()
    before = world.submitted
    for _ in range(100):
        world.look()
        world.tick(5.0)
    # A launch that stays silent is its job's end's business; it was asked to end.
    assert world.jobs == []
    assert world.submitted == before


@given(bounds, st.integers(0, 5))
def test_one_need_is_submitted_once(limits: tuple[int, int], die_after: int) -> None:
    world = simulation(*limits)
    world.look(die_after=die_after)
    for _ in range(5):
        world.look()
    assert world.submitted == world.deployments["m"].minimum


@settings(deadline=None)
@given(st.integers(1, 4), st.sampled_from([90.0, 150.0, 600.0, 3000.0]), st.floats(0.5, 10))
def test_walltimes_are_handed_over_without_a_gap(
    replicas: int, walltime_s: float, pause_s: float
) -> None:
    world = simulation(replicas, replicas, walltime_s)
    while world.count(Phase.READY) < replicas:
        world.look()
        world.tick(pause_s)
        assert world.now < 1000
    end = world.now + 5 * walltime_s
    drained = 0
    while world.now < end:
        plan = world.look()
        drained += sum(isinstance(one, Drain) for one in plan.actions)
        world.tick(pause_s)
        assert world.count(Phase.READY) >= replicas
        assert world.with_job <= 2 * replicas
    assert drained >= 3 * replicas


def test_a_walltime_shorter_than_the_load_time_does_not_flood_the_queue() -> None:
    world = simulation(1, 1, walltime_s=60.0)
    world.load_s = 55.0
    while world.now < 1000:
        world.look()
        world.tick(2.0)
        assert world.with_job <= 2
    assert world.submitted <= 1000 / 25


def test_the_same_failure_again_is_tried_ever_more_rarely_and_said() -> None:
    world = simulation(3, 3)
    world.broken = True
    while world.now < 4 * 3600:
        world.look()
        world.tick(5.0)
        assert world.count(Phase.ENDED) <= 4
    assert world.submitted < 30
    assert "the GPU has too little memory" in world.histories["m"].note
    assert "starts in a row failed" in world.histories["m"].note
    before = world.submitted
    world.broken = False
    declared = world.deployments["m"]
    world.deployments["m"] = replace(declared, created_unix=EPOCH + world.now)
    world.look()  # declared again: tried at once
    assert world.submitted == before + 3
    world.tick(5.0)
    world.look()
    world.tick(30.0)
    world.look()
    assert world.count(Phase.READY) == 3


@pytest.mark.parametrize("change", [{"minimum": 2, "maximum": 2}, {"revision": "b"}])
def test_a_replica_that_serves_does_not_hide_that_starts_fail(change: dict[str, Any]) -> None:
    world = simulation(1, 1)
    while world.now < 300:
        world.look()
        world.tick(2.0)
    world.broken = True
    declared = replace(world.deployments["m"], created_unix=EPOCH + world.now, **change)
    world.deployments["m"] = declared
    before = world.submitted
    while world.now < 3600:
        world.look()
        world.tick(2.0)
        assert world.count(Phase.READY) == 1
    assert world.submitted - before < 15
    assert "starts in a row failed: the GPU has too little memory" in world.histories["m"].note
    assert world.count(Phase.ENDED) == 1  # the last one's log can be read


@given(st.integers(0, 200))
def test_back_off_is_bounded_and_grows(failures: int) -> None:
    history = History("m", failures=failures)
    assert 0 <= backoff_s(history) <= 1800
    assert backoff_s(history) <= backoff_s(replace(history, failures=failures + 1))
    assert backoff_s(replace(history, cause_code="slurm-unavailable")) <= 60


def test_a_new_declaration_replaces_the_old_jobs_once_the_new_ones_serve() -> None:
    world = simulation(2, 2)
    while world.count(Phase.READY) < 2:
        world.look()
        world.tick(5.0)
    world.deployments["m"] = replace(world.deployments["m"], revision="b")
    while any(job.replica.revision == "a" for job in world.jobs):
        world.look()
        assert world.count(Phase.READY) >= 2
        world.tick(5.0)
        assert world.now < 300
    assert world.count(Phase.READY) == 2


def test_the_gpu_hours_of_a_day_are_kept_to() -> None:
    world = simulation(2, 2)
    world.gpus = 4
    world.deployments["m"] = replace(world.deployments["m"], gpu_hours_per_day=2.0)
    used = 0.0
    start = EPOCH - EPOCH % 86400
    world.now = start - EPOCH  # midnight
    end = world.now + 86400
    while world.now < end:
        world.look()
        world.tick(10.0)
        running = [job for job in world.jobs if job.replica.phase in (Phase.READY, Phase.STARTING)]
        used += len(running) * 4 * 10 / 3600
    assert 1.9 <= used <= 2.1
    assert "GPU hours" in world.histories["m"].note
    for _ in range(20):
        world.look()
        world.tick(10.0)
    assert world.count(Phase.READY) == 2  # a new day


def test_the_gpu_hours_of_all_models_on_demand_are_kept_to() -> None:
    declared = {
        model: Deployment(model, "r", on_demand=True, shared_gpu_hours_per_day=2.0)
        for model in ("a", "b")
    }
    declared["other"] = Deployment("other", "r")
    today = day_of(EPOCH)
    used = {
        model: History(
            model,
            gpu_seconds={today: 3600.0},
            on_demand_gpu_seconds={today: 3600.0} if one.on_demand else {},
            wanted=1,
        )
        for model, one in declared.items()
    }
    plan = decide(declared, [], used, now_unix=EPOCH)
    assert {one.model for one in plan.actions if isinstance(one, Submit)} == {"other"}
    assert "all models started on demand" in plan.histories["a"].note
    assert [plan.histories[model].shared_spent_day for model in declared] == [today, today, ""]
    plan = decide(declared, [], plan.histories, now_unix=EPOCH + 86400)
    assert {one.model for one in plan.actions if isinstance(one, Submit)} == set(declared)
    assert plan.histories["a"].shared_spent_day == ""


@pytest.mark.parametrize("since", [None, Deployment("a", "s")], ids=["stopped", "kept"])
def test_what_was_used_on_demand_stays_in_the_total(since: Deployment | None) -> None:
    on_demand = Deployment("a", "r", minimum=0, on_demand=True, shared_gpu_hours_per_day=2.0)
    world = Simulation({"a": on_demand}, gpus=4)
    world.histories = {model: History(model, wanted=1) for model in ("a", "b")}
    world.now = 86400 - EPOCH % 86400  # midnight

    def pass_s(seconds: float) -> set[str]:
        end, seen = world.now + seconds, set()
        while world.now < end:
            world.look()
            seen |= {job.replica.model for job in world.jobs}
            world.tick(10.0)
        return seen

    pass_s(1500)
    world.deployments = {"b": replace(on_demand, model="b")}
    if since is not None:
        world.deployments["a"] = since
    assert "b" in pass_s(600)  # 1.7 hours are gone, and 0.3 are left for it
    assert "all models started on demand" in world.histories["b"].note
    assert "b" not in pass_s(600)
    assert pass_s(86400) == ({"b"} if since is None else {"a", "b"})  # a new day
    assert 5900 < world.histories["a"].on_demand_gpu_seconds[day_of(EPOCH + 86400)] < 6100


def test_scale_to_zero_and_back() -> None:
    world = simulation(0, 1)
    world.loads = {"m": Load(watched_s=10_000.0)}
    assert not world.look().actions
    world.loads = {"m": Load(in_flight=3, idle_s=0.0)}
    plan = world.look()
    assert [type(action) for action in plan.actions] == [Submit]
    for _ in range(10):  # many requests, many looks: one job
        world.tick(5.0)
        world.look()
    assert world.submitted == 1
    assert world.count(Phase.READY) == 1
    world.loads = {"m": Load(idle_s=899.0)}
    assert not world.look().actions
    world.loads = {}  # no gateway says anything: nothing is let go
    assert not world.look().actions
    world.loads = {"m": Load(watched_s=3.0)}  # a gateway that has just begun to count
    assert not world.look().actions
    world.loads = {"m": Load(idle_s=901.0)}
    assert [type(action) for action in world.look().actions] == [Drain]
    world.tick(11.0)
    assert [type(action) for action in world.look().actions] == [Forget]


def test_late_first_tokens_bring_one_replica_after_the_other() -> None:
    world = simulation(1, 3)
    world.load_s = 60.0
    late = Load(in_flight=4, idle_s=0.0, first_token_s=30.0)  # 8 is what one is meant to carry
    for _ in range(20):
        world.look()
        world.tick(5.0)
    assert world.count(Phase.READY) == 1
    world.loads = {"m": replace(late, in_flight=1)}
    for _ in range(20):
        world.look()
        world.tick(5.0)
    assert world.submitted == 1  # a request that has a replica to itself waits for its own prompt
    world.loads = {"m": late}
    for wanted in (2, 3):
        for _ in range(8):
            world.look()
            world.tick(5.0)
        assert world.submitted == wanted
        for _ in range(9):  # it loads: no third one because the second is not there yet
            world.look()
            world.tick(5.0)
        assert world.submitted == wanted
    world.loads = {"m": Load(in_flight=1, idle_s=0.0, first_token_s=8.0)}
    for _ in range(100):
        world.look()
        world.tick(5.0)
    assert world.count(Phase.READY) == 3  # quick enough, but with no room to spare
    world.loads = {"m": Load(in_flight=1, idle_s=0.0, first_token_s=1.0)}
    for _ in range(200):
        world.look()
        world.tick(5.0)
    assert world.count(Phase.READY) == 1


def test_the_replica_with_the_least_to_do_is_let_go() -> None:
    world = simulation(3, 3)
    for _ in range(20):
        world.look()
        world.tick(5.0)
    for job, busy in zip(world.jobs, (4, 0, 2), strict=True):
        job.replica = replace(job.replica, in_flight=busy)
    idle = world.jobs[1].replica.launch_id
    world.deployments["m"] = replace(world.deployments["m"], minimum=2, maximum=2)
    assert [one.launch_id for one in world.look().actions if isinstance(one, Drain)] == [idle]


def test_a_job_cancelled_by_others_is_replaced_at_once_then_more_slowly() -> None:
    world = simulation(1, 1)
    world.look()
    for _ in range(4):
        world.tick(5.0)
        for job in world.jobs:
            if job.replica.phase is Phase.STARTING:
                world.end(job, Cause("stopped", "it was asked to stop"))
        world.look()
    assert world.submitted == 2
    assert "cancelled, and not by mt-submit" in world.histories["m"].cause


def test_spare_replicas_come_under_load_go_first_and_may_be_preempted_for_ever() -> None:
    world = simulation(1, 3, walltime_s=600.0, spare="scavenger")
    world.loads = {"m": Load(in_flight=24, idle_s=0.0)}

    def ready(*, spare: bool) -> int:
        serving = [job.replica for job in world.jobs if job.replica.phase is Phase.READY]
        return sum(one.spare is spare for one in serving)

    while (ready(spare=False), ready(spare=True)) != (1, 2):
        world.look()
        world.tick(5.0)
        assert world.now < 300
    for _ in range(40):  # each time as soon as they serve
        for job in world.jobs:
            if job.replica.spare and job.replica.phase is Phase.READY:
                world.end(job, Cause("stopped", "it was asked to stop"))
        while ready(spare=True) != 2:
            world.look()
            world.tick(5.0)
            assert ready(spare=False) >= 1
        assert world.histories["m"].failures == 0
    assert world.now > 600  # the safe one's successor is a safe one
    world.loads = {"m": Load(in_flight=0, idle_s=0.0)}
    for job in world.jobs:
        if job.replica.spare:
            job.replica = replace(job.replica, in_flight=5)
    for _ in range(400):
        world.look()
        world.tick(5.0)
        assert ready(spare=False) >= 1
    assert (ready(spare=False), ready(spare=True)) == (1, 0)


def test_a_spare_replica_that_cannot_be_had_keeps_no_safe_one_waiting() -> None:
    world = simulation(2, 4, spare="scavenger")
    history = History("m", wanted=4)
    declared = world.deployments

    def submits(no_spares: set[str]) -> list[bool]:
        found = decide(declared, [], {"m": history}, now_unix=EPOCH, no_spares=no_spares).actions
        return [one.spare for one in found if isinstance(one, Submit)]

    assert submits(set()) == [False, False, True, True]
    assert submits({"m"}) == [False, False]


def one(name: str, phase: Phase, submitted: float, **known: Any) -> Replica:
    return Replica(
        name, "m", known.pop("revision", "a"), 0, phase, submitted_unix=submitted, **known
    )


def actions(*replicas: Replica, history: History | None = None, **known: Any) -> list[object]:
    found = decide(
        {"m": Deployment("m", "a", 1, 1)},
        replicas,
        {"m": history or History("m", load_s=(60.0,), wanted=1)},
        now_unix=EPOCH,
        **known,
    )
    return list(found.actions)


@pytest.mark.parametrize("phase", [Phase.QUEUED, Phase.STARTING, Phase.READY])
def test_a_reconciler_that_has_just_begun_ends_nobody_for_one_that_may_be_dead(
    phase: Phase,
) -> None:
    dead = one("dead", Phase.READY, 1.0, confirmed=False)
    assert actions(dead, one("new", phase, 2.0)) == []
    last = one("last", Phase.READY, 1.0, useful_s=30.0, lifetime_s=3600.0)
    assert actions(last, replace(dead, submitted_unix=2.0)) == []
    found = actions(replace(dead, confirmed=True), one("new", Phase.READY, 2.0))
    assert len(found) == 1


def test_a_successor_keeps_its_place_when_the_queue_is_said_to_be_shorter() -> None:
    old = one("old", Phase.READY, 1.0, useful_s=4 * 3600.0, lifetime_s=9 * 3600.0)
    for phase in (Phase.QUEUED, Phase.STARTING):
        successor = one("new", phase, 2.0)
        for estimate in ({"m": 5 * 3600.0}, {"m": 3 * 3600.0}, {}):
            assert actions(old, successor, queue_estimates=estimate) == []
    for estimate in ({"m": 5 * 3600.0}, {}):  # and takes over when it serves
        found = actions(old, one("new", Phase.READY, 2.0), queue_estimates=estimate)
        assert [(type(each), each.launch_id) for each in found] == [(Drain, "old")]  # type: ignore[attr-defined]
    young = replace(old, useful_s=8 * 3600.0)
    assert actions(young, one("new", Phase.QUEUED, 2.0)) == [
        Cancel("new", "fewer replicas are wanted")
    ]


def test_silent_replicas_of_an_earlier_declaration_are_not_given_up_before_they_are_replaced() -> (
    None
):
    earlier = one("old", Phase.SILENT, 1.0, revision="z", silent_s=500.0)
    for phase in (Phase.QUEUED, Phase.STARTING):
        assert actions(earlier, one("new", phase, 2.0)) == []
    serving = one("new", Phase.READY, 2.0)
    assert actions(replace(earlier, silent_s=1.0), serving) == []
    assert [type(each) for each in actions(earlier, serving)] == [Cancel]
    assert [type(each) for each in actions(replace(earlier, phase=Phase.QUEUED), serving)] == [
        Cancel
    ]


def test_what_ended_long_ago_is_charged_for_its_own_time_and_day() -> None:
    noon = EPOCH - EPOCH % 86400 + 43200
    ended = one("x", Phase.ENDED, 1.0, gpus=4, running_s=3600.0, ended_s=86400.0)
    history = learn(History("m"), [ended], noon)
    assert list(history.gpu_seconds.values()) == [4 * 3600.0]
    assert gpu_seconds_today(history, [], noon) == 0.0
    assert gpu_seconds_today(history, [], noon - 86400) == 4 * 3600.0


def test_a_failure_that_is_seen_after_its_replacement_came_is_forgotten_in_the_end() -> None:
    """A node that was cut off: its replica is replaced while silent, and found dead later."""
    world = simulation(1, 1)
    while world.now < 60:
        world.look()
        world.tick(5.0)
    [lost] = world.jobs
    lost.replica = replace(lost.replica, phase=Phase.SILENT)
    while world.count(Phase.READY) == 0:
        world.look()
        world.tick(5.0)
    world.end(lost, GONE)
    while world.now < 400:
        world.look()
        world.tick(5.0)
    assert world.histories["m"].failures == 0
    assert len(world.jobs) == 1
