"""An engine ends with its agent, and the agent learns how it has ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modeltainer.jobs.process import EngineProcess

AGENT = (
    "import os, sys, time; from pathlib import Path; from modeltainer.jobs.process import *\n"
    "made = EngineProcess(['sh', '-c', sys.argv[2]], dict(os.environ), Path(sys.argv[1]))\n"
    "print(made.pid, flush=True); time.sleep(60)"
)


def ended(process: EngineProcess) -> int:
    deadline = time.monotonic() + 20
    while (code := process.exit_code()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return code


def group(number: int) -> list[str]:
    """Ids of the processes of a group."""
    listed = subprocess.run(
        ["pgrep", "-g", str(number)], check=False, stdout=subprocess.PIPE, text=True
    )
    return listed.stdout.split()


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", -9), ("kill -15 $$", -15)]
)
def test_the_agent_sees_how_the_engine_ended(tmp_path: Path, script: str, code: int) -> None:
    engine = EngineProcess(["sh", "-c", script], os.environ, tmp_path / "log")
    assert ended(engine) == code


def test_a_command_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        EngineProcess(["no-such-engine"], os.environ, tmp_path / "log")


def test_a_stop_reaches_the_engine_and_waits_for_it(tmp_path: Path) -> None:
    script = "trap 'sleep 0.5; echo drained; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    engine = EngineProcess(["sh", "-c", script], os.environ, tmp_path / "log")
    while "up" not in engine.tail():
        time.sleep(0.02)
    engine.terminate(10)
    assert engine.exit_code() == 0
    assert engine.tail().endswith("drained\n")
    assert group(engine.pid) == []


@pytest.mark.parametrize(
    "script",
    [
        "sleep 60",
        "trap '' TERM; while :; do sleep 0.1; done",  # has to be killed
    ],
)
def test_an_agent_that_is_killed_outright_takes_it_along(tmp_path: Path, script: str) -> None:
    argv = [sys.executable, "-c", AGENT, str(tmp_path / "log"), script]
    agent = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert agent.stdout is not None
    leader = int(agent.stdout.readline())
    deadline = time.monotonic() + 20
    while len(group(leader)) < 2:  # the tether, and what it runs
        assert time.monotonic() < deadline
        time.sleep(0.02)
    agent.send_signal(signal.SIGKILL)
    agent.communicate()
    while group(leader):
        assert time.monotonic() < deadline
        time.sleep(0.05)
