"""``mt-submit usage``."""

from __future__ import annotations

import json
import time
from pathlib import Path

from click.testing import CliRunner

from modeltainer.cli.main import cli
from modeltainer.registry import usage
from modeltainer.registry.layout import Layout


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
    }
    [recent] = json.loads(said("--by", "key", "--since", "1d", "--json"))
    assert recent["key"] == "ann (k1)"
