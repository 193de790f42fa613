"""``mt-submit validate`` and ``models``."""

from __future__ import annotations

import json

from tests.cli.conftest import MakeShell, Shell

FAULTY = """\
models:
  tiny:
    engin: llamacpp
    source: {model}
  other:
    engine: vlm
    source: a/b
"""


def test_good_file(shell: Shell) -> None:
    result = shell.run("validate")
    assert result.exit_code == 0
    assert result.output == f"{shell.config}: good, 3 models\n"


def test_each_fault_has_its_line_and_the_right_spelling(make_shell: MakeShell) -> None:
    shell = make_shell(FAULTY)
    result = shell.run("validate")
    assert result.exit_code == 3
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{shell.config}:3:5: models.tiny.engin")
    assert "did you mean 'engine'?" in lines[0]
    assert lines[1].startswith(f"{shell.config}:6:5: models.other.engine")
    assert "did you mean 'vllm'?" in lines[1]
    assert result.stderr == "2 faults\n"


def test_faults_as_json(make_shell: MakeShell) -> None:
    result = make_shell(FAULTY).run("validate", "--json")
    assert result.exit_code == 3
    assert [fault["line"] for fault in json.loads(result.stdout)] == [3, 6]


def test_another_command_shows_the_faults_too(make_shell: MakeShell) -> None:
    result = make_shell(FAULTY).run("ls")
    assert result.exit_code == 3
    assert result.stderr.startswith("error:")
    assert "Traceback" not in result.stderr
    assert "hint:" in result.stderr


def test_no_file_at_all_says_where_it_was_looked_for(shell: Shell) -> None:
    shell.config.unlink()
    result = shell.run("models")
    assert result.exit_code == 3
    assert str(shell.config) in result.stderr


def test_schema_is_json_schema_with_the_models(shell: Shell) -> None:
    result = shell.run("validate", "--schema")
    assert result.exit_code == 0
    schema = json.loads(result.stdout)
    assert {"site", "gateway", "models"} <= set(schema["properties"])


def test_models_are_listed(shell: Shell) -> None:
    result = shell.run("models")
    assert "tiny" in result.output
    assert "small" in result.output
    assert [model["name"] for model in shell.json("models")] == ["tiny", "dies", "sleeps"]
