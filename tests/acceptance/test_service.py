"""What is declared stays up: across walltimes, lost jobs and nodes, and its reconciler's death."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.site import Account, account
from tests.cluster.cluster import Cluster

pytestmark = pytest.mark.cluster

LOAD = Path(__file__).with_name("stream_load.py").read_text()
PYTHON = "/opt/modeltainer/bin/python"


def service_account(cluster: Cluster, folder: str, **gateway: Any) -> Account:
    alice = account(cluster, "alice", folder)
    alice.write_config(gateway={"listen": "tcp", "port": 0, **gateway})
    return alice


@pytest.fixture
def alice(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Account]:
    """An account with a gateway, and nothing left afterwards."""
    found = service_account(cluster, request.node.name.replace("_", "-")[:40])
    yield found
    found.mt("stop --all --wait 90", check=False)
    found.mt("gateway stop", check=False)


def until(true: Callable[[], bool], what: str, within: float = 60) -> None:
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.5)


def ready(alice: Account, model: str = "tiny") -> list[dict[str, Any]]:
    return [row for row in alice.ls() if row["state"] == "ready" and row["model"] == model]


def serves(alice: Account, launch: dict[str, Any]) -> bool:
    return launch["launch_id"] in {one["launch_id"] for one in ready(alice, launch["model"])}


def one_gemma_a_node(alice: Account, partition: str) -> None:
    """Have gemma take more than half of a node's 16 CPUs, and start a gateway."""
    gemma = alice.config["models"]["gemma"]
    gemma["resources"] |= {"cpus": 9, "partition": partition}
    gemma |= {"context": 4096, "engine_args": {"parallel": 4, "threads": 2}}
    alice.write_config()
    alice.mt("gateway start")


def assert_only_begun_streams_ended(found: dict[str, Any]) -> None:
    """And those with an error event of the stream's."""
    for one in found["bad"]:
        assert one["events"] > 0, one
        assert isinstance(one["error"], dict), one
    assert found["requests"] > len(found["bad"]) + 20


def preempt(cluster: Cluster, node: str) -> None:
    """bob takes a node for 5 s: the scavengers' jobs there have to go."""
    asked = f"sbatch --partition=gpu --nodelist={node} --exclusive --wrap='sleep 5'"
    cluster.run("login", ["bash", "-lc", f"cd /tmp && {asked} --output=/dev/null"], user="bob")


def load(
    alice: Account, model: str, seconds: int, alone_s: float, workers: int = 3
) -> subprocess.Popen[str]:
    key = alice.mt("key create load").stdout.strip()
    url = json.loads(alice.mt("gateway status --json").stdout)["url"]
    argv = [PYTHON, "-c", LOAD, url, key, model, str(seconds), str(workers), str(alone_s)]
    return alice.cluster.popen("login", argv, stderr=subprocess.STDOUT)


def outcome(running: subprocess.Popen[str]) -> dict[str, Any]:
    said, _ = running.communicate(timeout=120)
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


def test_planned_handovers_fail_and_cut_no_stream(alice: Account) -> None:
    """Though the clocks of the replicas' nodes differ by 20 minutes."""
    gemma = alice.config["models"]["gemma"]
    gemma["resources"]["walltime"] = "1"  # minute: a handover every quarter of one
    gemma |= {"drain": "20s", "context": 8192, "engine_args": {"parallel": 4}}
    alice.differ_clocks()
    alice.mt("gateway start")
    alice.mt("up gemma --keep --wait")
    running = load(alice, "gemma", seconds=200, alone_s=1.5)
    log = alice.registry / "gateway" / "reconcile.log"
    until(
        lambda: log.read_text().count("another replica serves in its place") >= 3,
        "three handovers",
        within=180,
    )
    os.kill(alice.cluster.command_pid(running), signal.SIGTERM)
    found = outcome(running)
    assert found["bad"] == []
    assert found["requests"] >= 10
    assert found["long"] >= 3
    [kept] = json.loads(alice.mt("ls --deployments --json").stdout)
    assert kept["failures"] == 0
    assert kept["load_s"] > 0
    assert alice.clocks() == {-600.0, 0.0, 600.0}
    stopped = alice.mt("stop gemma")
    assert "kept up no more" in stopped.stdout
    alice.assert_nothing_left()


def test_preemption_and_a_cut_off_node_end_only_streams_that_had_begun(alice: Account) -> None:
    cluster = alice.cluster
    one_gemma_a_node(alice, "scavenger")
    alice.mt("up gemma --keep --replicas 2 --wait")
    running = load(alice, "gemma", seconds=300, alone_s=1.5)
    first, second = ready(alice, "gemma")

    time.sleep(5)
    preempt(cluster, first["node"])
    until(lambda: not serves(alice, first), "one is preempted")
    until(lambda: len(ready(alice, "gemma")) == 2, "its successor, when the node is free again", 90)
    time.sleep(5)
    cluster.cut_network(second["node"])
    try:
        until(lambda: not serves(alice, second), "the silent one serves no more")
        time.sleep(20)  # for longer than a dead connection is waited for
    finally:
        cluster.restore_network(second["node"])
    until(lambda: len(ready(alice, "gemma")) == 2, "two again", 120)
    os.kill(alice.cluster.command_pid(running), signal.SIGTERM)
    found = outcome(running)
    assert_only_begun_streams_ended(found)
    log = (alice.registry / "gateway" / "gateway.log").read_text()
    assert '"event":"attempt_failed"' in log  # and these were answered by the other replica
    alice.mt("stop gemma")
    until(lambda: alice.jobs() == [], "no jobs")
    cluster.wait_idle()
    alice.assert_nothing_left()


