"""The agent's engine over TLS: it is given the launch's certificate, and no other is taken."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from modeltainer.jobs.diagnose import diagnose
from modeltainer.jobs.engines.base import CERTIFICATE_FILE, PRIVATE_KEY_FILE
from modeltainer.jobs.probe import NotYetError, Target, check_identity
from modeltainer.registry.records import State
from modeltainer.tls import new_certificate
from tests.jobs.conftest import StartAgent

FAKE_ENGINE = Path(__file__).with_name("fake_engine.py")


def test_from_start_to_stop(start_agent: StartAgent, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    agent = start_agent(
        tls=True,
        runtime="native",
        command=(sys.executable, str(FAKE_ENGINE), "serve"),
        environ={"SLURM_TMPDIR": str(scratch)},
    )
    ready = agent.wait_for(State.READY)
    assert ready.port is not None
    assert ready.tls
    [key] = scratch.glob(f"*/{PRIVATE_KEY_FILE}")
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.parent.stat().st_mode & 0o777 == 0o700

    secret = agent.secret
    own = Target("127.0.0.1", ready.port, secret.key, "tiny", secret.nonce, secret.certificate)
    check_identity(own)
    with pytest.raises(NotYetError, match="certificate verify failed"):
        check_identity(replace(own, certificate=new_certificate("other").certificate))
    with pytest.raises(NotYetError):
        check_identity(replace(own, certificate=None))

    assert agent.terminate() == 0
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("act", "said"),
    [("impostor", "certificate verify failed"), ("no-tls", "not ready: GET /health")],
)
def test_what_is_not_the_engine_is_never_adopted(
    start_agent: StartAgent, tmp_path: Path, act: str, said: str
) -> None:
    forged = new_certificate("forged")
    (tmp_path / CERTIFICATE_FILE).write_text(forged.certificate)
    (tmp_path / PRIVATE_KEY_FILE).write_text(forged.private_key)
    agent = start_agent(
        tls=True,
        runtime="native",
        command=(sys.executable, str(FAKE_ENGINE), act, str(tmp_path)),
        load_timeout_s=3,
    )
    ended = agent.wait_for(State.ENDED)
    assert ended.cause is not None
    assert ended.cause.code == "load-timeout"
    assert said in agent.log()


def test_an_engine_built_without_tls_is_named() -> None:
    cause = diagnose(1, "srv init: the server is built without SSL support\n")
    assert cause.code == "no-tls-in-engine"
