"""What is rendered, and what is refused before anything starts."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from modeltainer.cli.main import cli
from modeltainer.compose.engine_watch import LOST_AFTER, Watch, after_probe
from modeltainer.compose.plan import PROFILES, CannotComposeError, plan
from modeltainer.config.schema import Config
from modeltainer.registry.records import State
from tests.compose.plugin import config

SMALL: dict[str, Any] = {
    "engine": "llamacpp",
    "source": {"hub": "org/small-GGUF", "file": "small.gguf"},
    "resources": {"gpus": 0, "cpus": 2},
}
LARGE: dict[str, Any] = {
    "engine": "vllm",
    "source": {"hub": "org/large", "revision": "abc"},
    "aliases": ["big"],
    "context": 4096,
    "replicas": 2,
    "resources": {"gpus": 2, "cpus": 8, "memory": "64GiB"},
    "engine_args": {"hf-overrides": {"price": "$5"}},
    "secrets": {"HF_TOKEN": {"env": "HF_TOKEN"}},
}

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("HF_TOKEN", "hf_secret_token")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-config"))

    def compose(*words: str, splits: dict[str, Any] | None = None, **models: Any) -> Result:
        file = tmp_path / "models.yaml"
        site = {"cache": str(tmp_path / "cache")}
        file.write_text(yaml.safe_dump({"site": site, "models": models, "splits": splits or {}}))
        first = ["--config", str(file), "compose"]
        if "--user" not in words:
            first += ["--user", "10001:10001"]
        return CliRunner().invoke(cli, [*first, *words])

    return compose


@pytest.mark.parametrize("size", range(len(PROFILES) + 1))
def test_every_combination_of_profiles_is_clean(run: Run, tmp_path: Path, size: int) -> None:
    output = tmp_path / "llm" / "compose.yaml"
    assert run("--output", str(output), small=SMALL, large=LARGE).exit_code == 0
    for profiles in itertools.combinations(PROFILES, size):
        services = config(output, profiles)["services"]
        assert {"gateway", "registrar"} <= set(services)
        assert ("proxy" in services) == ("tls" in profiles)
        assert ("grafana" in services) == ("observability" in profiles)
        assert ("engine-large-r1" in services) == ("gpu" in profiles)
        assert ("engine-small-r0-arm" in services) == ("arm" in profiles)


def test_services_of_all_profiles(run: Run, tmp_path: Path) -> None:
    output = tmp_path / "llm" / "compose.yaml"
    run("--output", str(output), small=SMALL, large=LARGE)
    document = config(output, PROFILES)
    services = document["services"]
    published = {name: one["ports"] for name, one in services.items() if one.get("ports")}
    assert set(published) == {"gateway", "proxy", "grafana"}
    assert {port["host_ip"] for ports in published.values() for port in ports} == {"127.0.0.1"}
    engines = {name: one for name, one in services.items() if name.startswith("engine-")}
    by_port = {one["expose"][0]: name for name, one in engines.items() if "-arm" not in name}
    assert len(by_port) == 3
    given = [
        index
        for one in engines.values()
        if "deploy" in one
        for index in one["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"]
    ]
    assert sorted(given) == ["0", "1", "2", "3"]
    assert document["networks"]["engines"]["internal"] is True
    for name, one in services.items():
        assert one["read_only"] is True, name
        assert one["cap_drop"] == ["ALL"], name
        assert one["security_opt"] == ["no-new-privileges:true"], name
        assert one["user"] == "10001:10001", name
        assert one["pids_limit"] > 0, name
        assert one["cpus"] > 0, name
        assert int(one["mem_limit"]) > 0, name
        assert "core" in one["ulimits"], name
        tag = one["image"].rpartition(":")[2]
        assert any(digit.isdigit() for digit in tag), one["image"]
        assert "privileged" not in one, name
        assert all("docker.sock" not in str(mount) for mount in one.get("volumes", [])), name


def test_the_engine_gets_its_command_line_whole(run: Run, tmp_path: Path) -> None:
    output = tmp_path / "llm" / "compose.yaml"
    run("--output", str(output), large=LARGE)
    command = config(output, ["gpu"])["services"]["engine-large-r0"]["command"]
    assert command[:3] == ["vllm", "serve", "org/large"]
    assert command[command.index("--tensor-parallel-size") + 1] == "2"
    assert command[command.index("--max-model-len") + 1] == "4096"
    assert command[command.index("--hf-overrides") + 1] == '{"price":"$5"}'


def test_no_secret_is_in_the_file_and_secrets_are_closed_to_others(
    run: Run, tmp_path: Path
) -> None:
    output = tmp_path / "llm" / "compose.yaml"
    run("--output", str(output), large=LARGE)
    folder = output.parent / "secrets"
    values = [file.read_text() for file in folder.iterdir()]
    assert "hf_secret_token" in values
    for file in (output, output.parent / "engines.json", output.parent / "models.yaml"):
        assert not [value for value in values if value in file.read_text()]
    assert folder.stat().st_mode & 0o077 == 0
    assert all(file.stat().st_mode & 0o077 == 0 for file in folder.iterdir())


def test_rendering_again_keeps_keys_and_identities(run: Run, tmp_path: Path) -> None:
    output = tmp_path / "llm" / "compose.yaml"
    run("--output", str(output), small=SMALL)
    kept = [output, output.parent / "engines.json", *(output.parent / "secrets").iterdir()]
    before = [file.read_bytes() for file in kept]
    run("--output", str(output), small=SMALL)
    assert [file.read_bytes() for file in kept] == before


def test_a_split_keeps_the_arms_that_are_served(run: Run, tmp_path: Path) -> None:
    splits = {
        "chat": {"small": 9, "large": 1},
        "large-only": {"large": 1},
        "off": {"small": 0, "large": 1},
    }
    output = tmp_path / "llm" / "compose.yaml"
    made = run("small", "--output", str(output), splits=splits, small=SMALL, large=LARGE)
    assert made.exit_code == 0, made.output
    written = yaml.safe_load((output.parent / "models.yaml").read_text())
    assert written["splits"] == {"chat": {"small": 9}}
    Config.model_validate(written)


def test_without_output_nothing_is_written(run: Run, tmp_path: Path) -> None:
    done = run(small=SMALL)
    assert done.exit_code == 0
    assert yaml.safe_load(done.stdout)["services"]["engine-small-r0"]["profiles"] == ["cpu"]
    assert [file.name for file in tmp_path.iterdir()] == ["models.yaml"]
    assert yaml.safe_load(done.stdout)["services"]["gateway"]["ulimits"]["core"] == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"resources": {"gpus": 1, "mig": "1g.10gb"}}, "resources.mig"),
        ({"resources": {"nodes": 2}}, "resources.nodes"),
        ({"resources": {"partition": "gpu"}}, "resources.partition"),
        ({"resources": {"nodelist": "n1"}}, "resources.nodelist"),
        ({"resources": {"gpus": 1, "gpu_type": "a100"}}, "resources.gpu_type"),
        ({"runtime": "native"}, "runtime"),
        ({"prelude": ["module load cuda"]}, "prelude"),
        ({"command": ["llama-server"]}, "command"),
        ({"image": "/shared/llama.sif"}, "not a Docker image"),
        ({"image": "docker://org/llama"}, "has no tag"),
        ({"source": "/nowhere/m.gguf"}, "does not exist"),
        ({"engine": "vllm", "source": "org/large"}, "needs an NVIDIA GPU"),
    ],
)
def test_what_compose_cannot_serve_is_refused_with_its_reason(
    run: Run, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    output = tmp_path / "llm" / "compose.yaml"
    done = run("--output", str(output), good=SMALL, bad={**SMALL, **change})
    assert done.exit_code == 3
    assert reason in done.stderr
    assert "bad" in done.stderr
    assert "good:" not in done.stderr
    assert not output.parent.exists()
    assert run("good", good=SMALL, bad={**SMALL, **change}).exit_code == 0


def test_all_reasons_at_once(run: Run) -> None:
    bad = {**SMALL, "runtime": "native", "resources": {"partition": "gpu", "qos": "high"}}
    done = run(bad=bad)
    assert [word in done.stderr for word in ("partition", "qos", "runtime")] == [True] * 3


def test_tls_to_the_engines_is_a_clusters(tmp_path: Path) -> None:
    small = {"engine": "llamacpp", "source": "org/small-GGUF", "resources": {"gpus": 0}}
    chosen = Config.model_validate({"site": {"engine_tls": True}, "models": {"small": small}})
    with pytest.raises(CannotComposeError, match=r"site\.engine_tls is for engines on other nodes"):
        plan(chosen)


def test_a_gpu_model_without_the_gpu_profile_is_refused(run: Run) -> None:
    done = run("--profile", "cpu", small=SMALL, large=LARGE)
    assert done.exit_code == 3
    assert "large: needs profile gpu" in done.stderr


def test_unknown_models_and_profiles_are_named(run: Run) -> None:
    assert "there is no model 'nope'" in run("nope", small=SMALL).stderr
    assert "there is no profile 'gpus'" in run("--profile", "gpus", small=SMALL).stderr


def test_check_finds_a_taken_port_and_missing_gpus(run: Run, tmp_path: Path) -> None:
    output = tmp_path / "llm" / "compose.yaml"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run("--check", "--port", port, "--output", str(output), small=SMALL)
    assert done.exit_code == 3
    assert f"127.0.0.1:{port}: another program listens there" in done.stderr
    assert not output.parent.exists()
    many = {**LARGE, "resources": {"gpus": 64}}
    assert "the models want 128 GPU(s)" in run("--check", large=many).stderr


def test_a_missing_token_is_named_before_anything_is_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    output = tmp_path / "llm" / "compose.yaml"
    done = run("--output", str(output), large=LARGE)
    assert done.exit_code == 3
    assert "$HF_TOKEN" in done.stderr
    assert not output.parent.exists()


def test_never_as_root(run: Run) -> None:
    assert "must not run as root" in run("--user", "0:0", small=SMALL).stderr
    assert run("--user", "me", small=SMALL).exit_code == 2


def test_an_engine_is_ready_once_it_answers_and_lost_after_several_misses() -> None:
    watch = after_probe(Watch(), reachable=True, answers=False)
    assert watch.state is State.LOADING
    watch = after_probe(watch, reachable=True, answers=True)
    assert watch.state is State.READY
    for _ in range(LOST_AFTER - 1):
        watch = after_probe(watch, reachable=False, answers=False)
        assert watch.state is State.READY
    assert after_probe(watch, reachable=True, answers=True).misses == 0
    assert after_probe(watch, reachable=False, answers=False).state is State.STARTING
