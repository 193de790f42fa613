"""``mt-submit init``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from modeltainer.cli.main import cli
from modeltainer.config import Config


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("MODELTAINER_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_it_writes_is_found_and_good(home: Path) -> None:
    runner = CliRunner()
    missing = runner.invoke(cli, ["models"])
    assert missing.exit_code == 3
    assert "mt-submit init" in missing.stderr
    made = runner.invoke(cli, ["init"])
    assert made.exit_code == 0, made.output
    path = Path(made.stdout.strip())
    assert path == home / ".config/modeltainer/models.yaml"
    assert f"{path}: good" in runner.invoke(cli, ["validate"]).stdout
    schema = path.with_name("models.schema.json")
    assert path.read_text().startswith(f"# yaml-language-server: $schema={schema.name}\n")
    assert json.loads(schema.read_text()) == Config.json_schema()


def test_a_file_that_is_there_is_left_alone(home: Path) -> None:
    mine = home / "mine" / "models.yaml"
    mine.parent.mkdir()
    mine.write_text("models: {}\n")
    refused = CliRunner().invoke(cli, ["init", str(mine)])
    assert refused.exit_code == 1
    assert "is there already" in refused.stderr
    assert mine.read_text() == "models: {}\n"
    assert list(mine.parent.iterdir()) == [mine]


def test_a_folder_that_cannot_be_written(home: Path) -> None:
    (home / "file").touch()
    refused = CliRunner().invoke(cli, ["init", "file/models.yaml"])
    assert refused.exit_code == 1
    assert "cannot be written" in refused.stderr