def test_load_brings_a_spare_replica_and_its_preemption_is_no_failure(alice: Account) -> None:
    cluster = alice.cluster
    one_gemma_a_node(alice, "cpu")
    bounds = "--min 1 --max 2 --in-flight 2 --spare-partition scavenger"
    alice.mt(f"up gemma --keep {bounds} --wait")
    [always] = ready(alice, "gemma")
    running = load(alice, "gemma", seconds=300, alone_s=1.5, workers=5)

    def spare() -> list[dict[str, Any]]:
        return [row for row in ready(alice, "gemma") if row["partition"] == "scavenger"]

    until(lambda: bool(spare()), "more requests than one should carry bring a second replica", 90)
    [second] = spare()
    time.sleep(5)
    preempt(cluster, second["node"])
    until(lambda: not serves(alice, second), "it is preempted")
    time.sleep(5)
    os.kill(alice.cluster.command_pid(running), signal.SIGTERM)
    found = outcome(running)
    assert_only_begun_streams_ended(found)
    assert serves(alice, always)
    [kept] = json.loads(alice.mt("ls --deployments --json").stdout)
    assert kept["failures"] == 0
    alice.mt("stop gemma")
    until(lambda: alice.jobs() == [], "no jobs")
    cluster.wait_idle()
    alice.assert_nothing_left()


def test_lost_jobs_and_a_lost_node_are_replaced(alice: Account) -> None:
    cluster = alice.cluster
    alice.mt("gateway start")
    alice.mt("up tiny --keep --replicas 2 --wait")
    first = ready(alice)[0]
    # Somebody cancels a job.
    alice.sh(f"scancel {first['job_id']}")
    until(lambda: not serves(alice, first), "gone")
    until(lambda: len(ready(alice)) == 2, "a replica for the one that was cancelled")
    # A node loses its power.
    node = ready(alice)[0]["node"]
    lost = {one["launch_id"] for one in ready(alice) if one["node"] == node}
    [other] = [name for name in cluster.nodes if name != node]
    cluster.kill_host(node)
    try:

        def replaced() -> bool:
            up = [one for one in ready(alice) if one["launch_id"] not in lost]
            return len(up) == 2 and {one["node"] for one in up} == {other}

        until(replaced, "replicas on the other node", 90)
    finally:
        cluster.restart_host(node)
    alice.mt("stop tiny")
    until(lambda: alice.jobs() == [], "no jobs", 60)
    cluster.wait_idle()
    alice.assert_nothing_left()


def test_a_reconciler_killed_again_and_again_leaves_no_orphan_and_no_double(
    alice: Account,
) -> None:
    alice.mt("up tiny --keep --min 0 --max 3 --dry-run")
    declare = "up tiny other --keep --replicas 3 --json"
    alice.config["models"]["other"] = {**alice.config["models"]["tiny"], "aliases": []}
    alice.write_config()
    chance = random.Random(5)
    for _ in range(8):
        # Killed while it looks, submits, or waits for sbatch's answer.
        running = alice.cluster.popen("login", ["mt-submit", *here(alice, declare)])
        time.sleep(chance.uniform(0.2, 1.2))
        if running.poll() is None:
            os.kill(alice.cluster.command_pid(running), signal.SIGKILL)
        running.communicate(timeout=30)
        assert len(alice.jobs()) <= 6
    watcher = alice.cluster.popen("login", ["mt-submit", *here(alice, "reconcile --watch")])
    try:
        until(lambda: len(ready(alice)) == 3 == len(ready(alice, "other")), "all six", 60)
        until(lambda: len(alice.launch_folders()) == 6, "nothing but them", 60)
        names = alice.sh("squeue --me --noheader --format=%j").stdout.split()
        assert sorted(names) == sorted(f"mt-{name}" for name in alice.launch_folders())
    finally:
        watcher.terminate()
        watcher.communicate(timeout=20)
    alice.mt("stop --all")
    alice.assert_nothing_left()


def here(alice: Account, line: str) -> list[str]:
    return ["--config", f"{alice.home}/models.yaml", *line.split()]


def test_requests_for_a_cold_model_start_one_job_and_wait_for_it(alice: Account) -> None:
    alice.write_config(
        gateway={
            "listen": "tcp",
            "port": 0,
            "cold_start": {"enabled": True, "wait": 60, "idle_release": 10},
        }
    )
    alice.mt("gateway start")
    running = load(alice, "tiny", seconds=1, alone_s=0.01)
    found = outcome(running)
    assert found["bad"] == []
    assert found["requests"] >= 3
    assert len(alice.jobs()) == 1
    until(lambda: alice.jobs() == [], "the idle model is let go", 60)
    assert "0-1" in alice.mt("ls").stdout
    alice.mt("stop tiny")
    alice.assert_nothing_left()


def test_what_cannot_start_is_tried_ever_more_rarely_and_said(alice: Account) -> None:
    alice.config["models"]["tiny"]["engine_args"] = {"no-such-option": 1}
    alice.write_config()
    alice.mt("gateway start")
    alice.mt("up tiny --keep")
    until(lambda: "starts in a row failed" in alice.mt("ls").stdout, "the cause in ls")
    assert len(alice.launch_folders()) <= 2
    assert "next try in" in alice.mt("ls").stdout
    alice.config["models"]["tiny"].pop("engine_args")
    alice.write_config()
    alice.mt("up tiny --keep --wait")  # mended and declared again: no waiting
    assert len(ready(alice)) == 1
    refused = alice.mt("up gemma --keep --time 300:00:00", check=False)
    assert refused.returncode != 0
    assert json.loads(alice.mt("ls --deployments --json").stdout)[0]["model"] == "tiny"
    alice.mt("stop --all")
    alice.assert_nothing_left()
