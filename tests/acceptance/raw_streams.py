"""What becomes of a real engine's streams behind the gateway when one of the two ends goes away."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from modeltainer.jobs.engines.base import metric_sum
from tests.acceptance.service import PYTHON, until
from tests.acceptance.site import Account

CLIENT = Path(__file__).with_name("raw_client.py").read_text()
KEEP_ALIVE_S = 6
"""Longer than uvicorn, and so vLLM, keeps a connection without requests."""
RUNNING = ("vllm:num_requests_running", "llamacpp:requests_processing")
GENERATED = ("vllm:generation_tokens_total", "llamacpp:tokens_predicted_total")


class RawClient:
    """Connects from a host of the cluster to a gateway that can be reached there."""

    def __init__(
        self, alice: Account, model: str, host: str, url: str, key: str, *, answers: int = 1
    ) -> None:
        """``answers``: how many a stream holds at once, so that it takes many seconds."""
        self._alice, self._model, self._host = alice, model, host
        self._answers = answers
        self._environ = {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": key}
        [self._row] = alice.ls()
        [secret] = (alice.registry / "launches").glob("*/secret.json")
        engine_key = json.loads(secret.read_text())["key"]
        self._ask = f"curl -sk -H 'Authorization: Bearer {engine_key}' {self._row['url']}/metrics"

    def check(self, tokens: int, engine: str) -> None:
        """All three, the engine's death last.

        Args:
            tokens: of each answer of a stream.
            engine: what its command line holds, and its agent's does not.
        """
        self._a_pause_is_no_failure()
        self._who_leaves_is_not_worked_for(tokens)
        self._a_dead_engine_ends_its_stream(tokens, engine)

    def _start(self, mode: str, number: int) -> subprocess.Popen[str]:
        argv = [PYTHON, "-c", CLIENT, mode, self._model, str(number), str(self._answers)]
        return self._alice.cluster.popen(self._host, argv, env=self._environ, stdin=subprocess.PIPE)

    def _begun(self, tokens: int) -> subprocess.Popen[str]:
        started = self._start("stream", tokens)
        assert started.stdout is not None
        said = started.stdout.readline()
        assert '"text"' in said, said + started.stdout.read()
        return started

    def _metric(self, names: tuple[str, ...]) -> int:
        """What the engine itself says."""
        said = self._alice.sh(self._ask)
        found = metric_sum(said.stdout, names)
        assert found is not None, said.stdout
        return found

    def _a_pause_is_no_failure(self) -> None:
        said, _ = self._start("pause", KEEP_ALIVE_S).communicate(timeout=60)
        assert said.split() == ["200", "200"]

    def _who_leaves_is_not_worked_for(self, tokens: int) -> None:
        before = self._metric(GENERATED)
        client = self._begun(tokens)
        client.communicate("leave\n", timeout=10)
        until(lambda: self._metric(RUNNING) == 0, "the engine stops", within=5)
        generated = self._metric(GENERATED) - before
        assert 0 < generated < tokens * self._answers

    def _a_dead_engine_ends_its_stream(self, tokens: int, engine: str) -> None:
        client = self._begun(tokens)
        kill = ["pkill", "-KILL", "-u", self._alice.user, "-f", engine]
        self._alice.cluster.run(self._row["node"], kill, user="root")
        said, _ = client.communicate("stay\n", timeout=60)
        *chunks, last = said.strip().split("\n\n")
        assert all('"text"' in chunk for chunk in chunks), said
        assert last.startswith('data: {"error":{"message":"the answer broke off'), said
        assert "[DONE]" not in said
