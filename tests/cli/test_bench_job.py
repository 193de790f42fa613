"""What ``bench --on-cluster`` takes along into its job."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from modeltainer.cli.bench import run_command
from modeltainer.cli.bench_job import job_options
from modeltainer.cli.main import cli


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("tiny --on-cluster", ""),
        ("run tiny --concurrency 1,4 --on-cluster --report", "--concurrency 1,4 --report"),
        ("--on-cluster --partition cpu --time=10m tiny --rate=2", "--rate=2"),
        # A value is no model, even where it is spelt like one.
        ("--against tiny tiny --output here --seed 3", "--against tiny --seed 3"),
    ],
)
def test_options_travel_as_they_were_typed(typed: str, kept: str) -> None:
    assert job_options(typed.split(), run_command) == kept.split()


@pytest.mark.parametrize("option", ["--url http://x", "--key mt-secret", "--json"])
def test_what_a_job_cannot_take_along_is_refused(option: str) -> None:
    done = CliRunner().invoke(cli, ["bench", "tiny", "--on-cluster", *option.split()])
    assert done.exit_code == 2
    assert "--on-cluster" in done.output


def test_direct_and_a_url_exclude_each_other() -> None:
    done = CliRunner().invoke(cli, ["bench", "tiny", "--direct", "--url", "http://x"])
    assert done.exit_code == 2
    assert "leave --url out" in done.output


@pytest.mark.parametrize("way", ["--direct", "--on-cluster"])
def test_the_gateway_of_the_environment_is_another_way(way: str, tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text(f"site: {{registry: {tmp_path}/r}}\nmodels: {{}}\n")
    done = CliRunner().invoke(
        cli,
        ["--config", str(tmp_path / "models.yaml"), "bench", "tiny", way],
        env={"MODELTAINER_URL": "http://127.0.0.1:1", "MODELTAINER_KEY": "mt-secret"},
    )
    assert done.exit_code == 9, done.output
    assert "tiny" in done.output
    assert "leave" not in done.output
