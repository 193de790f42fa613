"""Images are pulled once, whoever asks, and a pull that ends early leaves nothing.

``apptainer`` is a script here, as there is no registry of images to pull from; Apptainer itself
runs in the cluster tests.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from modeltainer.apptainer.image import ImageError, cache_path, cached, check_file, pull

PULL = """#!/bin/sh
# pull --disable-cache TARGET URI
echo "pull $4" >> "$LOG"
sleep "${SECONDS_TO_PULL:-0.3}"
case "$4" in
  *missing*) echo "FATAL: manifest unknown" >&2; exit 255;;
  *full*) echo "write: no space left on device" >&2; exit 255;;
esac
echo "INFO: Creating SIF file..." >&2
echo image > "$3"
"""
URI = "docker://example.org/team/engine:v1"


@pytest.fixture
def apptainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a scripted apptainer; the log beside it has a line a pull."""
    program = tmp_path / "bin" / "apptainer"
    program.parent.mkdir()
    program.write_text(PULL)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("LOG", str(tmp_path / "pulls"))
    return tmp_path


def pulls(folder: Path) -> int:
    log = folder / "pulls"
    return len(log.read_text().splitlines()) if log.exists() else 0


def leftovers(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "images").glob("*") if path.suffix != ".sif")


def test_a_pull_and_then_the_cache(apptainer: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    path = pull(URI, tmp_path / "cache", progress=lines.append)
    assert path.read_text() == "image\n"
    assert "engine-v1" in path.name
    assert any("Creating SIF" in line for line in lines)
    assert pull(URI, tmp_path / "cache") == path == cached(URI, tmp_path / "cache")
    assert pulls(apptainer) == 1
    assert leftovers(tmp_path / "cache") == []


def test_many_processes_pull_once(apptainer: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from modeltainer.apptainer.image import pull;"
        f"print(pull({URI!r}, Path(sys.argv[1])))"
    )
    nodes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "cache")],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    outputs = {node.communicate()[0] for node in nodes}
    assert [node.returncode for node in nodes] == [0] * 8
    assert len(outputs) == 1
    assert pulls(apptainer) == 1


@pytest.mark.parametrize(
    ("uri", "code"), [("docker://x/missing:1", "no-such-image"), ("docker://x/full:1", "disk-full")]
)
def test_what_cannot_be_pulled(apptainer: Path, tmp_path: Path, uri: str, code: str) -> None:
    with pytest.raises(ImageError) as caught:
        pull(uri, tmp_path / "cache")
    assert caught.value.code == code
    assert uri in caught.value.message
    assert list((tmp_path / "cache" / "images").iterdir()) == []


def test_ctrl_c_leaves_nothing(
    apptainer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECONDS_TO_PULL", "30")
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        pull(URI, tmp_path / "cache")
    assert list((tmp_path / "cache" / "images").iterdir()) == []


def test_a_job_that_is_stopped_gives_up_its_pull(
    apptainer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECONDS_TO_PULL", "30")
    began = time.monotonic()
    with pytest.raises(ImageError, match="cancelled"):
        pull(URI, tmp_path / "cache", cancelled=lambda: time.monotonic() - began > 0.5)
    assert list((tmp_path / "cache" / "images").iterdir()) == []


def test_no_apptainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageError) as caught:
        pull(URI, tmp_path / "cache")
    assert caught.value.code == "no-apptainer"


def test_local_files_are_looked_at(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No such file"):
        check_file(tmp_path / "no.sif")
    text = tmp_path / "text.sif"
    text.write_text("not an image")
    with pytest.raises(ImageError, match="not a SIF"):
        check_file(text)
    check_file(tmp_path)  # a sandbox is a folder
    sif = tmp_path / "x.sif"
    sif.write_bytes(b"#!/usr/bin/env run-singularity\n\0SIF_MAGIC\0")
    check_file(sif)


def test_names_do_not_clash(tmp_path: Path) -> None:
    uris = ["docker://a/b:1", "docker://a-b:1", "library://a/b:1", "docker://" + "x" * 500]
    paths = {cache_path(uri, tmp_path) for uri in uris}
    assert len(paths) == len(uris)
    assert all(len(path.name) < 150 for path in paths)
