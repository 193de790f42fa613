"""The lock across nodes: one holder at a time, and a dead one does not hold for ever."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from modeltainer.apptainer.lock import shared_lock

HOLD = """
import sys, time
from pathlib import Path
from modeltainer.apptainer.lock import shared_lock
lock, journal = Path(sys.argv[1]), Path(sys.argv[2])
for turn in range(5):
    with shared_lock(lock, renew_s=0.05, stale_s=5):
        with journal.open("a") as file:
            file.write("in\\n")
        time.sleep(0.01)
        with journal.open("a") as file:
            file.write("out\\n")
"""


def test_one_at_a_time(tmp_path: Path) -> None:
    lock, journal = tmp_path / "x.lock", tmp_path / "journal"
    holders = [
        subprocess.Popen([sys.executable, "-c", HOLD, str(lock), str(journal)]) for _ in range(6)
    ]
    assert [holder.wait(60) for holder in holders] == [0] * 6
    assert journal.read_text() == "in\nout\n" * 30
    assert list(tmp_path.iterdir()) == [journal]


def test_a_holder_that_was_killed_is_taken_over(tmp_path: Path) -> None:
    lock = tmp_path / "x.lock"
    code = (
        "import sys, time; from pathlib import Path;"
        "from modeltainer.apptainer.lock import shared_lock\n"
        "with shared_lock(Path(sys.argv[1])):\n print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout
    holder.stdout.readline()
    holder.kill()
    holder.communicate()
    assert lock.exists()
    with shared_lock(lock, stale_s=60) as ours:  # not watched for long: it died on this host
        assert ours()
    assert not lock.exists()


def test_a_holder_on_another_host_that_stands_still_is_taken_over(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text("node7 4711 other-boot/pid:[1] 0011223344556677\n3\n")
    waited: list[str] = []
    with shared_lock(lock, stale_s=0.5, on_wait=waited.append) as ours:
        assert ours()
        lock.write_text("node8 1 other-boot/pid:[1] 8899\n0\n")
        assert not ours()
    assert waited == ["node7 4711"]


def test_a_slow_holder_keeps_its_lock(tmp_path: Path) -> None:
    lock = tmp_path / "x.lock"
    began = time.monotonic()
    with (
        shared_lock(lock, renew_s=0.1, stale_s=0.5),
        pytest.raises(KeyboardInterrupt),
        shared_lock(lock, stale_s=0.5, cancelled=lambda: time.monotonic() - began > 2),
    ):
        pass
    assert not lock.exists()
