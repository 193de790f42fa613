"""docs/troubleshooting.md has one section for every code that a failure can have, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "troubleshooting.md").read_text()
SOURCES = (
    "jobs/diagnose.py",
    "jobs/agent.py",
    "jobs/engine_start.py",
    "jobs/follower.py",
    "hpc/placement.py",
    "hpc/submit.py",
    "apptainer/image.py",
    "modeltainer/registry/ranks.py",
    "modeltainer/service.py",
    "modeltainer/view.py",
)
RAISERS = {
    "Cause",
    "ImageError",
    "LaunchError",
    "PlacementError",
    "SubmissionError",
    "_sign",
}
CODE = re.compile(r"[a-z]+(-[a-z]+)*")


def codes(source: str) -> Iterator[str]:
    """Codes in calls such as ``Cause("no-gpu", …)``, and in the tables of refusals and signals."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in RAISERS and node.args:
                yield from constant(node.args[0])
        elif isinstance(node, ast.Tuple) and len(node.elts) in (3, 4):
            texts = [part for item in node.elts for part in constant(item)]
            if len(texts) == len(node.elts) and " " in texts[-1]:
                yield texts[-3]


def constant(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value


FOUND = sorted(
    {code for name in SOURCES for code in codes((ROOT / name).read_text()) if CODE.fullmatch(code)}
)


def test_the_codes_are_found() -> None:
    assert {"gated-model", "invalid-qos", "illegal-instruction", "no-gpus", "stopped"} <= set(FOUND)


@pytest.mark.parametrize("code", FOUND)
def test_each_code_has_its_section_with_something_to_do(code: str) -> None:
    section = re.search(rf"^### {code}\n\n(.+?)(?=^#|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert section is not None, f"docs/troubleshooting.md has no section ### {code}"
    assert len(section[1].split()) >= 6


def test_no_section_is_about_a_code_that_is_gone() -> None:
    assert re.findall(r"^### (\S+)$", TEXT, re.MULTILINE) == [
        code for code in re.findall(r"^### (\S+)$", TEXT, re.MULTILINE) if code in FOUND
    ]
    named = re.findall(r"^### (\S+)$", TEXT, re.MULTILINE)
    assert len(named) == len(set(named))


@pytest.mark.parametrize("runbook", ["vllm", "llamacpp"])
def test_the_runbooks_ten_failures_are_sections(runbook: str) -> None:
    text = (ROOT / "docs" / f"runbook-{runbook}.md").read_text()
    linked = re.findall(r"\(troubleshooting\.md#([\w-]+)\)", text)
    assert len(set(linked)) == 10
    assert set(linked) <= set(FOUND)
