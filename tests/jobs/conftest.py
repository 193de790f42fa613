"""A launch folder for an agent to run, with the real embedded engine and a tiny model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from modeltainer.registry import launches
from modeltainer.registry.endpoints import EndpointReader
from modeltainer.registry.layout import Layout, new_launch_id
from modeltainer.registry.records import Endpoint, LaunchSecret, State
from modeltainer.spec import LaunchSpec, Resources, Site, Source
from tests.tiny_gguf import write_tiny_gguf

RUN = "import sys; from modeltainer.jobs.agent import run; run(sys.argv[1])"


@dataclass
class RunningAgent:
    """One agent in a process of its own."""

    layout: Layout
    spec: LaunchSpec
    secret: LaunchSecret
    process: subprocess.Popen[str]

    def endpoint(self) -> Endpoint | None:
        found = [seen.endpoint for seen in EndpointReader(self.layout).poll()]
        mine = [one for one in found if one.launch_id == self.spec.launch_id]
        return mine[0] if mine else None

    def wait_for(self, *states: State, timeout_s: float = 60) -> Endpoint:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            endpoint = self.endpoint()
            if endpoint is not None and endpoint.state in states:
                return endpoint
            time.sleep(0.05)
        raise AssertionError(f"not {states} in {timeout_s} s: {self.endpoint()}\n{self.log()}")

    def log(self, name: str = "agent.log") -> str:
        path = self.layout.log(self.spec.launch_id) / name
        return path.read_text(errors="replace") if path.exists() else ""

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)


StartAgent = Callable[..., RunningAgent]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture
def start_agent(tmp_path: Path, tiny_model: Path) -> Iterator[StartAgent]:
    """Start an agent for a spec; fields given by keyword replace the default ones."""
    started: list[RunningAgent] = []
    layout = Layout(tmp_path / "registry")

    def start(
        environ: dict[str, str] | None = None, *, tls: bool = False, **changes: Any
    ) -> RunningAgent:
        spec = LaunchSpec(
            launch_id=new_launch_id("tiny", len(started)),
            model="tiny",
            replica=len(started),
            engine="llamacpp",
            runtime="embedded",
            source=Source("path", str(tiny_model)),
            resources=Resources(cpus=1),
            site=Site(registry=str(layout.root), cache=str(tmp_path / "cache")),
            context=256,
            drain_s=5,
        )
        spec = replace(spec, **changes)
        secret = launches.new_secret(tls=tls)
        folder = launches.create(layout, spec, secret)
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(folder)],
            env={**os.environ, **(environ or {})},
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(RunningAgent(layout, spec, secret, process))
        return started[-1]

    yield start
    for agent in started:
        agent.process.kill()
        agent.process.wait()
        if agent.process.stderr:
            agent.process.stderr.close()
