"""The other commands, as a user on the cluster types them."""

from __future__ import annotations

import json
import time

import pytest

from tests.acceptance.site import Account, account
from tests.cluster.cluster import Cluster

pytestmark = pytest.mark.cluster


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


def test_a_gateway_as_a_job_where_login_allows_none(cluster: Cluster) -> None:
    alice = account(cluster, "alice", "gateway-job")
    alice.mt("gateway render --time 20 > gateway.sbatch")
    job = alice.sh("sbatch --parsable gateway.sbatch").stdout.strip()
    alice.mt("up tiny --wait")
    alice.until_answered("tiny")
    tunnel = alice.mt("tunnel").stdout
    assert "127.0.0.1:8000:c" in tunnel  # a compute node's port …
    assert "alice@login" in tunnel  # … through login
    alice.sh(f"scancel {job}")
    alice.mt("stop tiny")
    until_no_jobs(alice)
    alice.assert_nothing_left()


CHAIN = "/shared/home/alice/gateway-chain"
UNWILLING = f"""\
#!/bin/bash
if mkdir {CHAIN}/refused 2> /dev/null; then
  echo "sbatch: error: Unable to contact slurm controller" >&2
  exit 1
fi
exec "$(type -ap sbatch | sed -n 2p)" "$@"
"""
"""Slurm's sbatch, but for the first time."""


def test_a_gateway_that_follows_itself_keeps_a_model_up(cluster: Cluster) -> None:
    alice = account(cluster, "alice", "gateway-chain", prelude=[f"PATH={CHAIN}/bin:$PATH"])
    alice.sh(f"mkdir bin && cat > bin/sbatch <<'END'\n{UNWILLING}END\nchmod +x bin/sbatch")
    alice.mt("gateway render --chain --time 20 > gateway.sbatch")
    first = alice.sh("sbatch --parsable gateway.sbatch").stdout.strip()
    alice.mt("up tiny --keep --wait")
    alice.until_answered("tiny")
    deadline = time.monotonic() + 60
    while "mt-gateway PENDING" not in alice.sh("squeue --me -h -o '%j %T'").stdout:
        assert time.monotonic() < deadline  # Slurm would not take the next one at first
        time.sleep(0.5)
    assert alice.sh("test -d refused", check=False).returncode == 0
    alice.sh(f"scancel {first}")
    deadline = time.monotonic() + 60
    queue = f"{first} RUNNING"
    while first in queue or "mt-gateway RUNNING" not in queue:
        assert time.monotonic() < deadline
        time.sleep(0.5)
        queue = alice.sh("squeue --me -h -o '%A %j %T'").stdout
    alice.until_answered("tiny")
    alice.sh("scancel --me --name=mt-gateway")
    alice.mt("stop --all")
    until_no_jobs(alice)
    alice.assert_nothing_left()


def test_an_agent_killed_outright_takes_its_engine_along(cluster: Cluster) -> None:
    alice = account(cluster, "alice", "killed-agent")
    alice.mt("up tiny --wait")
    [row] = alice.ls()
    kill = "pgrep -u alice -x python -a | awk '/submitit.core._submit/ {print $1}' | xargs kill -9"
    alice.cluster.run(row["node"], ["bash", "-c", kill], user="root")
    until_no_jobs(alice)
    alice.mt("stop --all")
    alice.assert_nothing_left()


def test_a_chain_whose_gateway_cannot_start_waits_before_it_tries_again(cluster: Cluster) -> None:
    alice = account(cluster, "alice", "broken-chain")
    alice.mt("gateway render --chain --time 20 > gateway.sbatch")
    file = alice.here(alice.home) / "models.yaml"
    file.write_text(file.read_text().replace("context: 256", "context: many"))
    alice.sh("sbatch --parsable gateway.sbatch")
    deadline = time.monotonic() + 60
    queue: list[str] = []
    while not (len(queue) == 1 and queue[0].endswith("PENDING BeginTime")):
        assert time.monotonic() < deadline, queue
        time.sleep(0.5)
        shown = alice.sh("squeue --me -h -o '%A %S %T %r'", check=False).stdout
        queue = shown.strip().splitlines()
    [log] = alice.here(alice.home).glob("mt-gateway.*.log")
    assert "tries again in 10 minutes" in log.read_text()
    assert "not 'many'" in log.read_text()
    alice.sh("scancel --me --name=mt-gateway")
    until_no_jobs(alice)


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
