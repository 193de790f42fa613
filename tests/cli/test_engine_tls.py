"""Straight to an engine that speaks TLS: the registry tells which certificate it must have."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from modeltainer.bench import preflight
from modeltainer.bench.client import Client, target
from modeltainer.cli.doctor_node import openssl_finding
from modeltainer.registry import launches
from modeltainer.registry.records import State, Submission
from tests.cli.conftest import Shell
from tests.engine.scripted import whole
from tests.gateway.setup import Launched, World
from tests.gateway.test_tls import Certificate

ANSWER = whole({"choices": [{"message": {"content": "four"}, "finish_reason": "stop"}]})


@pytest.fixture
def world(shell: Shell) -> Iterator[World]:
    """Launches in the shell's registry, without a gateway."""
    made = World(shell.folder)
    yield made
    made.close()


def launch(world: World, pinned: Certificate, shown: Certificate) -> Launched:
    launched = world.launch("tiny", tls=shown.server, certificate=pinned.pem)
    launched.engine.answer = ANSWER
    return launched


def test_chat_and_batch_trust_the_pinned_certificate(
    shell: Shell, world: World, tmp_path: Path
) -> None:
    own = Certificate(tmp_path / "own")
    launched = launch(world, own, own)
    url = f"https://127.0.0.1:{launched.engine.port}"
    direct = ("--url", url, "--key", launched.secret.key)
    said = shell.run("chat", "tiny", "What is 2+2?", "--no-stream", *direct)
    assert said.stdout.strip() == "four"
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps({"prompt": "What is 2+2?"}) + "\n")
    done = shell.run("batch", "run", str(questions), "--model", "tiny", *direct)
    assert done.exit_code == 0, done.output
    assert launched.engine.keys_seen == {f"Bearer {launched.secret.key}"}


def test_chat_shows_an_impostor_nothing(shell: Shell, world: World, tmp_path: Path) -> None:
    launched = launch(world, Certificate(tmp_path / "own"), Certificate(tmp_path / "forged"))
    url = f"https://127.0.0.1:{launched.engine.port}"
    result = shell.run("chat", "tiny", "x", "--url", url, "--key", launched.secret.key)
    assert result.exit_code == 8
    assert "CERTIFICATE_VERIFY_FAILED" in result.output
    # Nor is a certificate taken that no record pins.
    launched.writer.remove()
    assert shell.run("chat", "tiny", "x", "--url", url, "--key", "k").exit_code == 8
    assert launched.engine.requests == []
    assert launched.engine.keys_seen == set()


def test_bench_trusts_the_pinned_certificate(world: World, tmp_path: Path) -> None:
    own, forged = Certificate(tmp_path / "own"), Certificate(tmp_path / "forged")
    launched = launch(world, own, own)
    url = f"https://127.0.0.1:{launched.engine.port}/v1"
    key = launched.secret.key

    async def ask(certificate: Certificate) -> tuple[int, str]:
        to = target(url, "tiny", key, certificate=certificate.pem)
        client = Client(to, "/v1/chat/completions", 5.0)
        exchanges = [await client.perform(b'{"model": "tiny"}') for _ in range(2)]
        client.close()
        return exchanges[-1].status, exchanges[-1].failure

    assert asyncio.run(ask(own)) == (200, "")
    assert asyncio.run(ask(forged)) == (0, "connect")
    assert preflight.check(target(url, "tiny", key, certificate=own.pem)).facts["listed"]
    with pytest.raises(preflight.PreflightError, match="CERTIFICATE_VERIFY_FAILED"):
        preflight.check(target(url, "tiny", key, certificate=forged.pem))


def test_the_last_launch_on_a_port_counts(shell: Shell, world: World, tmp_path: Path) -> None:
    own = Certificate(tmp_path / "own")
    launched = launch(world, own, own)
    for started_unix in (1.0, 2.0):  # killed outright: their records are left
        world.launch(
            "tiny",
            engine=launched.engine,
            certificate=Certificate(tmp_path / str(started_unix)).pem,
            started_unix=started_unix,
        )
    direct = ("--url", f"https://127.0.0.1:{launched.engine.port}", "--key", launched.secret.key)
    assert shell.run("chat", "tiny", "x", "--no-stream", *direct).stdout.strip() == "four"


def test_doctor_looks_for_openssl() -> None:
    assert openssl_finding("/usr/bin/openssl", "c1").status == "ok"
    missing = openssl_finding(None, "c1")
    assert (missing.status, "not on PATH on c1" in missing.message) == ("failure", True)


def test_ls_shows_that_it_is_tls(shell: Shell, world: World, tmp_path: Path) -> None:
    own = Certificate(tmp_path / "own")
    launched = launch(world, own, own)
    endpoint = launched.writer.endpoint
    launches.record_submission(
        shell.layout,
        Submission(launched.launch_id, "tiny", 0, "sbatch", endpoint.job_id, 0.0),
    )
    [row] = shell.json("ls", "--json")
    assert row["state"] == State.READY.value
    assert row["url"] == f"https://127.0.0.1:{launched.engine.port}"
