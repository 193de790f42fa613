"""What the tests of a service share: its account, its load, and what it shows."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.acceptance.site import Account, account
from tests.cluster.cluster import Cluster

LOAD = Path(__file__).with_name("stream_load.py").read_text()
PYTHON = "/opt/modeltainer/bin/python"


def service_account(cluster: Cluster, folder: str, **gateway: Any) -> Account:
    alice = account(cluster, "alice", folder)
    alice.write_config(gateway={"listen": "tcp", "port": 0, **gateway})
    return alice


def until(true: Callable[[], bool], what: str, within: float = 60) -> None:
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.5)


def ready(alice: Account, model: str = "tiny") -> list[dict[str, Any]]:
    return [row for row in alice.ls() if row["state"] == "ready" and row["model"] == model]


def serves(alice: Account, launch: dict[str, Any]) -> bool:
    return launch["launch_id"] in {one["launch_id"] for one in ready(alice, launch["model"])}


def load(
    alice: Account, model: str, seconds: int, long_s: float, workers: int = 3
) -> subprocess.Popen[str]:
    key = alice.mt("key create load").stdout.strip()
    url = json.loads(alice.mt("gateway status --json").stdout)["url"]
    argv = [PYTHON, "-c", LOAD, url, key, model, str(seconds), str(workers), str(long_s)]
    return alice.cluster.popen("login", argv, stderr=subprocess.STDOUT)


def outcome(running: subprocess.Popen[str]) -> dict[str, Any]:
    said, _ = running.communicate(timeout=120)
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found
