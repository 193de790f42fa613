"""The log's file: moved by others, moved by itself, and with several processes at it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from modeltainer.gateway import log_file
from modeltainer.gateway.log import JsonLog
from tests.engine.scripted import whole
from tests.gateway.setup import World
from tests.gateway.test_lifecycle import Process

WRITER = """
import sys
from pathlib import Path
from modeltainer.gateway import log_file
from modeltainer.gateway.log import JsonLog
log_file.LOOK_S = 0.0
log = JsonLog(Path(sys.argv[1]), max_bytes=2000, kept=200)
sys.stdin.readline()
for number in range(500):
    log.info("line", writer=sys.argv[2], number=number)
"""


@pytest.fixture
def _looks_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_file, "LOOK_S", 0.0)


def numbers(file: Path) -> list[int]:
    return [json.loads(line)["number"] for line in file.read_text().splitlines()]


def events(file: Path) -> list[str]:
    if not file.exists():
        return []
    return [json.loads(line)["event"] for line in file.read_text().splitlines()]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_that_was_moved_is_opened_again(world: World, tmp_path: Path, workers: int) -> None:
    world.launch().engine.answer = whole({"ok": True})
    file, moved = tmp_path / "gateway.log", tmp_path / "moved"
    made = Process(world, tmp_path, log=file, workers=workers)
    try:
        made.routed()
        file.rename(moved)

        def comes_anew() -> bool:
            with made.client() as client:
                assert client.post("/v1/completions", json={"model": "m"}).status_code == 200
            return "request" in events(file)

        World.until(comes_anew, within=20)
        assert file.stat().st_mode & 0o777 == 0o600
    finally:
        made.process.terminate()
        made.ended()
    assert "started" in events(moved)
    assert "ended" in events(file)


@pytest.mark.usefixtures("_looks_always")
def test_a_file_that_was_deleted_or_replaced_is_opened_again(tmp_path: Path) -> None:
    file = tmp_path / "log"
    log = JsonLog(file)
    log.info("x", number=1)
    file.unlink()
    log.info("x", number=2)
    assert numbers(file) == [2]
    (tmp_path / "other").touch()
    (tmp_path / "other").rename(file)
    log.info("x", number=3)
    assert numbers(file) == [3]
    file.write_text("")  # copied and cut, as logrotate's copytruncate does
    log.info("x", number=4)
    assert numbers(file) == [4]


@pytest.mark.usefixtures("_looks_always")
def test_a_file_that_cannot_be_opened_again_is_written_on(tmp_path: Path) -> None:
    folder, moved = tmp_path / "folder", tmp_path / "moved"
    folder.mkdir()
    log = JsonLog(folder / "log")
    folder.rename(moved)
    log.info("x", number=1)
    assert numbers(moved / "log") == [1]
    folder.mkdir()
    log.info("x", number=2)
    assert numbers(folder / "log") == [2]


@pytest.mark.usefixtures("_looks_always")
def test_a_large_file_makes_room(tmp_path: Path) -> None:
    file = tmp_path / "log"
    log = JsonLog(file, max_bytes=300, kept=2)
    log.start()
    for number in range(30):
        log.info("x", number=number)
        World.until(lambda: not log._waiting)  # the thread has taken it
    log.stop()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
    parts = [numbers(tmp_path / name) for name in ("log.2", "log.1", "log")]
    found = [number for part in parts for number in part]
    assert found == list(range(found[0], 30))
    assert all(len(part) < 10 for part in parts)


@pytest.mark.usefixtures("_looks_always")
def test_what_a_link_leads_to_is_moved(tmp_path: Path) -> None:
    large, link = tmp_path / "large" / "log", tmp_path / "log"
    large.parent.mkdir()
    link.symlink_to(large)
    log = JsonLog(link, max_bytes=120, kept=1)
    for number in range(3):
        log.info("x", number=number)
    assert link.is_symlink()
    assert numbers(large) == [2]
    assert numbers(large.with_name("log.1")) == [0, 1]


@pytest.mark.usefixtures("_looks_always")
def test_what_a_path_leads_to_by_any_name_keeps_its_own(tmp_path: Path) -> None:
    """As ``--log /dev/stderr`` does, where that is a file."""
    file = tmp_path / "out"
    (tmp_path / "out.1").write_text("before")
    with file.open("ab") as out:
        log = JsonLog(Path(f"/proc/self/fd/{out.fileno()}"), max_bytes=120, kept=1)
        for number in range(9):
            log.info("x", number=number)
    assert numbers(file) == list(range(9))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["out", "out.1"]
    assert (tmp_path / "out.1").read_text() == "before"


@pytest.mark.usefixtures("_looks_always")
def test_what_cannot_be_moved_grows_and_costs_no_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, real = tmp_path / "log", Path.rename
    for old in "12":
        (tmp_path / f"log.{old}").write_text(old)
    now, fails = 0.0, True

    def renamed(path: Path, target: Path) -> Path:
        if path == file and fails:
            raise OSError(errno.EBUSY, "a mount of the file alone")
        return real(path, target)

    monkeypatch.setattr(Path, "rename", renamed)
    monkeypatch.setattr("modeltainer.gateway.log_file.time.monotonic", lambda: now)
    log = JsonLog(file, max_bytes=120, kept=2)
    for number in range(9):
        log.info("x", number=number)
    assert numbers(file) == list(range(9))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
    assert [(tmp_path / f"log.{old}").read_text() for old in "12"] == ["1", "2"]
    now, fails = log_file.AGAIN_S, False
    log.info("x", number=9)
    assert numbers(tmp_path / "log.1") == list(range(9))
    assert numbers(file) == [9]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["log", "log.1", "log.2"]


@pytest.mark.usefixtures("_looks_always")
def test_without_a_limit_a_file_grows(tmp_path: Path) -> None:
    log = JsonLog(tmp_path / "log")
    for number in range(10):
        log.info("x", number=number)
    assert [one.name for one in tmp_path.iterdir()] == ["log"]


def test_processes_that_share_a_file_lose_no_line(tmp_path: Path) -> None:
    file = tmp_path / "log"
    argv = [sys.executable, "-c", WRITER, str(file)]
    writers = [subprocess.Popen([*argv, name], stdin=subprocess.PIPE, text=True) for name in "abcd"]
    for one in writers:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    for one in writers:
        one.communicate(timeout=60)
        assert one.returncode == 0
    found: list[dict[str, Any]] = []
    for part in tmp_path.iterdir():
        found += map(json.loads, part.read_text().splitlines())
    assert len(list(tmp_path.iterdir())) > 2
    for name in "abcd":
        mine = sorted(one["number"] for one in found if one["writer"] == name)
        assert mine == list(range(500))


def test_a_look_that_hangs_stops_no_request(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.launch().engine.answer = whole({"ok": True})
    looking, over = threading.Event(), threading.Event()
    real = os.stat

    def hangs(path: Any, **more: Any) -> os.stat_result:
        if path == world._log_file and threading.current_thread().name == "log":
            looking.set()
            over.wait(10)
        return real(path, **more)

    with world.serving():
        world.gateway.log.start()
        monkeypatch.setattr("modeltainer.gateway.log_file.os.stat", hangs)
        World.until(lambda: world.chat().status_code == 200 and looking.is_set())
        for _ in range(5):
            assert world.chat().status_code == 200
        over.set()
        monkeypatch.undo()
        world.gateway.log.stop()
