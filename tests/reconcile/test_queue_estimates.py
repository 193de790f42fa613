"""Slurm is asked about the queue rarely, and about the nearest end first."""

from __future__ import annotations

from modeltainer.hpc.estimate import parse_test_only
from modeltainer.reconcile.queue_estimates import AGAIN_S, BETWEEN_S, QueueEstimates
from modeltainer.reconcile.replica import Phase, Replica
from modeltainer.spec import LaunchSpec
from tests.launch_spec import launch_spec


def spec(model: str) -> LaunchSpec:
    return launch_spec(launch_id=f"{model}-r0-abcdef", model=model)


def test_one_question_at_a_time_however_many_models() -> None:
    models = [f"m{number}" for number in range(50)]
    replicas = [
        Replica(f"{model}-r0-abcdef", model, "a", 0, Phase.READY, useful_s=1000.0 - number)
        for number, model in enumerate(models)
    ]
    specs = {one.launch_id: spec(one.model) for one in replicas}
    asked: list[str] = []
    now = 0.0

    def ask(wanted: LaunchSpec) -> float | None:
        asked.append(wanted.model)
        return 5000.0 + 120.0

    estimates = QueueEstimates(ask, clock=lambda: now, wall_clock=lambda: 5000.0)
    while now < AGAIN_S:
        found = estimates.look(replicas, specs)
        now += 2.0
    assert asked[0] == "m49"  # whose time runs out first
    assert len(asked) == len(set(asked)) == AGAIN_S / BETWEEN_S
    assert found["m49"] == 120.0


def test_replicas_with_time_are_not_asked_about() -> None:
    far = Replica("m-r0-abcdef", "m", "a", 0, Phase.READY, useful_s=100_000.0)
    queued = Replica("n-r0-abcdef", "n", "a", 0, Phase.QUEUED)

    def ask(_: LaunchSpec) -> float | None:
        raise AssertionError

    assert QueueEstimates(ask).look([far, queued], {}) == {}


def test_what_sbatch_says() -> None:
    said = "sbatch: Job 10 to start at 1795496651 a using 1 processors on nodes c1 in partition cpu"
    assert parse_test_only(said) == 1795496651.0
    assert parse_test_only("allocation failure: Requested node configuration") is None
    assert parse_test_only("sbatch: Job 9 to start at 2026-11-24T05:04:11 using 1") is None
