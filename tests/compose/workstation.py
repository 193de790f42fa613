"""A workstation that serves a models.yaml by a compose project, and what the tests ask of it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner

from modeltainer.cli.main import cli
from tests.compose.container import Containers
from tests.compose.plugin import config

CLIENT = """
import sys, openai
client = openai.OpenAI(base_url="http://127.0.0.1:8000/v1", api_key=sys.argv[1], max_retries=0)
answer = client.completions.create(model=sys.argv[2], prompt="one two", max_tokens=8, stream=True)
pieces = [event.choices[0].text for event in answer]
print(len(pieces))
"""


def until(true: Callable[[], bool], within: float = 60.0) -> None:
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.2)


COUNT = """
import collections, sys, httpx
with httpx.Client(headers={"authorization": f"Bearer {sys.argv[1]}"}, timeout=60) as client:
    asked = {"model": sys.argv[2], "prompt": "one two", "max_tokens": 1}
    answers = [
        client.post("http://127.0.0.1:8000/v1/completions", json=asked).raise_for_status()
        for _ in range(int(sys.argv[3]))
    ]
names = [one.headers["x-modeltainer-model"] for one in answers]
for name, count in collections.Counter(names).items():
    print(name, count)
"""


def rendered(
    here: Path,
    models: dict[str, Any],
    profiles: Sequence[str],
    splits: dict[str, dict[str, int]] | None = None,
) -> Containers:
    """The project that `mt-submit compose` writes for these models; nothing is started yet."""
    file = here / "models.yaml"
    document = {"site": {"cache": str(here / "cache")}, "models": models, "splits": splits or {}}
    file.write_text(yaml.safe_dump(document))
    output = here / "llm" / "compose.yaml"
    words = ["--config", str(file), "compose", "--user", "10001:10001", "--output", str(output)]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    return Containers(config(output, profiles), here / "run")


def create_key(project: Containers) -> str:
    """A client's key, made as a user makes one: in the gateway's container."""
    made = project.execute("gateway", ["mt-submit", "key", "create", "laptop"])
    assert made.returncode == 0, made.stdout
    [line] = [line for line in made.stdout.splitlines() if line.startswith("mt-")]
    return line


def ask(project: Containers, key: str, model: str) -> subprocess.CompletedProcess[str]:
    command = [*project.enter(), sys.executable, "-c", CLIENT, key, model]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def answered_by(project: Containers, key: str, name: str, requests: int) -> dict[str, int]:
    """Which model answered how many of so many requests, as the answers' headers say."""
    command = [*project.enter(), sys.executable, "-c", COUNT, key, name, str(requests)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return {model: int(count) for model, count in map(str.split, done.stdout.splitlines())}


def endpoints(project: Containers, key: str) -> dict[str, str]:
    """State by service, as the gateway's status page tells."""
    command = [*project.enter(), "curl", "-s", "-H", f"Authorization: Bearer {key}"]
    done = subprocess.run(
        [*command, "http://127.0.0.1:8000/admin/status"],
        capture_output=True,
        text=True,
        check=False,
    )
    listed = json.loads(done.stdout)["endpoints"] if done.stdout else []
    return {one["node"]: "routed" if one["routed"] else one["state"] for one in listed}
