"""Everything that can end is ended, at random, under load; then it must be as it was declared.

``MODELTAINER_CHAOS_S`` (seconds, default 45) is how long, ``MODELTAINER_CHAOS_SEED`` which dice,
``MODELTAINER_CHAOS_REPORT`` a file for what happened.
The replicas' clocks differ by up to 20 minutes all the while, and each copies its files to its
node. The registry is on a file system that is filled to its last byte now and then.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.service import load, outcome, ready, service_account, until
from tests.acceptance.site import Account
from tests.cluster.cluster import Cluster

pytestmark = pytest.mark.cluster

SECONDS = float(os.environ.get("MODELTAINER_CHAOS_S", "45"))
SEED = int(os.environ.get("MODELTAINER_CHAOS_SEED", str(random.randrange(10**6))))
REPORT = os.environ.get("MODELTAINER_CHAOS_REPORT")
PORT = 18080
COPIES = "/tmp/alice-copies"
REGISTRY = "/shared/small/chaos"
WANTED = {"tiny": 2, "other": 1}


@pytest.fixture
def alice(cluster: Cluster) -> Iterator[Account]:
    made = service_account(cluster, "chaos")
    made.config["site"]["registry"] = REGISTRY
    made.config["models"]["other"] = {**made.config["models"]["tiny"], "aliases": []}
    made.config["site"]["node_cache"] = {"folder": COPIES, "when": "always"}
    made.write_config(gateway={"listen": "tcp", "port": PORT})
    made.differ_clocks()
    yield made
    made.mt("stop --all --wait 90", check=False)
    made.mt("gateway stop", check=False)


class Troubles:
    """What may happen; each returns once it has: whether it found something to trouble."""

    def __init__(self, alice: Account, chance: random.Random) -> None:
        self._alice, self._chance = alice, chance
        self._cluster = alice.cluster

    def all(self) -> dict[str, Callable[[], bool]]:
        return {
            "scancel": self._scancel,
            "agent killed": lambda: self._kill("submitit.core._submit"),
            "engine killed": lambda: self._kill("llama-server"),
            "gateway killed": self._gateway,
            "reconciler killed": lambda: self._kill("modeltainer.reconcile", "login"),
            "controller restarted": self._controller,
            "node lost": self._node,
            "node cut off": self._cut,
            "registry closed": self._closed,
            "registry full": self._full,
        }

    def _scancel(self) -> bool:
        jobs = self._alice.jobs()
        if not jobs:
            return False
        return self._alice.sh(f"scancel {self._chance.choice(jobs)}", check=False).returncode == 0

    def _kill(self, what: str, host: str | None = None) -> bool:
        nodes = self._cluster.nodes
        line = f'pid=$(pgrep -u alice -f {what} | shuf -n 1); [ -n "$pid" ] && kill -9 $pid'
        return any(
            self._cluster.run(one, ["bash", "-c", line], user="root", check=False).returncode == 0
            for one in ([host] if host else self._chance.sample(nodes, len(nodes)))
        )

    def _gateway(self) -> bool:
        """Killed, and started again, as a systemd user unit would."""
        address = json.loads(self._alice.mt("gateway status --json", check=False).stdout or "{}")
        if address.get("pid"):
            self._cluster.run("login", ["kill", "-9", str(address["pid"])], "root", check=False)
        time.sleep(1)
        self._alice.mt("gateway start")
        return bool(address.get("pid"))

    def _controller(self) -> bool:
        self._cluster.run("login", ["pkill", "-9", "-x", "slurmctld"], user="root", check=False)
        time.sleep(self._chance.uniform(1, 5))
        self._cluster.run("login", ["slurmctld"], user="root")
        return True

    def _node(self) -> bool:
        node = self._chance.choice(self._cluster.nodes)
        self._cluster.kill_host(node)
        time.sleep(self._chance.uniform(1, 25))
        self._cluster.restart_host(node)
        return True

    def _cut(self) -> bool:
        """For shorter or longer than a lease lasts and Slurm waits."""
        node = self._chance.choice(self._cluster.nodes)
        self._cluster.cut_network(node)
        time.sleep(self._chance.choice([4, 12, 30]))
        self._cluster.restore_network(node)
        return True

    def _closed(self) -> bool:
        folders = [self._alice.registry / name for name in ("endpoints", "reconcile")]
        for folder in folders:
            folder.chmod(0o500)
        time.sleep(self._chance.uniform(2, 12))
        for folder in folders:
            folder.chmod(0o700)
        return True

    def _full(self) -> bool:
        filling = "cat /dev/zero > /shared/small/filling"  # as alice: root would get no more
        done = self._cluster.run("login", ["bash", "-c", filling], user="alice", check=False)
        time.sleep(self._chance.uniform(2, 12))
        self._cluster.run("login", ["rm", "/shared/small/filling"], user="alice")
        return "No space left" in done.stderr


def as_declared(alice: Account) -> bool:
    """Ready replicas, jobs and folders are those that were declared, and no others."""
    number = sum(WANTED.values())
    return (
        all(len(ready(alice, model)) == count for model, count in WANTED.items())
        and len(alice.jobs()) == number
        and len(alice.launch_folders()) == number
    )


def half_made(alice: Account) -> list[str]:
    """Temporary files in the registry."""
    return [str(path) for path in alice.registry.rglob(".*.tmp")]


def scratch(alice: Account, node: str) -> list[str]:
    """Folders of engines on a node."""
    find = ["find", "/tmp", "-maxdepth", "1", "-user", "alice", "-name", "modeltainer-engine.*"]
    return alice.cluster.run(node, find, user="root").stdout.split()


@pytest.mark.timeout(4 * SECONDS + 900)
def test_it_converges_to_what_was_declared(alice: Account) -> None:
    chance = random.Random(SEED)
    alice.mt("gateway start")
    alice.mt("up tiny --keep --replicas 2 --wait")
    alice.mt("up other --keep --wait")
    running = load(alice, "tiny", seconds=int(SECONDS), long_s=0.01)
    troubles = Troubles(alice, chance).all()
    happened: Counter[str] = Counter()
    end = time.monotonic() + SECONDS
    left: list[str] = []
    while time.monotonic() < end:
        if not left:  # each comes once before any comes twice
            left = list(troubles)
            chance.shuffle(left)
        name = left.pop()
        print(f"{time.strftime('%X')} {name}", flush=True)
        happened[name if troubles[name]() else f"{name}: found nothing"] += 1
        time.sleep(chance.uniform(1, 8))
    calm = time.monotonic()
    # What has died again and again is tried ever more rarely: up to half an hour apart.
    until(lambda: as_declared(alice), f"all as declared (seed {SEED})", 400 + 2 * SECONDS)
    took = time.monotonic() - calm
    found = outcome(running)
    print(f"seed {SEED}: {dict(happened)}; as declared again after {took:.0f} s of calm;")
    errors = Counter(str(one.get("status")) for one in found["bad"])
    print(f"{found['requests']} requests, {len(found['bad'])} not answered, by status: {errors}")
    if REPORT:
        happenings = {"seed": SEED, "troubles": happened, "calm_s": round(took)}
        answers = {"requests": found["requests"], "bad": len(found["bad"]), "status": errors}
        Path(REPORT).write_text(json.dumps(happenings | answers, indent=2) + "\n")
    # Whoever was not served was told so: no stream ends as if it were whole.
    assert [one for one in found["bad"] if not one.get("error")] == []
    assert found["requests"] > len(found["bad"])
    assert alice.mt("chat tiny hello --max-tokens 2").stdout
    until(lambda: half_made(alice) == [], "no half-made file", 200)
    alice.mt("stop --all --wait 90")
    alice.assert_nothing_left(within_s=60)
    assert len(alice.clocks()) >= 2
    alice.cluster.resume_nodes()
    for node in alice.cluster.nodes:
        # What killed agents have left goes with the next one there.
        alice.mt(f"up tiny --nodelist {node} --wait")
        assert len(scratch(alice, node)) == 1
        alice.mt("stop tiny")
        assert scratch(alice, node) == []
        # A node that has just come back has no such folder.
        listed = alice.cluster.run(node, ["find", COPIES, "-name", ".*"], check=False)
        assert listed.stdout == "", "a copy that is not whole was left"
