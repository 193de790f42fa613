"""From `mt-submit up` on the login node to a token streamed on a laptop, and back to nothing."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.site import Account, account
from tests.cluster.cluster import Cluster

pytestmark = pytest.mark.cluster

CLIENT = Path(__file__).with_name("laptop_client.py").read_text()


@pytest.fixture(params=["cluster", "cluster_24_11", "cluster_22_05"])
def any_cluster(request: pytest.FixtureRequest) -> Cluster:
    found: Cluster = request.getfixturevalue(request.param)
    return found


def tunnel_command(alice: Account) -> list[str]:
    """The ssh line that `mt-submit tunnel` prints."""
    lines = alice.mt("tunnel --local-port 8123").stdout.splitlines()
    [ssh] = [line for line in lines if line.startswith("ssh ")]
    return shlex.split(ssh)


def test_up_tunnel_stream_stop(any_cluster: Cluster) -> None:
    alice = account(any_cluster, "alice", "main-path")
    up = alice.mt("up gemma --wait")
    assert "ready" in up.stderr
    [row] = alice.ls()
    assert row["state"] == "ready"
    assert row["node"] in any_cluster.nodes
    assert row["loading_s"] > 0

    alice.mt("gateway start")
    key = alice.mt("key create laptop").stdout.strip()
    tunnel = any_cluster.popen("laptop", tunnel_command(alice))
    try:
        done = any_cluster.run(
            "laptop",
            ["/opt/modeltainer/bin/python", "-c", CLIENT, "gemma", "The capital of France is"],
            env={"OPENAI_BASE_URL": "http://127.0.0.1:8123/v1", "OPENAI_API_KEY": key},
        )
    finally:
        tunnel.terminate()
        tunnel.wait(10)
    answer = json.loads(done.stdout)
    assert "France" in answer["text"]
    assert answer["chunks"] >= 10
    assert answer["spread_s"] > 0.05  # token by token, not in one piece
    assert answer["finish"] == "length"
    assert answer["models"].count("gemma") == 1

    assert bob_is_kept_out(any_cluster, row["url"], alice)

    alice.mt("stop gemma")
    alice.assert_nothing_left()
    gone = alice.mt("chat gemma hello", check=False)
    assert gone.returncode != 0
    assert "gemma" in gone.stderr
    alice.mt("gateway stop")
    assert alice.mt("gateway status", check=False).returncode == 8


def bob_is_kept_out(cluster: Cluster, url: str, alice: Account) -> bool:
    """bob, on the same node, can neither use the engine nor read what would let him."""
    node = url.split("//")[1].split(":", maxsplit=1)[0]

    def bob(line: str, given: str = "") -> subprocess.CompletedProcess[str]:
        return cluster.run(node, ["bash", "-c", line], user="bob", check=False, input=given)

    body = """-H 'Content-Type: application/json' -d '{"prompt":"x","max_tokens":1}'"""
    refused = bob(f"curl -s -o /dev/null -w '%{{http_code}}' {body} {url}/v1/completions")
    assert refused.stdout == "401"
    assert bob(f"find {alice.home}/registry").stdout == ""
    assert "Permission denied" in bob(f"ls {alice.home}").stderr
    [secret] = list((alice.registry / "launches").glob("*/secret.json"))
    private = json.loads(secret.read_text())
    # Neither in anybody's command line nor in an environment that bob can read.
    search = "grep -lsFf - /proc/[0-9]*/cmdline /proc/[0-9]*/environ"
    assert bob(search, f"{private['key']}\n{private['nonce']}\n").stdout == ""
    assert bob(search, "llama-server\n").stdout  # it does find what is there
    sockets = cluster.run("login", ["bash", "-c", "ls /tmp/modeltainer-2001"], "bob", check=False)
    assert sockets.returncode != 0
    return True
