"""``mt-submit doctor`` on this machine; its job on a compute node is tests/cluster's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modeltainer.cli.doctor_checks import filesystem_of, port_range
from modeltainer.cli.doctor_node import no_answer
from tests.cli.conftest import MODELS, MakeShell, Shell

MOUNTS = """\
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
30 22 0:40 / /home rw,relatime shared:5 - nfs4 server:/home rw
31 30 0:41 / /home/alice/my\\040data rw - lustre mds:/scratch rw
32 22 0:42 / /tmp rw - tmpfs tmpfs rw
33 32 0:43 / /tmp rw - xfs /dev/sdb rw
"""


def test_a_bare_machine_is_well(shell: Shell) -> None:
    findings = {finding["name"]: finding for finding in shell.json("doctor")}
    assert {finding["status"] for finding in findings.values()} <= {"ok", "warning"}
    assert findings["registry"]["status"] == "ok"
    assert findings["configuration"]["message"] == "3 models"
    assert list(shell.layout.root.glob("doctor-*")) == []


def test_each_line_has_its_state(shell: Shell) -> None:
    lines = shell.run("doctor").stdout.splitlines()
    assert lines[0].startswith("ok       python: Python 3.")


def test_a_registry_that_cannot_be_written_fails(shell: Shell) -> None:
    shell.layout.root.write_text("")
    result = shell.run("doctor", "--json")
    assert result.exit_code == 1
    failures = [one for one in json.loads(result.stdout) if one["status"] == "failure"]
    assert [one["name"] for one in failures] == ["registry"]
    assert "site.registry" in failures[0]["todo"]


def test_a_registry_open_to_others_fails(shell: Shell) -> None:
    shell.layout.root.mkdir(mode=0o755)
    result = shell.run("doctor")
    assert result.exit_code == 1
    assert f"chmod 700 {shell.layout.root}" in result.stdout


def test_a_wrong_configuration_does_not_end_the_report(make_shell: MakeShell) -> None:
    result = make_shell("models: {{a: {{}}}}").run("doctor")
    assert result.exit_code == 1
    assert "failure  configuration:" in result.stdout
    assert "ok       python:" in result.stdout


def test_weights_that_are_not_there_are_a_warning(make_shell: MakeShell) -> None:
    shell = make_shell(MODELS.replace("{model}", "/nowhere/x.gguf"))
    findings = {finding["name"]: finding for finding in shell.json("doctor")}
    assert findings["configuration"]["status"] == "warning"
    assert "/nowhere/x.gguf" in findings["configuration"]["message"]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/opt/x", "ext4"),
        ("/home/alice", "nfs4"),
        ("/homework", "ext4"),
        ("/home/alice/my data/registry", "lustre"),
        ("/tmp/x", "xfs"),
    ],
)
def test_filesystem_of(path: str, kind: str) -> None:
    assert filesystem_of(Path(path), MOUNTS) == kind


def test_filesystem_of_nothing_known() -> None:
    assert filesystem_of(Path("/x"), "") is None
    assert filesystem_of(Path("/x"), "nonsense\n1 2 3 - \n") is None


def test_port_range() -> None:
    assert port_range("20000-29999") == (20000, 29999)
    assert port_range(None) is None


@pytest.mark.parametrize(
    ("said", "status", "words"),
    [
        (
            # Slurm 26.05
            "srun: error: invalid partition specified: nope\n"
            "srun: error: Unable to allocate resources: Invalid partition name specified\n",
            "failure",
            "invalid partition specified: nope",
        ),
        (
            "srun: Immediate execution impossible, insufficient priority\n"
            "srun: error: Unable to allocate resources: Requested nodes are busy\n",
            "warning",
            "no node was free",
        ),
        (
            "bash: line 1: exec: /home/alice/v/bin/python: cannot execute: No such file or "
            "directory\nsrun: error: c1: task 0: Exited with exit code 127\n",
            "failure",
            "bin/python: cannot execute",
        ),
        (
            "Traceback (most recent call last):\n"
            "FileNotFoundError: [Errno 2] No such file or directory: '/tmp/doctor-1/token'\n"
            "srun: error: c1: task 0: Exited with exit code 1\n",
            "failure",
            "'/tmp/doctor-1/token'",
        ),
        (
            "srun: error: Unable to allocate resources: Invalid account\n",
            "failure",
            "Slurm ran no job: Unable to allocate resources: Invalid account",
        ),
        ("", "failure", "no output"),
    ],
)
def test_why_a_node_gave_no_answer(said: str, status: str, words: str) -> None:
    finding = no_answer(said)
    assert finding.status == status
    assert words in finding.message
    assert finding.todo
