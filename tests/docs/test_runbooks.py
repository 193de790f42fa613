"""What the runbooks tell people to type and to write is what the programs take."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from modeltainer.cli.main import cli
from modeltainer.config.load import load
from modeltainer.jobs.diagnose import diagnose

DOCS = Path(__file__).resolve().parents[2] / "docs"
RUNBOOKS = sorted(DOCS.glob("runbook-*.md"))
LINES = sorted(
    {
        line
        for book in RUNBOOKS
        for block in re.findall(r"```sh\n(.*?)```", book.read_text(), re.DOTALL)
        for line in block.splitlines()
        if line.startswith("mt-submit ")
    }
)


@pytest.mark.parametrize("line", LINES)
def test_each_command_parses(line: str) -> None:
    words = shlex.split(line)[1:]
    context = click.Context(cli)
    command = cli.get_command(context, words[0])
    assert command is not None
    if isinstance(command, click.Group):
        command = command.get_command(context, words[1])
        words = words[1:]
        assert command is not None
    command.make_parser(click.Context(command)).parse_args(words[1:])


@pytest.mark.parametrize("book", RUNBOOKS, ids=lambda path: path.stem)
def test_each_models_yaml_is_good(book: Path, tmp_path: Path) -> None:
    [text] = re.findall(r"```yaml\n(.*?)```", book.read_text(), re.DOTALL)
    file = tmp_path / "models.yaml"
    file.write_text(text)
    assert load(file, {}).models


@pytest.mark.parametrize("book", RUNBOOKS, ids=lambda path: path.stem)
def test_what_the_log_says_leads_to_the_code(book: Path) -> None:
    rows = re.findall(r"^\| \[([\w-]+)\]\(\S+\) \| (.+?) \|", book.read_text(), re.MULTILINE)
    assert len(rows) == 10
    quoted = [(code, words) for code, said in rows for words in re.findall(r"`([^`]+)`", said)]
    for code, words in quoted:
        assert diagnose(1, words.replace("…", "x")).code == code, words
