"""Scratch folders go with their agents, or with the next one's start."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from modeltainer.jobs.scratch import PREFIX, Scratch, sweep

HOLD = (
    "import sys, time; from pathlib import Path; from modeltainer.jobs.scratch import Scratch\n"
    "made = Scratch(Path(sys.argv[1])); (made.path / 'endpoint.key').write_text('secret')\n"
    "print(made.path, flush=True); time.sleep(60)"
)


def test_it_goes_with_its_agent(tmp_path: Path) -> None:
    made = Scratch(tmp_path)
    (made.path / "f").touch()
    assert made.path.stat().st_mode & 0o777 == 0o700
    made.close()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_agent_left_goes_with_the_next_one_and_nothing_else(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", HOLD, str(tmp_path)]
    agents = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = []
    for one in agents:
        assert one.stdout is not None
        folders.append(Path(one.stdout.readline().strip()))
    killed, lives = agents
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    (tmp_path / "modeltainer-copies").mkdir()
    (tmp_path / f"{PREFIX}file").touch()
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path / "modeltainer-copies")
    made = Scratch(tmp_path)
    assert not folders[0].exists()
    assert (folders[1] / "endpoint.key").exists()
    names = {path.name for path in tmp_path.iterdir()}
    kept = {"modeltainer-copies", f"{PREFIX}file", f"{PREFIX}link"}
    assert names == kept | {folders[1].name, made.path.name}
    made.close()
    lives.kill()
    lives.communicate()
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept
