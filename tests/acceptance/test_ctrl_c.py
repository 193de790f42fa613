"""Ctrl-C at each stage: nothing half-started, and a word on what still runs."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable

import pytest

from tests.acceptance.site import Account, account
from tests.cluster.cluster import Cluster

pytestmark = pytest.mark.cluster

INTERRUPTED = {130, -signal.SIGINT}
"""The latter where Ctrl-C comes in Python's first or last moments; a shell says 130 of both."""


@pytest.fixture
def alice(cluster: Cluster) -> Account:
    return account(cluster, "alice", "ctrl-c")


def start(alice: Account, line: str) -> subprocess.Popen[str]:
    return alice.cluster.popen(
        "login",
        ["bash", "-lc", f"cd {alice.home} && exec mt-submit {line}"],
        user=alice.user,
    )


def interrupt(alice: Account, running: subprocess.Popen[str]) -> str:
    os.kill(alice.cluster.command_pid(running), signal.SIGINT)
    output, _ = running.communicate(timeout=60)
    assert running.returncode in INTERRUPTED, output
    assert "Traceback" not in output
    return output


def wait_until(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("after_s", [0.2, 0.5, 0.8, 1.1])
def test_while_submitting(alice: Account, after_s: float) -> None:
    running = start(alice, "up tiny gemma --replicas 3")
    time.sleep(after_s)
    if running.poll() is None:
        os.kill(alice.cluster.command_pid(running), signal.SIGINT)
    output, _ = running.communicate(timeout=60)
    assert "Traceback" not in output
    assert running.returncode in {0, *INTERRUPTED}, output
    # It was done before the signal came, and has told so, in one way or the other.
    if "submitted" in output or "still there" in output:
        alice.mt("stop --all")
    wait_until(lambda: alice.jobs() == [])
    alice.assert_nothing_left()


def test_while_queued(alice: Account) -> None:
    alice.config["models"]["tiny"]["resources"]["nodelist"] = "c1"
    alice.write_config()
    alice.cluster.run(
        "login", ["scontrol", "update", "nodename=c1", "state=drain", "reason=test"], user="root"
    )
    try:
        running = start(alice, "up tiny --wait")
        wait_until(lambda: bool(alice.jobs()))
        time.sleep(2)
        output = interrupt(alice, running)
        [row] = alice.ls()
        assert row["state"] == "queued"
        assert row["launch_id"] in output
        assert "mt-submit stop" in output
        alice.mt("stop tiny")
        alice.assert_nothing_left()
    finally:
        alice.cluster.run(
            "login", ["scontrol", "update", "nodename=c1", "state=resume"], user="root"
        )


def test_while_loading_and_when_ready(alice: Account) -> None:
    running = start(alice, "up gemma --wait")
    wait_until(lambda: bool(alice.endpoint_files()))
    output = interrupt(alice, running)
    assert "mt-submit stop" in output
    wait_until(lambda: alice.ls()[0]["state"] == "ready")  # it went on, as was said
    alice.mt("stop gemma")
    alice.assert_nothing_left()
