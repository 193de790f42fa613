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
from tests.vllm.environment import build

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
    assert seen["chunks"] >= 3  # a token that ends within a character has no chunk of its own
    assert seen["vectors"][0] == seen["vectors"][1] > 0
    if library == "litellm":
        assert seen["usage"] == 8
        assert "nobody" in seen["refused"]


@pytest.mark.vllm
def test_vllm_bench_serve(machine: BareMachine) -> None:
    """vLLM's own load generator, unchanged."""
    environment = build()
    done = machine.run(
        *(str(environment / "bin" / "python"), "-m", "vllm.entrypoints.cli.main", "bench", "serve"),
        *("--backend", "openai-chat", "--base-url", machine.environ["OPENAI_BASE_URL"][:-3]),
        *("--endpoint", "/v1/chat/completions", "--model", "tiny"),
        *("--tokenizer", str(environment / "tiny-llama"), "--dataset-name", "random"),
        *("--random-input-len", "64", "--random-output-len", "8", "--num-prompts", "8"),
        *("--save-result", "--result-filename", str(machine.folder / "bench.json")),
    )
    result = json.loads((machine.folder / "bench.json").read_text())
    assert result["completed"] == 8, done.stdout
    assert result["total_output_tokens"] == 64
