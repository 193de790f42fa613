"""Many replicas as one job array: each task is a launch that is seen, drained and ended alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.acceptance.service import until
from tests.acceptance.site import Account, account
from tests.cluster.cluster import Cluster

pytestmark = pytest.mark.cluster


@pytest.fixture
def alice(cluster: Cluster) -> Iterator[Account]:
    found = account(cluster, "alice", "arrays")
    yield found
    found.mt("stop --all --wait 60", check=False)


def test_replicas_are_tasks_that_end_alone_or_together(alice: Account) -> None:
    said = alice.mt("up tiny --replicas 4 --array --wait", timeout=240)
    assert "ready" in said.stderr
    rows = sorted(alice.ls(), key=lambda row: row["replica"])
    array = rows[0]["job_id"].partition("_")[0]
    assert [row["job_id"] for row in rows] == [f"{array}_{task}" for task in range(4)]
    assert {row["state"] for row in rows} == {"ready"}
    assert len({row["url"] for row in rows}) == 4
    assert alice.sh("squeue --me --noheader --format=%F").stdout.split().count(array) == 4
    second = rows[1]
    prelude = alice.mt(f"logs {second['launch_id']} --agent").stdout
    assert "ready" in prelude
    alice.mt(f"stop {second['job_id']}")
    assert len(alice.jobs()) == 3
    alice.sh(f"scancel {array}_3")

    def ready() -> list[int]:
        return sorted(row["replica"] for row in alice.ls() if row["state"] == "ready")

    until(lambda: ready() == [0, 2], "all but the stopped and the cancelled task")
    alice.mt(f"stop {array}")
    alice.assert_nothing_left()


def test_a_rendered_file_may_be_submitted_as_an_array(alice: Account) -> None:
    alice.mt("render tiny > tiny.sbatch")
    array = alice.sh("sbatch --parsable --array=0-2 tiny.sbatch").stdout.strip()

    def ready() -> list[str]:
        return sorted(row["job_id"] for row in alice.ls() if row["state"] == "ready")

    until(lambda: ready() == [f"{array}_{task}" for task in range(3)], "three replicas", 90)
    alice.mt("stop --all")
    alice.assert_nothing_left()


def test_tasks_whose_record_is_missing_are_found_by_name_and_number(alice: Account) -> None:
    """As when mt-submit is killed, or the disk is full, just after sbatch has answered."""
    alice.mt("up tiny --replicas 3 --array --partition gpu --time 1:00:00 --nodelist c1 --cpus 14")
    rows = sorted(alice.ls(), key=lambda row: row["replica"])
    for row in rows[1:]:
        (alice.registry / "launches" / row["launch_id"] / "submission.json").unlink()
    array = rows[0]["job_id"].partition("_")[0]

    def tasks() -> list[str]:
        return sorted(alice.sh("squeue --me -r --noheader --format=%i").stdout.split())

    assert tasks() == [f"{array}_{task}" for task in range(3)]
    alice.mt(f"stop {rows[2]['launch_id']}")
    until(lambda: tasks() == [f"{array}_0", f"{array}_1"], "the third is gone, and no other")
    alice.mt("stop --all")
    alice.assert_nothing_left()
