"""Models and a gateway on this machine alone, as a user has them: for what is run as a client."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL

import httpx

from tests.tiny_gguf import write_tiny_gguf

BIN = Path(sys.executable).parent
SITE = """\
site:
  executor: local
  runtime: embedded
  registry: {folder}/registry
  cache: {folder}/cache
gateway: {listen: tcp, port: 0}
models:
"""
TINY = """\
  tiny:
    engine: llamacpp
    source: {folder}/tiny.gguf
    aliases: [small]
    context: 4096
    engine_args: {n_parallel: 4}
    resources: {cpus: 1}
  vectors:
    engine: llamacpp
    source: {folder}/tiny.gguf
    context: 512
    engine_args: {embedding: true, pooling_type: 1}
    resources: {cpus: 1}
  late:
    engine: llamacpp
    source: {folder}/tiny.gguf
    context: 512
    resources: {cpus: 1}
"""


@dataclass(frozen=True)
class BareMachine:
    """A user's shell beside a gateway that runs."""

    folder: Path
    environ: dict[str, str]
    """Has OPENAI_BASE_URL, OPENAI_API_KEY, MODELTAINER_CONFIG, and this environment's programs."""

    def run(self, *words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a program that must succeed."""
        done = self.attempt(*words, text=text)
        assert done.returncode == 0, done.stderr
        return done

    def attempt(self, *words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a program."""
        return subprocess.run(
            words,
            input=text,
            env=self.environ,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


@contextmanager
def bare_machine(
    folder: Path, models: str, *up: str, patience_s: float = 120
) -> Iterator[BareMachine]:
    """Serve the models named by ``up`` until the end; the others of ``models`` are only known.

    Args:
        folder: of the registry and all else, empty.
        models: sections of models.yaml, with ``{folder}``; may use ``{folder}/tiny.gguf``.
        patience_s: how long all of them may take to be ready.
    """
    write_tiny_gguf(folder / "tiny.gguf", context=4096)
    config = folder / "models.yaml"
    config.write_text((SITE + models).replace("{folder}", str(folder)))
    kept = {name: v for name, v in os.environ.items() if not name.startswith("MODELTAINER_")}
    environ = {
        **kept,
        "HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder / "dot-config"),
        "MODELTAINER_CONFIG": str(config),
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    machine = BareMachine(folder, environ)
    try:
        starting = [
            subprocess.Popen(["mt-submit", "up", model, "--wait"], env=environ, stderr=DEVNULL)
            for model in up
        ]
        machine.run("mt-submit", "gateway", "start")
        assert [process.wait(patience_s) for process in starting] == [0] * len(up)
        status = json.loads(machine.run("mt-submit", "gateway", "status", "--json").stdout)
        environ["OPENAI_BASE_URL"] = status["url"]
        key = machine.run("mt-submit", "key", "create", "examples").stdout.strip()
        environ["OPENAI_API_KEY"] = key
        _wait_routed(status["url"], key, set(up))
        yield machine
    finally:
        machine.attempt("mt-submit", "stop", "--all")
        machine.attempt("mt-submit", "gateway", "stop")
        shutil.rmtree(folder / "cache", ignore_errors=True)


def _wait_routed(url: str, key: str, models: set[str]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        answer = httpx.get(f"{url}/models", headers={"Authorization": f"Bearer {key}"})
        if answer.status_code == 200:  # 401: the gateway has not seen the new key yet
            rows = answer.json()["data"]
            if models <= {row["id"] for row in rows if row["state"] == "ready"}:
                return
        time.sleep(0.1)
    raise AssertionError(f"the gateway does not serve all of {models}")
