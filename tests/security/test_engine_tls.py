"""``site.engine_tls``: who reads along between gateway and engine, or takes a dead engine's port,
sees no prompt and no key."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.service import until
from tests.acceptance.site import Account, account
from tests.cluster.cluster import Cluster

pytestmark = pytest.mark.cluster

HERE = Path(__file__).parent
PYTHON = "/opt/modeltainer/bin/python"
PROMPT = "zanzibar"


@dataclass
class Scene:
    """alice serves two replicas over TLS, one on each node, behind her gateway."""

    cluster: Cluster
    alice: Account
    socket: str
    key: str

    def ask(self) -> str:
        """One request through alice's gateway; its status."""
        body = json.dumps({"model": "tiny", "prompt": PROMPT, "max_tokens": 4})
        return self.alice.sh(
            f"curl -s -o /dev/null -w '%{{http_code}}' --unix-socket {self.socket} "
            f"-H 'Authorization: Bearer {self.key}' -d '{body}' http://x/v1/completions"
        ).stdout

    def row(self, node: str) -> dict[str, Any]:
        [row] = [one for one in self.alice.ls() if one["node"] == node]
        return row

    def engine_key(self, node: str) -> str:
        secret = self.alice.registry / "launches" / self.row(node)["launch_id"] / "secret.json"
        key: str = json.loads(secret.read_text())["key"]
        return key

    def kill_launch(self, node: str) -> None:
        """Agent and engine at once, so that the endpoint's lease is still good."""
        self.cluster.run(node, ["pkill", "-KILL", "-u", self.alice.user], "root")


@pytest.fixture(params=["cluster", "cluster_22_05"], ids=["apptainer", "native"])
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    cluster: Cluster = request.getfixturevalue(request.param)
    alice = account(cluster, "alice", "engine-tls", engine_tls=True)
    for node in ("c1", "c2"):
        alice.mt(f"up tiny --nodelist {node} --wait", timeout=180)
    alice.mt("gateway start")
    key = alice.mt("key create laptop").stdout.strip()
    socket = json.loads(alice.mt("gateway status --json").stdout)["socket"]
    yield Scene(cluster, alice, socket, key)
    alice.mt("gateway stop")
    alice.mt("stop --all")
    alice.assert_nothing_left()


@contextmanager
def running(
    cluster: Cluster, host: str, program: str, *words: str, user: str, given: str = ""
) -> Iterator[subprocess.Popen[str]]:
    """One of the programs beside this file, from its source."""
    source = (HERE / program).read_text()
    argv = [PYTHON, "-c", source, *words]
    process = cluster.popen(host, argv, user, stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(given)
    process.stdin.close()
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_who_reads_along_sees_neither_prompt_nor_key(scene: Scene) -> None:
    keys = [scene.engine_key(node) for node in ("c1", "c2")]
    words = "\n".join(["in-the-open", PROMPT, *keys, ""])
    with running(scene.cluster, "login", "wiretap.py", user="root", given=words) as tap:
        assert line(tap) == "listening"
        plain = scene.row("c1")["url"].replace("https://", "http://")
        scene.alice.sh(f"curl -s {plain}/in-the-open", check=False)
        assert [scene.ask() for _ in range(4)] == ["200"] * 4
        tap.kill()
        assert json.loads(line(tap)) == ["in-the-open"]


def test_who_takes_a_dead_engines_port_is_given_nothing(scene: Scene) -> None:
    assert scene.ask() == "200"
    address = scene.row("c1")["url"].removeprefix("https://")
    host, port = address.split(":")
    with running(scene.cluster, host, "impostor.py", port, user="bob") as impostor:
        scene.kill_launch("c1")
        assert line(impostor) == "bound"
        assert [scene.ask() for _ in range(4)] == ["200"] * 4
        scene.cluster.run("login", ["curl", "-sk", f"https://{address}/bob-himself"], "bob")
        assert line(impostor).startswith("heard /bob-himself")
        log = scene.alice.log()

        def failed() -> list[dict[str, str]]:
            events = [json.loads(said) for said in log.read_text().splitlines()]
            return [one for one in events if one["event"] == "attempt_failed"]

        until(lambda: failed() != [], "it is in the log")
        assert failed()[-1]["error"] == "upstream_certificate"
        assert "the certificate there is not this launch's" in failed()[-1]["message"]


def test_bench_and_chat_straight_at_an_engine(scene: Scene) -> None:
    direct = f"--url {scene.row('c1')['url']} --key {scene.engine_key('c1')}"
    assert scene.alice.mt(f"chat tiny 'Hello' --max-tokens 4 {direct}").returncode == 0
    scene.alice.mt(
        f"bench run tiny {direct} --concurrency 2 --requests 4 --prompt-tokens 16 "
        "--output-tokens 4 --warmup 0 --no-calibration --output bench-tls"
    )
    summary = json.loads(
        (scene.alice.here(scene.alice.home) / "bench-tls/summary.json").read_text()
    )
    assert summary["points"][0]["concurrency"] == 2
