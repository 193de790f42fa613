"""``mt-submit usage``."""

from __future__ import annotations

import json
import time
from pathlib import Path

from click.testing import CliRunner

from modeltainer.cli.main import cli
from modeltainer.registry import runs, usage
from modeltainer.registry.layout import Layout
from modeltainer.registry.records import RunRecord


def test_sums_as_a_table_and_as_json(tmp_path: Path) -> None:
    config = tmp_path / "models.yaml"
    config.write_text(f"site: {{registry: {tmp_path / 'r'}}}\nmodels: {{}}\n")

    def said(*words: str) -> str:
        result = CliRunner().invoke(cli, ["--config", str(config), "usage", *words])
        assert result.exit_code == 0, result.output
        return result.output

    assert "no requests" in said()
    now = time.time()
    records = [
        usage.UsageRecord(now, "k1", "ann", "m", "chat", 200, 1.0, 5, 2),
        usage.UsageRecord(now - 10 * 86_400, "k2", "bob", "m", "chat", 200, 1.0, events=4),
    ]
    usage.append(Layout(tmp_path / "r"), "login1", records)
    assert "ann (k1)" in said()
    assert "about 4 tokens more" in said()
    [total] = json.loads(said("--by", "model", "--json"))
    assert total == {
        "model": "m",
        "requests": 2,
        "prompt_tokens": 5,
        "completion_tokens": 2,
        "uncounted": 1,
        "uncounted_events": 4,
        "jobs": 0,
        "gpu_seconds": 0.0,
    }
    assert "GPU HOURS" not in said("--by", "model")
    [recent] = json.loads(said("--by", "key", "--since", "1d", "--json"))
    assert recent["key"] == "ann (k1)"


def test_gpu_hours_and_what_came_of_them(tmp_path: Path) -> None:
    config = tmp_path / "models.yaml"
    config.write_text(f"site: {{registry: {tmp_path / 'r'}}}\nmodels: {{}}\n")
    layout = Layout(tmp_path / "r")
    now = time.time()
    usage.append(
        layout, "login1", [usage.UsageRecord(now, "k1", "ann", "m", "chat", 200, 1.0, 900, 100)]
    )
    for job, gpus in (("1", 1), ("2", 3)):
        runs.write(
            layout, RunRecord(job, "m-r0-abcdef", "m", "ann", gpus, now - 3600, now, ended=True)
        )
    result = CliRunner().invoke(cli, ["--config", str(config), "usage", "--by", "model"])
    [heads, row] = [line.split() for line in result.output.splitlines()]
    assert heads[-5:] == ["JOBS", "GPU", "HOURS", "TOKENS/GPU", "HOUR"]
    assert row == ["m", "1", "900", "100", "0", "2", "4.00", "250"]
