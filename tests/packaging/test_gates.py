"""The quality gates say the same thing wherever they stand, and what is generated is current."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from modeltainer.cli.main import cli
from modeltainer.compose import images
from modeltainer.config.resolve import DEFAULT_IMAGES

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ELSEWHERE = (
    "sudo sysctl",
    'sudo chown -R "$USER" ~/cluster-cache',
    "rm dist/",
    "gh release create",
    "grep -qx",
)
"""Commands that only a hosted runner needs."""


def commands(workflow: Path) -> list[str]:
    jobs = yaml.safe_load(workflow.read_text())["jobs"].values()
    steps = (step for job in jobs for step in job["steps"])
    return [step["run"] for step in steps if "run" in step]


def recipe(target: str) -> str:
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_what_the_makefile_runs(workflow: Path) -> None:
    for line in commands(workflow):
        made = re.fullmatch(
            r'(?:sudo --preserve-env env "PATH=\$PATH" )?make ([a-z -]+)', line.strip()
        )
        if made is None:
            assert line.startswith(ELSEWHERE), line
        else:
            assert set(made[1].split()) <= TARGETS


def test_the_jobs_that_must_be_there() -> None:
    together = "\n".join(line for workflow in WORKFLOWS for line in commands(workflow))
    for target in ("lint types", "test-quick", "test", "image", "audit", "coverage", "dist"):
        assert re.search(rf"make {target}$", together, re.MULTILINE), target
    matrix = yaml.safe_load(WORKFLOWS[0].read_text())["jobs"]["test"]["strategy"]["matrix"]
    classified = re.findall(
        r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text()
    )
    assert matrix["python"] == classified


def test_only_what_publishes_may_write() -> None:
    for workflow in WORKFLOWS:
        document: dict[str, Any] = yaml.safe_load(workflow.read_text())
        assert document["permissions"] == {"contents": "read"}
        for name, job in document["jobs"].items():
            writes = [
                scope for scope, level in job.get("permissions", {}).items() if level == "write"
            ]
            assert not writes or (workflow.name == "release.yml" and name != "build")
            assert job["timeout-minutes"] <= 60


def test_each_linter_is_in_the_makefile_and_in_the_hooks() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    hooked = {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in hooks}
    made = set(re.findall(r"\$\(BIN\)/([\w-]+)", recipe("lint") + recipe("types")))
    assert hooked == made


def test_the_schema_is_current() -> None:
    done = CliRunner().invoke(cli, ["validate", "--schema"])
    assert done.exit_code == 0
    assert (ROOT / "config" / "models.schema.json").read_text() == done.stdout, "run: make schema"


def test_the_schema_knows_the_short_forms_of_a_source() -> None:
    schema = json.loads((ROOT / "config" / "models.schema.json").read_text())
    forms = schema["$defs"]["SourceSection"]["anyOf"]
    assert [form["type"] for form in forms] == ["string", "object"]


def test_vllm_is_pinned_to_one_version_everywhere() -> None:
    assert DEFAULT_IMAGES["vllm"] == f"docker://{images.VLLM}"
    definition = (ROOT / "apptainer" / "vllm.def").read_text()
    assert f"VLLM_TAG={images.VLLM.rpartition(':')[2]}" in definition
    llama = (ROOT / "apptainer" / "llama.cpp-cpu.def").read_text()
    assert f"LLAMA_CPP_TAG={images.LLAMACPP_CPU.rpartition('-')[2]}" in llama
