"""A rendered project, run as containers are: llama.cpp engines, the registrar, the gateway."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.fixtures import require_cluster
from tests.compose.container import Containers
from tests.compose.image import gateway_layers, llama_layers
from tests.compose.workstation import ask, create_key, endpoints, rendered, until
from tests.tiny_gguf import write_tiny_gguf

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    """Everything but the engines' weights is made as a user makes it; all services are started."""
    require_cluster()
    here = tmp_path_factory.mktemp("project")
    model = write_tiny_gguf(here / "tiny.gguf")
    models = {
        name: {
            "engine": "llamacpp",
            "source": str(model),
            "aliases": [f"{name}-alias"],
            "context": 256,
            "replicas": replicas,
            "resources": {"gpus": 0, "cpus": 1, "memory": "1GiB"},
        }
        for name, replicas in (("left", 2), ("right", 1))
    }
    containers = rendered(here, models, ["cpu"])
    try:
        for name in containers.services:
            layers = llama_layers() if name.startswith("engine-") else gateway_layers()
            containers.start(name, layers)
        yield containers
    finally:
        containers.close()


@pytest.fixture(scope="module")
def key(project: Containers) -> str:
    return create_key(project)


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
        assert int(done.stdout) >= 2
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
