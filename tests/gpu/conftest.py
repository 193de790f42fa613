"""The GPU's own tools, the engines to run on it, and a place to keep what they said."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gpu.random_model import write_random_model

VLLM = "MODELTAINER_GPU_VLLM"
"""Command of a vLLM built for CUDA, with its ``serve``; ``vllm serve`` when it is not set."""
LLAMA_SERVER = "MODELTAINER_GPU_LLAMA_SERVER"
"""A llama-server built for CUDA; ``llama-server`` when it is not set."""
KEEP = "MODELTAINER_GPU_KEEP"
"""A folder where the engines' logs are kept after the tests."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests of this folder where no NVIDIA driver answers."""
    reason = no_gpu()
    for item in items:
        if reason and "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason=reason))


def no_gpu() -> str | None:
    """Why there is no GPU to test on; None when there is one."""
    if shutil.which("nvidia-smi") is None:
        return "no GPU: nvidia-smi is not installed"
    asked = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return None if asked.stdout.startswith("GPU") else f"no GPU: {asked.stdout}{asked.stderr}"


def engine_command(variable: str, default: str) -> list[str]:
    """The engine's command; skips the test when it is not there."""
    words = os.environ.get(variable, default).split()
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed; {variable} names another")
    return words


@pytest.fixture(scope="session")
def vllm() -> list[str]:
    return engine_command(VLLM, "vllm serve")


@pytest.fixture(scope="session")
def llama_server() -> list[str]:
    return engine_command(LLAMA_SERVER, "llama-server")


@pytest.fixture
def keep(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """The test's folder; its logs are copied to ``MODELTAINER_GPU_KEEP`` in the end."""
    yield tmp_path
    target = os.environ.get(KEEP)
    if target is None:
        return
    for log in tmp_path.rglob("*.log"):
        name = f"{request.node.name}-{log.parent.parent.name}-{log.name}"
        shutil.copy(log, Path(target) / name.replace("/", "-"))


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with one model folder for each published shape that the tests serve."""
    folder = tmp_path_factory.mktemp("random-models")
    for name in ("qwen2.5-7b", "llama-3.1-8b", "qwen3-30b-a3b"):
        write_random_model(name, folder / name, python=sys.executable)
    return folder
