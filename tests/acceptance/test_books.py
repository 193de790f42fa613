"""A site that keeps books: what jobs have cost by sacct, and the limits of associations and QOS."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.acceptance.site import Account, account
from tests.cluster.cluster import Cluster

pytestmark = pytest.mark.cluster

NO_LIMIT = "GrpTRES=gres/gpu=-1 MaxSubmitJobs=-1"


def limit(cluster: Cluster, what: str) -> None:
    """Change alice's association."""
    command = f"sacctmgr -i modify user alice set {what}"
    cluster.run("login", ["sh", "-c", command], user="root")


@pytest.fixture
def alice(cluster_22_05: Cluster) -> Iterator[Account]:
    found = account(cluster_22_05, "alice", "books")
    resources = found.config["models"]["tiny"]["resources"]
    resources |= {"gpus": 1, "mig": "1g.10gb", "partition": "gpu"}
    found.write_config()
    yield found
    limit(cluster_22_05, NO_LIMIT)
    found.mt("stop --all")


def test_gpu_hours_are_those_that_slurm_charges(alice: Account) -> None:
    [row] = json.loads(alice.mt("up tiny --wait --json").stdout)
    time.sleep(3)
    alice.mt("stop tiny")
    job = row["job_id"]
    asked = f"sacct -X -n -P -j {job} --format=ElapsedRaw,AllocTRES,State"
    deadline = time.monotonic() + 30
    while True:  # the books are written some time after the job's end
        elapsed, tres, state = alice.sh(asked).stdout.strip().split("|")
        if state != "RUNNING" or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    assert state == "COMPLETED"
    assert "gres/gpu=1" in tres
    [shown] = json.loads(alice.mt("usage --by model --json").stdout)
    assert shown["gpu_seconds"] == int(elapsed) >= 3  # an agent's own record has fractions


def test_a_limit_that_makes_a_job_wait_is_named(alice: Account) -> None:
    limit(alice.cluster, "GrpTRES=gres/gpu=1")
    alice.mt("up tiny --wait")
    alice.mt("up tiny")
    deadline = time.monotonic() + 30
    while True:
        [waiting] = [row for row in alice.ls() if row["state"] == "queued"]
        if "allows" in (waiting["reason"] or "") or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    words = (
        "your group already uses as many GPUs as the account allows: it starts when some are free"
    )
    assert waiting["reason"] == words


def test_a_limit_that_refuses_a_job_is_named(alice: Account) -> None:
    limit(alice.cluster, "MaxSubmitJobs=1")
    alice.mt("up tiny")
    refused = alice.mt("up tiny", check=False)
    assert refused.returncode != 0
    assert "a limit of your account or QOS does not allow this job" in refused.stderr
    assert "(Slurm: Job violates accounting/QOS policy" in refused.stderr
    assert len(alice.jobs()) == 1


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--account nobody", "the account is missing, unknown, or not allowed"),
        ("--qos gold", "the QOS is unknown or not allowed"),
    ],
)
def test_an_account_or_qos_that_is_not_theirs(alice: Account, option: str, said: str) -> None:
    refused = alice.mt(f"up tiny {option}", check=False)
    assert refused.returncode != 0
    assert said in refused.stderr
    assert alice.jobs() == []
