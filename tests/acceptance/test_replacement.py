"""What is lost is replaced: jobs, nodes, spare replicas, and reconcilers."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from typing import Any

import pytest

from tests.acceptance.service import load, outcome, ready, serves, until
from tests.acceptance.site import Account
from tests.cluster.cluster import Cluster

pytestmark = pytest.mark.cluster


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
        assert one["events"] > 0, json.dumps(one)
        assert isinstance(one["error"], dict), one
    assert found["requests"] > len(found["bad"]) + 5


def preempt(cluster: Cluster, node: str) -> None:
    """bob takes a node for 5 s: the scavengers' jobs there have to go."""
    asked = f"sbatch --partition=gpu --nodelist={node} --exclusive --wrap='sleep 5'"
    cluster.run("login", ["bash", "-lc", f"cd /tmp && {asked} --output=/dev/null"], user="bob")


def test_preemption_and_a_cut_off_node_end_only_streams_that_had_begun(alice: Account) -> None:
    cluster = alice.cluster
    one_gemma_a_node(alice, "scavenger")
    alice.mt("up gemma --keep --replicas 2 --wait")
    running = load(alice, "gemma", seconds=300, long_s=20)
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
    log = alice.log().read_text()
    assert '"event":"attempt_failed"' in log  # and these were answered by the other replica
    alice.mt("stop gemma")
    until(lambda: alice.jobs() == [], "no jobs")
    cluster.wait_idle()
    alice.assert_nothing_left(within_s=60)


def test_load_brings_a_spare_replica_and_its_preemption_is_no_failure(alice: Account) -> None:
    cluster = alice.cluster
    one_gemma_a_node(alice, "cpu")
    bounds = "--min 1 --max 2 --in-flight 2 --spare-partition scavenger"
    alice.mt(f"up gemma --keep {bounds} --wait")
    [always] = ready(alice, "gemma")
    running = load(alice, "gemma", seconds=300, long_s=5, workers=5)

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
    alice.assert_nothing_left(within_s=60)


def test_cron_keeps_it_up_where_nothing_may_stay_on_login(alice: Account) -> None:
    """The next one begins when the last has gone, as cron does once a minute."""
    cluster = alice.cluster
    alice.mt("up tiny --keep --replicas 2 --wait")
    line = "while true; do mt-submit --config models.yaml reconcile --for 40s; sleep 1; done"
    cron = cluster.popen("login", ["bash", "-c", f"cd {alice.home}; {line}"])
    try:
        first, second = ready(alice)
        alice.sh(f"scancel {first['job_id']}")
        until(lambda: not serves(alice, first) and len(ready(alice)) == 2, "the one cancelled", 90)
        cluster.cut_network(second["node"])
        try:
            lost = {row["launch_id"] for row in alice.ls() if row["node"] == second["node"]}

            def elsewhere() -> bool:
                return sum(one["launch_id"] not in lost for one in ready(alice)) == 2

            until(elsewhere, "replicas on the node that is left", 150)
            kept = {row["launch_id"] for row in ready(alice)} - lost
            time.sleep(60)  # for longer than one process lives: the next takes nobody for spare
            assert {row["launch_id"] for row in ready(alice)} - lost == kept
        finally:
            cluster.restore_network(second["node"])
    finally:
        for what in ("while true", " reconcile --for"):
            cluster.run("login", ["pkill", "-KILL", "-u", "alice", "-f", what], "root", check=False)
        cron.communicate(timeout=20)
    alice.mt("stop --all")
    until(lambda: alice.jobs() == [], "no jobs", 60)
    cluster.wait_idle()
    until(lambda: alice.of_jobs() == [], "the node that is back has ended what it ran", 60)
    alice.assert_nothing_left()


def here(alice: Account, line: str) -> list[str]:
    return ["--config", f"{alice.home}/models.yaml", *line.split()]


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
        # A folder whose submitter was killed before its sbatch is waited for: 90 s.
        until(lambda: len(ready(alice)) == 3 == len(ready(alice, "other")), "all six", 150)
        # A folder whose submitter was killed before its spec has to stand still for 120 s.
        until(lambda: len(alice.launch_folders()) == 6, "nothing but them", 180)
        names = alice.sh("squeue --me --noheader --format=%j").stdout.split()
        assert sorted(names) == sorted(f"mt-{name}" for name in alice.launch_folders())
    finally:
        watcher.terminate()
        watcher.communicate(timeout=20)
    alice.mt("stop --all")
    alice.assert_nothing_left()
