"""The Dockerfile's rules; that its steps run is tests/compose/test_project_runs.py's business."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.compose.image import DOCKERFILE, SOURCE, Stage, stages

TEXT = DOCKERFILE.read_text()


@pytest.fixture(scope="module")
def run_stage() -> Stage:
    return stages(TEXT)[-1]


def test_the_base_is_pinned_and_the_same_in_both_stages() -> None:
    [base] = re.findall(r"^ARG DEBIAN=(\S+)$", TEXT, re.MULTILINE)
    assert re.fullmatch(r"debian:\d+\.\d+-slim", base)
    assert {stage.base for stage in stages(TEXT)} == {"${DEBIAN}"}
    definition = (SOURCE / "apptainer" / "gateway.def").read_text()
    assert f"From: {base}\n" in definition


def test_it_is_not_root_has_a_health_check_and_starts_by_itself(run_stage: Stage) -> None:
    assert run_stage.last("USER") == "10001:10001"
    check = run_stage.last("HEALTHCHECK")
    assert check is not None
    assert "/ready" in check
    command = run_stage.last("CMD")
    assert command is not None
    assert json.loads(command)[0] == "mt-submit"
    assert [name for name, _ in run_stage.steps].index("USER") > [
        name for name, _ in run_stage.steps
    ].index("RUN")


def test_no_compiler_pip_or_package_lists_end_up_in_it(run_stage: Stage) -> None:
    text = " ".join(rest for name, rest in run_stage.steps if name == "RUN")
    assert not re.search(r"gcc|build-essential|python3-venv|pip", text)
    for stage in stages(TEXT):
        for name, rest in stage.steps:
            if name == "RUN" and "apt-get install" in rest:
                assert "--no-install-recommends" in rest
                assert "rm -rf /var/lib/apt/lists/*" in rest


def test_both_recipes_copy_every_package_and_the_context_lets_them_through() -> None:
    packages = {path.name for path in (SOURCE / "modeltainer").iterdir() if path.is_symlink()}
    copied = {
        word
        for name, rest in stages(TEXT)[0].steps
        if name == "COPY"
        for word in shlex.split(rest)[:-1]
    }
    assert copied == packages | {"modeltainer", "pyproject.toml", "LICENSE", "README.md"}
    ignored = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text()
    assert {line[1:] for line in ignored.splitlines() if line.startswith("!")} == copied
    files = re.findall(
        r"^ {4}(\S+) /opt/src/\1$", (SOURCE / "apptainer" / "gateway.def").read_text(), re.MULTILINE
    )
    assert set(files) == copied
    assert all((SOURCE / Path(name)).exists() for name in copied)
