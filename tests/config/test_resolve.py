"""From the file and the command line to one launch spec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modeltainer.config.resolve import (
    CannotLaunchError,
    Overrides,
    launch_spec,
    secret_environment,
)
from modeltainer.config.schema import Config, SecretSection
from modeltainer.spec import decode, encode
from tests.tiny_gguf import write_tiny_gguf


def config(model: dict[str, Any], site: dict[str, Any] | None = None) -> Config:
    return Config.model_validate({"site": site or {}, "models": {"m": model}})


VLLM = {"engine": "vllm", "source": "org/name"}


def test_command_line_over_model_over_site() -> None:
    chosen = config(
        {**VLLM, "resources": {"cpus": 8, "walltime": 60}},
        {"defaults": {"cpus": 2, "walltime": 30, "memory": "8G", "partition": "gpu"}},
    )
    spec = launch_spec(
        chosen, "m", 0, executor="slurm", overrides=Overrides(walltime_s=600, partition="short")
    )
    assert spec.resources.cpus == 8
    assert spec.resources.memory_mib == 8192
    assert spec.resources.walltime_s == 600
    assert spec.resources.partition == "short"
    assert decode(encode(spec)) == spec


def test_a_walltime_cannot_be_shortened_to_more_than_it_is() -> None:
    chosen = config({**VLLM, "resources": {"walltime": "1h", "time_min": "30m"}})
    assert launch_spec(chosen, "m", 0, executor="slurm").resources.time_min_s == 1800
    with pytest.raises(CannotLaunchError, match=r"time_min \(1800 s\).*walltime \(600 s\)"):
        launch_spec(chosen, "m", 0, executor="slurm", overrides=Overrides(walltime_s=600))


def test_a_partition_brings_its_account() -> None:
    site = {"partitions": {"gpu": {"account": "proj", "qos": "high"}}}
    chosen = config({**VLLM, "resources": {"partition": "gpu"}}, site)
    resources = launch_spec(chosen, "m", 0, executor="slurm").resources
    assert (resources.account, resources.qos) == ("proj", "high")


def test_runtimes_follow_the_machine(tmp_path: Path) -> None:
    gguf = str(write_tiny_gguf(tmp_path / "m.gguf"))
    llama = config({"engine": "llamacpp", "source": gguf})
    assert launch_spec(llama, "m", 0, executor="slurm").runtime == "apptainer"
    assert launch_spec(llama, "m", 0, executor="local").runtime == "embedded"
    assert launch_spec(config(VLLM), "m", 0, executor="local").runtime == "native"
    assert launch_spec(config(VLLM), "m", 0, executor="slurm").resources.gpus == 1
    assert launch_spec(llama, "m", 0, executor="slurm").resources.gpus == 0


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"gpus": 2}, "shared is for a part of one GPU, and gpus is 2"),
        ({"gpus": 0}, "shared is for a part of one GPU, and gpus is 0"),
        ({"nodes": 2}, "shared is for one node, and nodes is 2"),
        ({"mig": "1g.10gb"}, "shared is for GPUs that are not cut into slices, and mig asks for"),
    ],
)
def test_what_cannot_share_a_gpu(wanted: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        config({**VLLM, "resources": {**wanted, "shared": True}})
    chosen = config({**VLLM, "resources": wanted})
    with pytest.raises(CannotLaunchError, match=rf"m: resources\.{says}"):
        launch_spec(chosen, "m", 0, executor="slurm", overrides=Overrides(shared=True))
    # The site's default is for the models that can.
    site = {"defaults": {"shared": True}}
    spec = launch_spec(config({**VLLM, "resources": wanted}, site), "m", 0, executor="slurm")
    assert not spec.resources.shared


def test_who_shares_a_gpu_has_one() -> None:
    for wanted in ({"shared": True}, {"shared": True, "gpus": 1, "mig": True, "nodes": 1}):
        resources = launch_spec(
            config({**VLLM, "resources": wanted}), "m", 0, executor="slurm"
        ).resources
        assert (resources.gpus, resources.shared) == (1, True)
    site = {"defaults": {"shared": True}}
    alone = config({**VLLM, "resources": {"shared": False}}, site)
    assert not launch_spec(alone, "m", 0, executor="slurm").resources.shared


@pytest.mark.parametrize("option", ["ssl-keyfile", "ssl_certfile", "ssl-key-file"])
def test_an_engines_own_tls_is_the_launchs(option: str) -> None:
    with pytest.raises(ValueError, match=r"is set by mt-submit itself; use site\.engine_tls"):
        config({**VLLM, "engine_args": {option: "/k"}})


def test_a_gpu_brings_the_gpu_image(tmp_path: Path) -> None:
    gguf = str(write_tiny_gguf(tmp_path / "m.gguf"))
    model = {"engine": "llamacpp", "source": gguf, "resources": {"gpus": 1}}
    assert (launch_spec(config(model), "m", 0, executor="slurm").image or "").endswith("-cuda")
    amd = config(model, {"gpu_vendor": "amd"})
    assert (launch_spec(amd, "m", 0, executor="slurm").image or "").endswith("-rocm")


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    chosen = config({"engine": "llamacpp", "source": str(tmp_path / "no.gguf")})
    with pytest.raises(CannotLaunchError, match="does not exist"):
        launch_spec(chosen, "m", 0, executor="slurm")


@pytest.mark.parametrize("keep", [0, 10, 100, 5000, -1])
def test_a_truncated_gguf_is_refused_before_it_queues(tmp_path: Path, keep: int) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf")
    path.write_bytes(path.read_bytes()[:keep])
    chosen = config({"engine": "llamacpp", "source": str(path)})
    with pytest.raises(CannotLaunchError, match=r"cut off|too few"):
        launch_spec(chosen, "m", 0, executor="slurm")


def test_secrets_come_by_reference(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from-file\n")
    file.chmod(0o600)
    wanted = {"A": SecretSection(env="TOKEN"), "B": SecretSection(file=file)}
    assert secret_environment("m", wanted, {"TOKEN": "from-env"}) == {
        "A": "from-env",
        "B": "from-file",
    }
    with pytest.raises(CannotLaunchError, match="not set"):
        secret_environment("m", wanted, {})
    file.chmod(0o644)
    with pytest.raises(CannotLaunchError, match="chmod 600"):
        secret_environment("m", wanted, {"TOKEN": "x"})


def test_more_replicas_make_no_other_jobs() -> None:
    one, more, other = (
        config({**VLLM, **changed}).models["m"].jobs_digest()
        for changed in ({}, {"replicas": 3}, {"context": 4096})
    )
    assert one == more
    assert one != other


@pytest.mark.parametrize(
    ("engine_args", "fits"),
    [
        ({}, True),
        ({"tensor_parallel_size": 4, "pipeline_parallel_size": 2}, True),
        ({"tensor_parallel_size": 2}, True),
        ({"data-parallel-size": 3}, True),
        ({"tensor_parallel_size": 3}, False),
        ({"tensor_parallel_size": 4, "pipeline_parallel_size": 4}, False),
    ],
)
def test_how_a_model_is_spread_over_nodes_must_come_out_even(
    engine_args: dict[str, Any], fits: bool
) -> None:
    chosen = config({**VLLM, "resources": {"nodes": 2, "gpus": 4}, "engine_args": engine_args})
    if fits:
        assert launch_spec(chosen, "m", 0, executor="slurm").resources.nodes == 2
    else:
        with pytest.raises(CannotLaunchError, match="2 nodes with 4 each make 8"):
            launch_spec(chosen, "m", 0, executor="slurm")


def test_several_nodes_need_slurm_and_vllm(tmp_path: Path) -> None:
    wide = {"resources": {"nodes": 2}}
    with pytest.raises(CannotLaunchError, match="several nodes need Slurm"):
        launch_spec(config({**VLLM, **wide}), "m", 0, executor="local")
    gguf = str(write_tiny_gguf(tmp_path / "m.gguf"))
    llama = config({"engine": "llamacpp", "source": gguf, **wide})
    with pytest.raises(CannotLaunchError, match="obeys whoever reaches its port"):
        launch_spec(llama, "m", 0, executor="slurm")
    one = launch_spec(config(VLLM), "m", 0, executor="slurm", overrides=Overrides(nodes=3))
    assert one.resources.nodes == 3
