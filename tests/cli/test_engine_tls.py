"""Straight to an engine that speaks TLS: the registry tells which certificate it must have."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modeltainer.bench import preflight
from modeltainer.bench.client import Client, target
from modeltainer.registry.launches import new_secret
from modeltainer.registry.records import LaunchSecret
from tests.cli.conftest import Shell
from tests.engine.scripted import ScriptedEngine, whole
from tests.gateway.setup import Launched, World

ANSWER = whole({"choices": [{"message": {"content": "four"}, "finish_reason": "stop"}]})

Launch = Callable[[LaunchSecret], Launched]


@pytest.fixture
def secret() -> LaunchSecret:
    return new_secret(tls=True)


@pytest.fixture
def launch(shell: Shell, secret: LaunchSecret, tmp_path: Path) -> Iterator[Launch]:
    """Put ``secret``'s launch into the shell's registry, with an engine that shows the certificate
    of the secret given. There is no gateway."""
    world = World(shell.folder)
    engines: list[ScriptedEngine] = []

    def begin(shown: LaunchSecret) -> Launched:
        assert shown.private_key is not None
        assert shown.certificate is not None
        chain = tmp_path / "chain.pem"
        chain.write_text(shown.private_key + shown.certificate)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)
        engines.append(ScriptedEngine(["tiny", secret.nonce], secret.key, tls=context))
        engines[-1].__enter__()
        engines[-1].answer = ANSWER
        return world.launch("tiny", engine=engines[-1], secret=secret, tls=True)

    yield begin
    for engine in engines:
        engine.stop()
    world.close()


def test_chat_and_batch_trust_the_launchs_certificate(
    shell: Shell, secret: LaunchSecret, launch: Launch, tmp_path: Path
) -> None:
    launched = launch(secret)
    direct = ("--url", f"https://127.0.0.1:{launched.engine.port}", "--key", secret.key)
    said = shell.run("chat", "tiny", "What is 2+2?", "--no-stream", *direct)
    assert said.stdout.strip() == "four"
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps({"prompt": "What is 2+2?"}) + "\n")
    done = shell.run("batch", "run", str(questions), "--model", "tiny", *direct)
    assert done.exit_code == 0, done.output
    assert launched.engine.keys_seen == {f"Bearer {secret.key}"}


def test_chat_shows_an_impostor_nothing(shell: Shell, secret: LaunchSecret, launch: Launch) -> None:
    launched = launch(new_secret(tls=True))
    url = f"https://127.0.0.1:{launched.engine.port}"
    result = shell.run("chat", "tiny", "x", "--url", url, "--key", secret.key)
    assert result.exit_code == 8
    assert "CERTIFICATE_VERIFY_FAILED" in result.output
    # Nor is a certificate taken that no launch of this registry has.
    launched.writer.remove()
    assert shell.run("chat", "tiny", "x", "--url", url, "--key", "k").exit_code == 8
    assert launched.engine.requests == []
    assert launched.engine.keys_seen == set()


def test_a_secret_that_others_can_read_is_not_used(
    shell: Shell, secret: LaunchSecret, launch: Launch
) -> None:
    launched = launch(secret)
    shell.layout.secret(launched.launch_id).chmod(0o644)
    url = f"https://127.0.0.1:{launched.engine.port}"
    result = shell.run("chat", "tiny", "x", "--url", url, "--key", secret.key)
    assert result.exit_code == 1
    assert "its certificate cannot be read" in result.stderr
    assert "is open to others" in result.stderr
    assert launched.engine.keys_seen == set()


def test_the_last_launch_on_a_port_counts(
    shell: Shell, secret: LaunchSecret, launch: Launch
) -> None:
    launched = launch(secret)
    world = World(shell.folder)
    for started_unix in (1.0, 2.0):  # killed outright: their records are left
        world.launch(
            "tiny",
            engine=launched.engine,
            secret=new_secret(tls=True),
            started_unix=started_unix,
        )
    direct = ("--url", f"https://127.0.0.1:{launched.engine.port}", "--key", secret.key)
    assert shell.run("chat", "tiny", "x", "--no-stream", *direct).stdout.strip() == "four"


def test_bench_trusts_the_launchs_certificate(secret: LaunchSecret, launch: Launch) -> None:
    launched = launch(secret)
    other = new_secret(tls=True)
    url = f"https://127.0.0.1:{launched.engine.port}/v1"

    async def ask(certificate: str | None) -> tuple[int, str]:
        to = target(url, "tiny", secret.key, certificate=certificate)
        client = Client(to, "/v1/chat/completions", 5.0)
        exchanges = [await client.perform(b'{"model": "tiny"}') for _ in range(2)]
        client.close()
        return exchanges[-1].status, exchanges[-1].failure

    assert asyncio.run(ask(secret.certificate)) == (200, "")
    assert asyncio.run(ask(other.certificate)) == (0, "connect")
    own = target(url, "tiny", secret.key, certificate=secret.certificate)
    assert preflight.check(own).facts["listed"]
    with pytest.raises(preflight.PreflightError, match="CERTIFICATE_VERIFY_FAILED"):
        preflight.check(target(url, "tiny", secret.key, certificate=other.certificate))
