"""Debian's Prometheus on what mt-submit writes for it: targets, settings and rules."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from click.testing import CliRunner

from modeltainer.cli.main import cli
from modeltainer.compose.observability import prometheus_settings
from modeltainer.gateway import address
from modeltainer.gateway.address import GatewayAddress
from modeltainer.registry.endpoints import EndpointReader
from modeltainer.registry.records import State
from modeltainer.registry.service_discovery import target_groups, write_targets
from modeltainer.scheduler import start_ticks
from tests.cluster.fixtures import must_not_skip
from tests.engine.scripted import ScriptedEngine, whole
from tests.gateway.setup import World

FOLDER = Path(__file__).resolve().parents[2] / "compose" / "prometheus"


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        reason = f"{name} is not installed; run: python -m tests.cluster install"
        if must_not_skip():
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


@pytest.fixture
def vllm(world: World) -> Iterator[ScriptedEngine]:
    """An engine with vLLM's open metrics, registered and ready."""
    with ScriptedEngine(["m"]) as engine:
        metrics = b'vllm:num_requests_running{model_name="m"} 3.0\n'
        engine.answer = whole(metrics, kind="text/plain; version=0.0.4")
        world.launch("m", engine=engine)
        file = next(world.layout.endpoints.iterdir())
        record = json.loads(file.read_text())
        file.write_text(json.dumps({**record, "engine": "vllm"}))
        yield engine


def gateway_at(url: str, unix: str | None = None) -> GatewayAddress:
    pid = os.getpid()
    return GatewayAddress(
        socket.gethostname(), pid, start_ticks(pid) or 0, 0.0, socket=unix, url=url
    )


def test_targets_are_the_gateway_and_engines_with_open_metrics(
    world: World, vllm: ScriptedEngine
) -> None:
    world.launch("keyed")  # llama.cpp asks for the launch's key
    world.launch("loading", state=State.LOADING)
    sightings = EndpointReader(world.layout).poll()
    groups = target_groups(gateway_at("http://[::1]:8000"), sightings)
    assert [group["targets"] for group in groups] == [["[::1]:8000"], [f"127.0.0.1:{vllm.port}"]]
    assert groups[1]["labels"]["model"] == "m"
    assert groups[1]["labels"]["job"] == "modeltainer-engine"
    assert target_groups(gateway_at("http://localhost", "/run/x.sock"), []) == []
    secrets = [file.read_text() for file in world.layout.launches.glob("*/secret.json")]
    assert not [one for one in secrets if json.loads(one)["key"] in json.dumps(groups)]


def test_the_file_is_replaced_only_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "targets.json"
    assert write_targets(file, [])
    assert not write_targets(file, [])
    assert file.stat().st_mode & 0o777 == 0o644
    assert write_targets(file, [{"targets": ["a:1"], "labels": {}}])


def test_the_command_prints_and_writes_the_same(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-config"))
    address.write(world.layout, gateway_at("http://127.0.0.1:8000"))
    config = tmp_path / "models.yaml"
    config.write_text(yaml.safe_dump({"site": {"registry": str(world.layout.root)}, "models": {}}))
    words = ["--config", str(config), "prometheus-sd"]
    printed = CliRunner().invoke(cli, words)
    file = tmp_path / "sd.json"
    assert CliRunner().invoke(cli, [*words, "--output", str(file)]).exit_code == 0
    assert json.loads(printed.stdout) == json.loads(file.read_text())
    assert json.loads(printed.stdout)[0]["targets"] == ["127.0.0.1:8000"]
    assert CliRunner().invoke(cli, [*words, "--every", "5"]).exit_code == 2


def test_prometheus_scrapes_what_the_registry_has(
    world: World, vllm: ScriptedEngine, tmp_path: Path
) -> None:
    prometheus = program("prometheus")
    folder = tmp_path / "prometheus"
    folder.mkdir()
    settings = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    settings["global"] = {"scrape_interval": "200ms", "evaluation_interval": "200ms"}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    shutil.copy(FOLDER / "alerts.yml", folder)
    (folder / "gateway.key").write_text(world.key)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{probe.getsockname()[1]}"
    with world.serving(), (folder / "log").open("wb") as log:
        sightings = EndpointReader(world.layout).poll()
        write_targets(folder / "modeltainer.json", target_groups(gateway_at(world.url), sightings))
        process = subprocess.Popen(
            [
                prometheus,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={listen}",
            ],
            stdout=log,
            stderr=log,
        )
        try:

            def ask(query: str) -> list[dict[str, Any]]:
                try:
                    answer = httpx.get(
                        f"http://{listen}/api/v1/query", params={"query": query}, trust_env=False
                    )
                except httpx.HTTPError:
                    return []
                found: list[dict[str, Any]] = answer.json()["data"]["result"]
                return found

            running = 'vllm:num_requests_running{model="m", job="modeltainer-engine"}'
            World.until(lambda: bool(ask(running)), within=30)
            assert ask(running)[0]["value"][1] == "3"
            [seen] = ask('up{job="modeltainer-engine"}')
            assert seen["value"][1] == "1"
            assert seen["metric"]["node"] == "n1"
            World.until(lambda: bool(ask('up{job="modeltainer-gateway"}')), within=30)
            vllm.stop()
            World.until(
                lambda: ask('up{job="modeltainer-engine"}')[0]["value"][1] == "0", within=30
            )
            World.until(lambda: bool(ask('ALERTS{alertname="EngineDown"}')), within=30)
        finally:
            process.terminate()
            process.wait(15)


def test_the_rules_fire_when_they_should(tmp_path: Path) -> None:
    promtool = program("promtool")
    shutil.copy(FOLDER / "alerts.yml", tmp_path)
    shutil.copy(Path(__file__).with_name("alerts_test.yml"), tmp_path)
    for words in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run(
            [promtool, *words], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_both_settings_pass_promtool(tmp_path: Path) -> None:
    promtool = program("promtool")
    shutil.copy(FOLDER / "alerts.yml", tmp_path)
    shutil.copy(FOLDER / "prometheus.yml", tmp_path)
    (tmp_path / "gateway.key").write_text("x")
    (tmp_path / "modeltainer.json").write_text("[]")
    (tmp_path / "project.yml").write_text(yaml.safe_dump(prometheus_settings([])))
    for file, lint in (("prometheus.yml", []), ("project.yml", ["--syntax-only"])):
        done = subprocess.run(
            [promtool, "check", "config", *lint, file],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
