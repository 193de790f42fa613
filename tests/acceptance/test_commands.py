"""The other commands, as a user on the cluster types them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.acceptance.site import Account, account
from tests.cluster.cluster import Cluster

pytestmark = pytest.mark.cluster

SBATCH = Path(__file__).parents[2] / "scripts" / "slurm"


def until_answered(alice: Account) -> None:
    deadline = time.monotonic() + 60
    while alice.mt("chat tiny hello --max-tokens 2", check=False).returncode:
        assert time.monotonic() < deadline
        time.sleep(0.5)


def until_no_jobs(alice: Account) -> None:
    deadline = time.monotonic() + 60
    while alice.jobs():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_doctor_finds_a_sound_cluster_sound(cluster: Cluster) -> None:
    alice = account(cluster, "alice", "doctor")
    findings = json.loads(alice.mt("doctor --json").stdout)
    assert {finding["status"] for finding in findings} <= {"ok", "warning"}
    said = " ".join(str(finding) for finding in findings)
    for part in ("26.05", "a100_1g.10gb", "pptainer", "squashfuse", "user namespaces"):
        assert part in said
    assert alice.jobs() == []


def test_doctor_says_what_to_do(cluster: Cluster) -> None:
    alice = account(cluster, "alice", "doctor-bad", prelude=[])
    alice.config["site"]["registry"] = "/tmp/registry-on-login-only"
    (alice.here(alice.home) / "models.yaml").unlink()
    alice.write_config()
    done = alice.mt("doctor --json", check=False)
    assert done.returncode == 1
    failures = [one for one in json.loads(done.stdout) if one["status"] == "failure"]
    assert failures
    assert any("shared" in str(one) for one in failures)


def test_a_rendered_file_is_submitted_by_hand_and_found(cluster: Cluster) -> None:
    alice = account(cluster, "alice", "render")
    alice.mt("render tiny > tiny.sbatch")
    text = (alice.here(alice.home) / "tiny.sbatch").read_text()
    assert "mte-" not in text  # an endpoint's key would begin so
    job = alice.sh("sbatch --parsable tiny.sbatch").stdout.strip()
    deadline = time.monotonic() + 60
    while not any(row["state"] == "ready" for row in alice.ls()):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    alice.mt("gateway start")
    assert alice.mt("chat tiny hello --max-tokens 3").returncode == 0
    assert "listening" in alice.mt("logs tiny").stdout
    assert "ready after" in alice.mt("logs tiny --agent").stdout
    alice.mt(f"stop {job}")
    alice.mt("gateway stop")
    alice.assert_nothing_left()


def test_a_job_that_somebody_cancels_is_told_as_such(cluster: Cluster) -> None:
    alice = account(cluster, "alice", "cancelled")
    rows = json.loads(alice.mt("up tiny --wait --json").stdout)
    alice.sh(f"scancel {rows[0]['job_id']}")
    until_no_jobs(alice)
    [row] = json.loads(alice.mt("ls --all --json").stdout)
    assert row["state"] == "ended"
    assert row["cause"]["code"] == "stopped"
    alice.mt("stop tiny")
    alice.assert_nothing_left()


@pytest.mark.parametrize("name", sorted(one.name for one in SBATCH.glob("*.sbatch")))
def test_slurm_takes_the_example_files(cluster: Cluster, name: str) -> None:
    alice = account(cluster, "alice", "examples")
    (alice.here(alice.home) / name).write_text((SBATCH / name).read_text())
    # The nodes here are small, and one partition ends after a day.
    small = "--mem=1G --cpus-per-task=2 --time=60"
    if name == "vllm-two-nodes.sbatch":
        small += " --gres=gpu:a100:1"  # four are more than a node here has
    said = alice.sh(f"sbatch --test-only {small} {name} a-model").stderr
    assert "to start at" in said


def test_a_gateway_as_a_job_where_login_allows_none(cluster: Cluster) -> None:
    alice = account(cluster, "alice", "gateway-job")
    alice.mt("gateway render --time 20 > gateway.sbatch")
    job = alice.sh("sbatch --parsable gateway.sbatch").stdout.strip()
    alice.mt("up tiny --wait")
    until_answered(alice)
    tunnel = alice.mt("tunnel").stdout
    assert "127.0.0.1:8000:c" in tunnel  # a compute node's port …
    assert "alice@login" in tunnel  # … through login
    alice.sh(f"scancel {job}")
    alice.mt("stop tiny")
    until_no_jobs(alice)
    alice.assert_nothing_left()


def test_a_gateway_that_follows_itself_keeps_a_model_up(cluster: Cluster) -> None:
    alice = account(cluster, "alice", "gateway-chain")
    alice.mt("gateway render --chain --time 20 > gateway.sbatch")
    first = alice.sh("sbatch --parsable gateway.sbatch").stdout.strip()
    alice.mt("up tiny --keep --wait")
    until_answered(alice)
    alice.sh(f"scancel {first}")
    deadline = time.monotonic() + 60
    queue = f"{first} RUNNING"
    while first in queue or "mt-gateway RUNNING" not in queue:
        assert time.monotonic() < deadline
        time.sleep(0.5)
        queue = alice.sh("squeue --me -h -o '%A %j %T'").stdout
    until_answered(alice)
    alice.sh("scancel --me --name=mt-gateway")
    alice.mt("stop --all")
    until_no_jobs(alice)
    alice.assert_nothing_left()


def test_values_reach_the_engine_as_they_stand(cluster: Cluster) -> None:
    alice = account(cluster, "alice", "values")
    value = '$(touch /tmp/evaluated) `id` $HOME "quoted" ü'
    alice.config["models"]["tiny"]["env"] = {"PLAIN_VALUE": value}
    alice.write_config()
    alice.mt("up tiny --wait")
    [row] = alice.ls()
    script = (
        "for pid in $(pgrep -u alice llama-server); do "
        "tr '\\0' '\\n' < /proc/$pid/environ | grep ^PLAIN_VALUE=; done"
    )
    seen = cluster.run(row["node"], ["bash", "-c", script], user="root").stdout
    assert f"PLAIN_VALUE={value}\n" in seen
    alice.mt("stop tiny")
    alice.assert_nothing_left()
