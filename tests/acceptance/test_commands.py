"""The other commands, as a user on the cluster types them."""

from __future__ import annotations

import json
import time

import pytest

from tests.acceptance.site import account
from tests.cluster.cluster import Cluster

pytestmark = pytest.mark.cluster


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
    deadline = time.monotonic() + 60
    while alice.jobs():
        assert time.monotonic() < deadline
        time.sleep(0.5)
    [row] = json.loads(alice.mt("ls --all --json").stdout)
    assert row["state"] == "ended"
    assert row["cause"]["code"] == "stopped"
    alice.mt("stop tiny")
    alice.assert_nothing_left()


GATEWAY_JOB = """#!/bin/bash
#SBATCH --job-name=gateway --cpus-per-task=1 --mem=1G --time=20
exec srun mt-submit gateway start --foreground --listen tcp --host 0.0.0.0 --port 0
"""


def test_a_gateway_as_a_job_where_login_allows_none(cluster: Cluster) -> None:
    alice = account(cluster, "alice", "gateway-job")
    (alice.here(alice.home) / "gateway.sbatch").write_text(GATEWAY_JOB)
    job = alice.sh("sbatch --parsable gateway.sbatch").stdout.strip()
    alice.mt("up tiny --wait")
    deadline = time.monotonic() + 30
    while alice.mt("chat tiny hello --max-tokens 2", check=False).returncode:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    tunnel = alice.mt("tunnel").stdout
    assert "127.0.0.1:8000:c" in tunnel  # a compute node's port …
    assert "alice@login" in tunnel  # … through login
    alice.sh(f"scancel {job}")
    alice.mt("stop tiny")
    deadline = time.monotonic() + 30
    while alice.jobs():
        assert time.monotonic() < deadline
        time.sleep(0.5)
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
