"""``mt-submit`` on this machine: a tiny real model, and nothing of the user's configuration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from modeltainer.cli.main import cli
from modeltainer.registry.layout import Layout
from tests.tiny_gguf import write_tiny_gguf

MODELS = """\
site:
  executor: local
  registry: {folder}/registry
  cache: {folder}/cache
models:
  tiny:
    engine: llamacpp
    source: {model}
    aliases: [small]
    description: A tiny model
    context: 256
    resources: {{cpus: 1}}
  dies:
    engine: llamacpp
    source: {model}
    runtime: native
    command: [sh, -c, "echo 'ggml: failed to allocate buffer' >&2; exit 1"]
  sleeps:
    engine: llamacpp
    source: {model}
    runtime: native
    command: [sh, -c, "exec sleep 600"]
    drain: 1s
"""


@dataclass
class Shell:
    """A user's shell, with one models.yaml."""

    folder: Path
    config: Path
    layout: Layout

    def run(self, *arguments: str, text: str | None = None) -> Result:
        """Run mt-submit in this process."""
        return CliRunner().invoke(cli, ["--config", str(self.config), *arguments], input=text)

    def json(self, *arguments: str) -> Any:
        """Run a command that must succeed, and read its JSON."""
        result = self.run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start mt-submit as a process of its own."""
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "modeltainer.cli.main",
                "--config",
                str(self.config),
                *arguments,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def left_behind(self) -> list[str]:
        """Launch folders and endpoint files in the registry."""
        folders = (self.layout.launches, self.layout.endpoints)
        return [name for folder in folders if folder.is_dir() for name in os.listdir(folder)]


MakeShell = Callable[[str], Shell]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture
def make_shell(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MakeShell]:
    """A shell whose models.yaml is the text given; what it started is stopped at the end."""
    for name in os.environ:
        if name.startswith("MODELTAINER_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "dot-config"))
    made: list[Shell] = []

    def make(text: str) -> Shell:
        config = tmp_path / "models.yaml"
        config.write_text(text.format(folder=tmp_path, model=tiny_model))
        made.append(Shell(tmp_path, config, Layout(tmp_path / "registry")))
        return made[-1]

    yield make
    for shell in made:
        shell.run("gateway", "stop")
        shell.run("stop", "--all")


@pytest.fixture
def shell(make_shell: MakeShell) -> Shell:
    return make_shell(MODELS)
