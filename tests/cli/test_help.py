"""Help: an example for every command, at once."""

from __future__ import annotations

import os
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from modeltainer.cli.main import COMMANDS, cli


def every_command() -> list[tuple[str, ...]]:
    context = click.Context(cli)
    found: list[tuple[str, ...]] = [()]
    for name in COMMANDS:
        found.append((name,))
        command = cli.get_command(context, name)
        if isinstance(command, click.Group):
            found += [(name, below) for below in command.list_commands(context)]
    return found


@pytest.mark.parametrize("words", every_command(), ids=" ".join)
def test_help_has_an_example_that_parses_as_that_command(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, [*words, "--help"])
    assert result.exit_code == 0
    example = result.output.partition("Example:")[2]
    assert " ".join(["mt-submit", *words]) in example


def test_lists_each_command_by_the_line_it_begins_its_own_help_with() -> None:
    context = click.Context(cli)
    assert [*COMMANDS] == cli.list_commands(context)
    assert all(cli.get_command(context, name) is not None for name in COMMANDS)


def test_help_imports_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "modeltainer.cli.main", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    heavy = ("pydantic", "fastapi", "submitit", "rich", "httpx", "yaml", "msgspec", "uvicorn")
    assert not [name for name in imported if name.split(".")[0] in heavy]


def test_status_is_another_name_of_ls() -> None:
    result = CliRunner().invoke(cli, ["status", "--help"])
    assert result.exit_code == 0
    assert "--watch" in result.output


def test_unknown_command_is_a_usage_error() -> None:
    assert CliRunner().invoke(cli, ["upp"]).exit_code == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_names_the_program(shell: str) -> None:
    result = CliRunner().invoke(cli, ["completion", shell])
    assert result.exit_code == 0
    assert "_MT_SUBMIT_COMPLETE" in result.output


def test_no_colour_with_no_color_even_on_a_terminal() -> None:
    environment = {**os.environ, "NO_COLOR": "1", "MODELTAINER_CONFIG": "/nowhere.yaml"}
    result = CliRunner().invoke(cli, ["ls"], color=True, env=environment)
    assert "error:" in result.stderr
    assert "\x1b" not in result.stderr
