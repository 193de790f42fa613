"""The official client's batches, whatever becomes of the gateway in between."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Batch

from modeltainer.gateway.address import of_host
from modeltainer.registry.layout import Layout
from tests.bare_machine import TINY, BareMachine, bare_machine

ROWS = 120


def gateway(machine: BareMachine) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        machine.run("mt-submit", "gateway", "status", "--json").stdout
    )
    return found


def client(machine: BareMachine) -> openai.OpenAI:
    key = machine.environ["OPENAI_API_KEY"]
    return openai.OpenAI(base_url=gateway(machine)["url"], api_key=key, max_retries=5)


def wait(machine: BareMachine, batch_id: str, rows: int = ROWS) -> Batch:
    """Until a batch has so many answers, or is over."""
    asking = client(machine)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        batch = asking.batches.retrieve(batch_id)
        assert batch.request_counts is not None
        if batch.request_counts.completed >= rows and (batch.output_file_id or rows < ROWS):
            return batch
        time.sleep(0.1)
    raise AssertionError(f"the batch came no further than {batch}")


@pytest.mark.parametrize("stop", ["kill", "restart"])
def test_exactly_one_answer_a_row_over_two_gateways(tmp_path: Path, stop: str) -> None:
    with bare_machine(tmp_path, TINY, "tiny") as machine:
        lines = [
            {
                "custom_id": f"r{number}",
                "method": "POST",
                "url": "/v1/completions",
                "body": {"model": "tiny", "prompt": f"word{number}", "max_tokens": 400},
            }
            for number in range(ROWS)
        ]
        source = client(machine).files.create(
            file=("in.jsonl", "\n".join(map(json.dumps, lines)).encode()), purpose="batch"
        )
        ordered = client(machine).batches.create(
            input_file_id=source.id, endpoint="/v1/completions", completion_window="24h"
        )
        wait(machine, ordered.id, rows=10)
        if stop == "kill":
            os.kill(gateway(machine)["pid"], signal.SIGKILL)
        else:
            machine.run("mt-submit", "gateway", "stop")
        machine.run("mt-submit", "gateway", "start")
        batch = wait(machine, ordered.id)
        assert batch.status == "completed"
        assert batch.output_file_id is not None
        content = client(machine).files.content(batch.output_file_id)
        answered = Counter(json.loads(line)["custom_id"] for line in content.text.splitlines())
        assert answered == Counter(f"r{number}" for number in range(ROWS))
        said = of_host(Layout(tmp_path / "registry"), "batches", "log").read_text()
        assert said.count(f"{ordered.id}: {ROWS} rows") == 2, "the second process went on"
