"""litellm and LangChain's OpenAI class: whole answers, streams, embeddings, errors."""

from __future__ import annotations

import json
import subprocess
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bare_machine import TINY, BareMachine, bare_machine
from tests.cluster.cache import cached, recipe_key

PACKAGES = ("litellm==1.110.2", "langchain-openai==1.7.4")
PROGRAM = Path(__file__).with_name("program.py")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareMachine]:
    with bare_machine(tmp_path_factory.mktemp("clients"), TINY, "tiny", "vectors") as made:
        yield made


@pytest.fixture(scope="module")
def python() -> str:
    """An interpreter that has the client libraries; their needs are not ours."""
    return str(cached("clients", recipe_key(*PACKAGES), install) / "bin" / "python")


def install(folder: Path) -> None:
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", *PACKAGES], check=True)


@pytest.mark.parametrize("library", ["litellm", "langchain"])
def test_unchanged_clients(machine: BareMachine, python: str, library: str) -> None:
    seen = json.loads(machine.run(python, str(PROGRAM), library).stdout.splitlines()[-1])
    assert seen["tokens"] == 8
    assert seen["chunks"] >= 8
    assert seen["vectors"][0] == seen["vectors"][1] > 0
    if library == "litellm":
        assert seen["usage"] == 8
        assert "nobody" in seen["refused"]
