"""The agent's engines over TLS: it makes the certificate, and takes no other."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modeltainer.jobs.certificate import KEY_FILE, make_certificate
from modeltainer.jobs.diagnose import diagnose
from modeltainer.jobs.engines import EngineStart, TlsFiles, engine_for
from modeltainer.jobs.probe import NotYetError, Target, check_identity
from modeltainer.registry.records import State
from modeltainer.spec import EngineName, LaunchSpec, Resources, Site, Source
from tests.jobs.conftest import RunningAgent, StartAgent
from tests.vllm import environment

FAKE_ENGINE = Path(__file__).with_name("fake_engine.py")


def start(start_agent: StartAgent, tmp_path: Path, *act: str, **more: Any) -> RunningAgent:
    site = Site(str(tmp_path / "registry"), str(tmp_path / "cache"), engine_tls=True)
    command = (sys.executable, str(FAKE_ENGINE), *act)
    return start_agent(runtime="native", command=command, site=site, **more)


def test_from_start_to_stop(start_agent: StartAgent, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    agent = start(start_agent, tmp_path, "serve", environ={"SLURM_TMPDIR": str(scratch)})
    ready = agent.wait_for(State.READY)
    assert ready.port is not None
    assert ready.certificate is not None
    [key] = scratch.glob(f"*/{KEY_FILE}")
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.parent.stat().st_mode & 0o777 == 0o700

    own = Target(
        "127.0.0.1", ready.port, agent.secret.key, "tiny", agent.secret.nonce, ready.certificate
    )
    check_identity(own)
    (tmp_path / "other").mkdir()
    other = replace(own, certificate=make_certificate(tmp_path / "other", "127.0.0.1"))
    with pytest.raises(NotYetError, match="its certificate is not the launch's"):
        check_identity(other)
    with pytest.raises(NotYetError):
        check_identity(replace(own, certificate=None))

    assert agent.terminate() == 0
    assert list(scratch.iterdir()) == []
    ended = agent.endpoint()
    assert ended is not None
    assert (ended.port, ended.certificate) == (None, None)


def test_two_launches_have_two_certificates(start_agent: StartAgent, tmp_path: Path) -> None:
    agents = [start(start_agent, tmp_path, "serve") for _ in range(2)]
    first, second = (agent.wait_for(State.READY).certificate for agent in agents)
    assert first != second


@pytest.mark.parametrize(
    ("act", "said"),
    [("impostor", "its certificate is not the launch's"), ("no-tls", "does not speak TLS")],
)
def test_what_is_not_the_engine_is_never_adopted(
    start_agent: StartAgent, tmp_path: Path, act: str, said: str
) -> None:
    (tmp_path / "forged").mkdir()
    make_certificate(tmp_path / "forged", "127.0.0.1")
    agent = start(start_agent, tmp_path, act, str(tmp_path / "forged"), load_timeout_s=3)
    ended = agent.wait_for(State.ENDED)
    assert ended.cause is not None
    assert ended.cause.code == "load-timeout"
    assert said in agent.log()


def test_a_node_without_openssl_is_named(start_agent: StartAgent, tmp_path: Path) -> None:
    agent = start(start_agent, tmp_path, "serve", environ={"PATH": str(tmp_path)})
    ended = agent.wait_for(State.ENDED)
    assert ended.cause is not None
    assert ended.cause.code == "no-certificate"
    assert "no openssl command" in ended.cause.message
    assert "site.prelude" in ended.cause.hint


def test_an_openssl_that_fails_is_quoted(start_agent: StartAgent, tmp_path: Path) -> None:
    broken = tmp_path / "openssl"
    broken.write_text("#!/bin/sh\necho 'unknown option -pkeyopt' >&2\nexit 1\n")
    broken.chmod(0o755)
    agent = start(start_agent, tmp_path, "serve", environ={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    ended = agent.wait_for(State.ENDED)
    assert ended.cause is not None
    assert ended.cause.code == "no-certificate"
    assert "unknown option -pkeyopt" in ended.cause.message


def test_an_engine_built_without_tls_is_named() -> None:
    cause = diagnose(1, "srv init: the server is built without SSL support\n")
    assert cause.code == "no-tls-in-engine"


@pytest.mark.vllm
@pytest.mark.timeout(1800)  # the first run installs vLLM
def test_vllm(start_agent: StartAgent, tmp_path: Path) -> None:
    vllm = environment.build()
    agent = start_agent(
        model="tiny-llama",
        engine="vllm",
        runtime="native",
        command=(str(vllm / "bin" / "vllm"), "serve"),
        source=Source("path", str(vllm / "tiny-llama")),
        site=Site(str(tmp_path / "registry"), str(tmp_path / "cache"), engine_tls=True),
        env={"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"},
        engine_args={"enforce-eager": True, "dtype": "bfloat16", "max-num-seqs": 8},
    )
    ready = agent.wait_for(State.READY, timeout_s=400)
    assert ready.certificate is not None
    assert ready.engine_version is not None  # asked over TLS as well
    assert ready.engine_version.startswith("vLLM")
    assert agent.terminate() == 0


@pytest.mark.parametrize(
    ("engine", "options"),
    [
        ("llamacpp", ["--ssl-key-file", "/k", "--ssl-cert-file", "/c"]),
        ("vllm", ["--ssl-keyfile", "/k", "--ssl-certfile", "/c"]),
    ],
)
def test_engines_are_given_the_files(engine: EngineName, options: list[str]) -> None:
    spec = LaunchSpec(
        launch_id="m-r0-abcdef",
        model="m",
        replica=0,
        engine=engine,
        runtime="native",
        source=Source("path", "/m.gguf"),
        resources=Resources(),
        site=Site("/r", "/c"),
    )
    begun = EngineStart(spec, "0.0.0.0", 8000, "nonce", tls=TlsFiles("/k", "/c"))
    argv = engine_for(engine, "native").command(begun).argv
    assert " ".join(options) in " ".join(argv)
    plain = engine_for(engine, "native").command(replace(begun, tls=None)).argv
    assert not [option for option in plain if "ssl" in option]
