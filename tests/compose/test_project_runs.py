"""A rendered project, run as containers are: two llama.cpp engines, the registrar, the gateway."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from modeltainer.cli.main import cli
from tests.cluster.fixtures import require_cluster
from tests.compose.container import Containers
from tests.compose.image import gateway_layers, llama_layers
from tests.compose.plugin import config
from tests.tiny_gguf import write_tiny_gguf

pytestmark = pytest.mark.cluster

CLIENT = """
import sys, openai
client = openai.OpenAI(base_url="http://127.0.0.1:8000/v1", api_key=sys.argv[1], max_retries=0)
answer = client.completions.create(model=sys.argv[2], prompt="one two", max_tokens=8, stream=True)
pieces = [event.choices[0].text for event in answer]
print(len(pieces))
"""


def until(true: Callable[[], bool], within: float = 60.0) -> None:
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    """Everything but the engines' weights is made as a user makes it; all services are started."""
    require_cluster()
    here = tmp_path_factory.mktemp("project")
    here.chmod(0o755)
    model = write_tiny_gguf(here / "tiny.gguf")
    models = {
        "site": {"cache": str(here / "cache")},
        "models": {
            name: {
                "engine": "llamacpp",
                "source": str(model),
                "aliases": [f"{name}-alias"],
                "context": 256,
                "replicas": replicas,
                "resources": {"gpus": 0, "cpus": 1, "memory": "1GiB"},
            }
            for name, replicas in (("left", 2), ("right", 1))
        },
    }
    file = here / "models.yaml"
    file.write_text(yaml.safe_dump(models))
    output = here / "llm" / "compose.yaml"
    words = ["--config", str(file), "compose", "--user", "10001:10001", "--output", str(output)]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    for folder in here.parents:
        if folder.stat().st_mode & 0o005 != 0o005 and "pytest" in folder.name:
            folder.chmod(folder.stat().st_mode | 0o005)
    containers = Containers(config(output, ["cpu"]), here / "run")
    try:
        for name in containers.services:
            layers = llama_layers() if name.startswith("engine-") else gateway_layers()
            containers.start(name, layers)
        yield containers
    finally:
        containers.close()


@pytest.fixture(scope="module")
def key(project: Containers) -> str:
    made = project.execute("gateway", ["mt-submit", "key", "create", "laptop"])
    assert made.returncode == 0, made.stdout
    [line] = [line for line in made.stdout.splitlines() if line.startswith("mt-")]
    return line


def ask(project: Containers, key: str, model: str) -> subprocess.CompletedProcess[str]:
    command = [*project.enter(), sys.executable, "-c", CLIENT, key, model]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def endpoints(project: Containers, key: str) -> dict[str, str]:
    """State by service, as the gateway's status page tells."""
    command = [*project.enter(), "curl", "-s", "-H", f"Authorization: Bearer {key}"]
    done = subprocess.run(
        [*command, "http://127.0.0.1:8000/admin/status"],
        capture_output=True,
        text=True,
        check=False,
    )
    listed = json.loads(done.stdout)["endpoints"] if done.stdout else []
    return {one["node"]: "routed" if one["routed"] else one["state"] for one in listed}


def test_all_services_come_up_and_both_models_stream(project: Containers, key: str) -> None:
    assert [*project.services] == [
        "engine-left-r0",
        "engine-left-r1",
        "engine-right-r0",
        "gateway",
        "registrar",
    ]
    until(lambda: [*endpoints(project, key).values()].count("routed") == 3)
    for model in ("left", "right", "left-alias"):
        done = ask(project, key, model)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) >= 8
    assert all(project.healthy(name) for name in ("gateway", "engine-left-r0"))


def test_no_service_is_root_or_has_capabilities_or_a_writable_root(project: Containers) -> None:
    for name in ("gateway", "engine-left-r0"):
        said = project.execute(name, ["sh", "-c", "id -u; cat /proc/self/status; touch /x; :"])
        assert said.stdout.startswith("10001\n")
        assert "CapEff:\t0000000000000000" in said.stdout
        assert "CapBnd:\t0000000000000000" in said.stdout
        assert "NoNewPrivs:\t1" in said.stdout
        assert "Read-only file system" in said.stdout


def test_a_strangers_key_is_refused(project: Containers) -> None:
    done = ask(project, "mt-guess", "left")
    assert done.returncode != 0
    assert "401" in done.stderr


def test_an_engine_that_dies_is_taken_out_and_comes_back(project: Containers, key: str) -> None:
    until(lambda: endpoints(project, key).get("engine-right-r0") == "routed")
    project.stop("engine-right-r0", signal.SIGKILL)
    until(lambda: endpoints(project, key)["engine-right-r0"] == "starting")
    refused = ask(project, key, "right")
    assert "503" in refused.stderr
    assert ask(project, key, "left").returncode == 0
    project.start("engine-right-r0", llama_layers())
    until(lambda: endpoints(project, key)["engine-right-r0"] == "routed")
    assert ask(project, key, "right").returncode == 0


def test_the_registrar_leaves_nothing_behind(project: Containers, key: str) -> None:
    project.stop("registrar")
    until(lambda: endpoints(project, key) == {})
    registry = Path(
        next(
            one["source"]
            for one in project.services["gateway"]["volumes"]
            if one["target"] == "/registry"
        )
    )
    assert list((registry / "launches").iterdir()) == []
    assert list((registry / "endpoints").iterdir()) == []
