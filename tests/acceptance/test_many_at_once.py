"""Many launches at the same moment: MIG types, two nodes, two jobs a node, no clash of ports."""

from __future__ import annotations

import json
from collections import Counter
from urllib.parse import urlsplit

import pytest

from tests.acceptance.service import until
from tests.acceptance.site import account
from tests.cluster.cluster import Cluster

pytestmark = pytest.mark.cluster

ROUNDS = 10


def test_two_models_two_replicas_on_mig_slices_again_and_again(cluster: Cluster) -> None:
    # A narrow range of ports: a race would show.
    alice = account(cluster, "alice", "many", ports="21000-21005")
    models = alice.config["models"]
    models["other"] = {**models["tiny"], "aliases": []}
    for model in models.values():
        model["resources"] = {**model["resources"], "gpus": 1, "mig": "1g.10gb"}
        model["resources"] |= {"partition": "gpu"}
    alice.write_config()
    shared_node = 0
    for _ in range(ROUNDS):
        done = alice.mt("up tiny other --replicas 2 --wait --json", timeout=170)
        rows = json.loads(done.stdout)
        assert [row["state"] for row in rows] == ["ready"] * 4
        assert {row["gres"] for row in rows} == {"gpu:a100_1g.10gb:1"}
        per_node = Counter(row["node"] for row in rows)
        urls = [urlsplit(row["url"]) for row in rows]
        assert len({(url.hostname, url.port) for url in urls}) == 4
        assert all(21000 <= (url.port or 0) <= 21005 for url in urls)
        shared_node += any(count > 1 for count in per_node.values())
        alice.mt("stop --all")
    assert shared_node == ROUNDS  # four jobs on two nodes: each round had two on one
    alice.assert_nothing_left()


def test_replicas_land_on_both_nodes_and_share_the_load(cluster: Cluster) -> None:
    alice = account(cluster, "alice", "spread")
    done = alice.mt("up tiny --nodelist c1 --json --wait")
    done = alice.mt("up tiny --nodelist c2 --json --wait")
    assert done.returncode == 0
    assert {row["node"] for row in alice.ls()} == {"c1", "c2"}
    alice.mt("gateway start")
    for _ in range(8):
        alice.mt("chat tiny hello --max-tokens 2")

    def served() -> Counter[str]:
        log = alice.log().read_text()
        return Counter(
            record["endpoint"]
            for record in map(json.loads, log.splitlines())
            if record.get("path") == "/v1/chat/completions" and record.get("status") == 200
        )

    until(lambda: served().total() == 8, "all are in the log")
    assert sorted(served().values()) == [4, 4]
    alice.mt("stop --all")
    alice.mt("gateway stop")
    alice.assert_nothing_left()
