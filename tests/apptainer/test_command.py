"""The container's command line: what it sees, and what others may see of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from modeltainer.apptainer.command import containerize
from modeltainer.spec import LaunchSpec, Resources, Site, Source
from tests.launch_spec import launch_spec

SPEC = launch_spec(
    runtime="apptainer",
    source=Source("path", "/models/a/m.gguf"),
    site=Site("/shared/registry", "/shared/cache", binds=("/scratch", "/a:/b:ro")),
)


def contained(spec: LaunchSpec = SPEC, **environ: str) -> tuple[list[str], dict[str, str]]:
    found = containerize(
        ["llama-server", "--port", "1"],
        image="/images/x.sif",
        spec=spec,
        env={"HF_HOME": "/shared/cache/huggingface", "PLAIN": "1"},
        secrets={"LLAMA_API_KEY": "secret-key"},
        environ={"PATH": "/nowhere", **environ},
        scratch="/node/scratch",
    )
    assert found.folders == ("/shared/cache", "/shared/cache/huggingface")
    return list(found.argv), found.env


def binds(argv: list[str]) -> list[str]:
    return [argv[at + 1] for at, part in enumerate(argv) if part == "--bind"]


def test_only_what_is_needed_is_bound() -> None:
    argv, _ = contained()
    assert argv[:4] == ["apptainer", "exec", "--containall", "--no-home"]
    assert argv[-4:] == ["/images/x.sif", "llama-server", "--port", "1"]
    assert binds(argv) == [
        "/models/a:/models/a:ro",
        "/shared/cache:/shared/cache",
        "/node/scratch:/tmp",
        "/scratch",
        "/a:/b:ro",
    ]


def test_the_environment_goes_by_variables_and_never_by_arguments() -> None:
    argv, env = contained()
    assert not any("secret-key" in part for part in argv)
    assert env["APPTAINERENV_LLAMA_API_KEY"] == "secret-key"
    assert env["APPTAINERENV_PLAIN"] == "1"
    assert env["APPTAINERENV_TMPDIR"] == "/tmp"


def test_what_the_users_shell_would_inject_is_dropped() -> None:
    _, env = contained(APPTAINERENV_LD_PRELOAD="x", SINGULARITYENV_PATH="y")
    assert "APPTAINERENV_LD_PRELOAD" not in env
    assert "SINGULARITYENV_PATH" not in env


@pytest.mark.parametrize(("vendor", "option"), [("nvidia", "--nv"), ("amd", "--rocm")])
def test_gpus(vendor: str, option: str) -> None:
    site = replace(SPEC.site, gpu_vendor=vendor)  # type: ignore[arg-type]
    spec = replace(SPEC, resources=Resources(gpus=1), site=site)
    argv, env = contained(spec, CUDA_VISIBLE_DEVICES="MIG-1")
    assert option in argv
    assert env["APPTAINERENV_CUDA_VISIBLE_DEVICES"] == "MIG-1"
    assert option not in contained()[0]


def test_a_model_behind_a_link_can_be_opened(tmp_path: Path) -> None:
    blob = tmp_path / "blobs" / "abc"
    blob.parent.mkdir()
    blob.write_bytes(b"")
    link = tmp_path / "snapshots" / "m.gguf"
    link.parent.mkdir()
    link.symlink_to(blob)
    spec = replace(SPEC, source=Source("path", str(link)))
    bound = binds(contained(spec)[0])
    assert f"{blob.parent}:{blob.parent}:ro" in bound
    assert f"{link.parent}:{link.parent}:ro" in bound


def test_paths_that_bind_would_split_are_mounted() -> None:
    spec = replace(SPEC, source=Source("path", '/models/a:b,"c/m.gguf'))
    argv, _ = contained(spec)
    assert argv[argv.index("--mount") + 1] == (
        'type=bind,"source=/models/a:b,""c","destination=/models/a:b,""c",ro'
    )


def test_values_are_not_evaluated_by_a_shell() -> None:
    assert contained()[1]["APPTAINER_NO_EVAL"] == "1"


def test_sites_with_singularity(tmp_path: Path) -> None:
    program = tmp_path / "singularity"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    argv, env = contained(PATH=str(tmp_path))
    assert argv[0] == "singularity"
    assert env["SINGULARITYENV_LLAMA_API_KEY"] == "secret-key"
