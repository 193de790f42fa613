"""The agent with a real engine: it registers what answers, and says in words what does not."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeltainer.jobs.agent import corrected_end
from modeltainer.jobs.probe import Target, model_ids
from modeltainer.registry.records import State
from modeltainer.spec import NodeCache, Site, Source
from tests.jobs.conftest import StartAgent

FAKE_ENGINE = Path(__file__).with_name("fake_engine.py")


def processes_with(text: str, *, where: str = "environ") -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                content = (folder / where).read_bytes()
            except OSError:
                continue
            if text.encode() in content:
                found.append(int(folder.name))
    return found


def test_weights_are_read_from_the_nodes_own_disk(start_agent: StartAgent, tmp_path: Path) -> None:
    cache = NodeCache("$NODE_SCRATCH/copies", when="always")
    site = Site(registry=str(tmp_path / "registry"), cache=str(tmp_path / "c"), node_cache=cache)
    environ = {"NODE_SCRATCH": str(tmp_path / "disk")}
    for number in range(2):
        agent = start_agent(environ, site=site)
        ready = agent.wait_for(State.READY)
        assert ready.clocks.staging_s is not None
        assert (f"copying {agent.spec.source.value}" in agent.log()) == (number == 0)
        [engine] = processes_with(str(tmp_path / "disk" / "copies"))[:1]
        settings = Path(f"/proc/{engine}/environ").read_bytes()
        assert b"disk/copies/tiny.gguf-" in settings
        assert agent.terminate() == 0


@given(st.floats(0, 60), st.floats(1, 600), st.floats(0, 1e5))
def test_an_early_signal_that_fits_changes_nothing(
    sooner_s: float, early_s: float, now: float
) -> None:
    ends = now + early_s + sooner_s  # as Slurm sends it
    assert corrected_end(ends, now, early_s) == pytest.approx(ends)
    assert corrected_end(ends + 61, now, early_s) == now + early_s


def test_slurms_early_signal_has_the_last_word(start_agent: StartAgent) -> None:
    """By the times in its environment the job would go on for an hour."""
    now = int(time.time())
    times = {"SLURM_JOB_START_TIME": str(now), "SLURM_JOB_END_TIME": str(now + 3600)}
    environ = {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "localhost", **times}
    agent = start_agent(environ, early_signal_s=1)
    agent.wait_for(State.READY)
    agent.process.send_signal(signal.SIGURG)
    ended = agent.wait_for(State.ENDED)
    assert ended.cause is not None
    assert ended.cause.code == "walltime"


def test_from_start_to_stop(start_agent: StartAgent) -> None:
    agent = start_agent()
    ready = agent.wait_for(State.READY)
    assert ready.port is not None
    assert ready.host == "127.0.0.1"
    assert ready.clocks.loading_s is not None

    target = Target("127.0.0.1", ready.port, agent.secret.key, "tiny", agent.secret.nonce)
    status, body = target.get("/v1/models")
    assert status == 200
    assert agent.secret.nonce in model_ids(body)
    status, body = target.post("/v1/completions", {"prompt": "a", "max_tokens": 3}, 30)
    assert json.loads(body)["usage"]["completion_tokens"] == 3

    stranger = replace(target, key="wrong")
    assert stranger.post("/v1/completions", {"prompt": "a", "max_tokens": 1}, 10)[0] == 401

    before = ready.counter
    time.sleep(ready.period_s + 1)
    now = agent.endpoint()
    assert now is not None
    assert now.counter > before

    assert agent.terminate() == 0
    ended = agent.endpoint()
    assert ended is not None
    assert ended.state is State.ENDED
    assert ended.cause is not None
    assert ended.cause.code == "stopped"
    assert not ended.cause.failed
    assert processes_with(agent.secret.nonce) == []


def test_neither_key_nor_nonce_is_in_a_command_line(start_agent: StartAgent) -> None:
    agent = start_agent()
    agent.wait_for(State.READY)
    assert processes_with(agent.secret.nonce)  # the engine knows it, from its environment
    assert processes_with(agent.secret.key, where="cmdline") == []
    assert processes_with(agent.secret.nonce, where="cmdline") == []


def test_the_embedded_engine_takes_llama_servers_options(start_agent: StartAgent) -> None:
    """The same models.yaml runs on a bare machine and on a cluster."""
    agent = start_agent(engine_args={"parallel": 3, "no-warmup": True, "n_keep": 4})
    ready = agent.wait_for(State.READY)
    assert ready.port is not None
    target = Target("127.0.0.1", ready.port, agent.secret.key, "tiny", agent.secret.nonce)
    status, body = target.get("/slots")
    assert status == 200
    assert len(json.loads(body)) == 3
    misspelt = start_agent(engine_args={"parallels": 3})
    misspelt.wait_for(State.ENDED)
    assert "unknown engine argument parallels for the embedded runtime; did you mean parallel?" in (
        misspelt.log("engine.log")
    )


def test_a_dying_engine_is_seen_at_once(start_agent: StartAgent) -> None:
    agent = start_agent()
    agent.wait_for(State.READY)
    tethers = processes_with("modeltainer.jobs.tether", where="cmdline")
    [engine] = [pid for pid in processes_with(agent.secret.nonce) if pid not in tethers]
    os.kill(engine, signal.SIGSEGV)
    died = time.monotonic()
    ended = agent.wait_for(State.ENDED)
    assert time.monotonic() - died < 5
    assert ended.cause is not None
    assert "signal 11" in ended.cause.message
    assert agent.process.wait(20) == 1


def test_an_agent_that_is_killed_takes_its_engine_along(start_agent: StartAgent) -> None:
    agent = start_agent()
    agent.wait_for(State.READY)
    agent.process.kill()
    deadline = time.monotonic() + 10
    while processes_with(agent.secret.nonce) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_with(agent.secret.nonce) == []


def test_a_damaged_model_is_named(
    start_agent: StartAgent, tiny_model: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny_model.read_bytes()[:-4096])
    agent = start_agent(source=Source("path", str(cut)))
    ended = agent.wait_for(State.ENDED)
    assert ended.cause is not None
    assert ended.cause.code == "damaged-model"
    assert ended.cause.log


def test_a_missing_command_is_named(start_agent: StartAgent) -> None:
    agent = start_agent(runtime="native", command=("no-such-llama-server",))
    ended = agent.wait_for(State.ENDED)
    assert ended.cause is not None
    assert ended.cause.code == "no-such-command"
    assert "no-such-llama-server" in ended.cause.message


def test_no_apptainer_on_the_node(start_agent: StartAgent, tmp_path: Path) -> None:
    image = tmp_path / "image.sif"
    image.write_bytes(b"")
    agent = start_agent(environ={"PATH": str(tmp_path)}, runtime="apptainer", image=str(image))
    ended = agent.wait_for(State.ENDED)
    assert ended.cause is not None
    assert ended.cause.code == "no-apptainer"


def test_an_engine_that_never_answers_is_ended(start_agent: StartAgent) -> None:
    agent = start_agent(
        runtime="native", command=(sys.executable, str(FAKE_ENGINE), "hang"), load_timeout_s=2
    )
    ended = agent.wait_for(State.ENDED)
    assert ended.cause is not None
    assert ended.cause.code == "load-timeout"
    assert processes_with(agent.secret.nonce) == []


def test_a_walltime_that_ends_before_the_engine_answers_is_a_failure(
    start_agent: StartAgent,
) -> None:
    now = int(time.time())
    times = {"SLURM_JOB_START_TIME": str(now), "SLURM_JOB_END_TIME": str(now + 8)}
    environ = {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "localhost", **times}
    command = (sys.executable, str(FAKE_ENGINE), "hang")
    ended = start_agent(environ, runtime="native", command=command).wait_for(State.ENDED)
    assert ended.cause is not None
    assert ended.cause.code == "walltime-too-short"
    assert ended.cause.failed
    assert "before the engine had answered" in ended.cause.message


def test_a_taken_port_is_left_for_another(start_agent: StartAgent, tmp_path: Path) -> None:
    state = tmp_path / "tries"
    agent = start_agent(
        runtime="native", command=(sys.executable, str(FAKE_ENGINE), "port-taken", str(state))
    )
    ready = agent.wait_for(State.READY)
    tries = [int(line) for line in state.read_text().split()]
    assert len(tries) == 3
    assert ready.port == tries[-1]
    assert len(set(tries)) == 3


def test_a_strangers_server_on_the_port_is_never_adopted(start_agent: StartAgent) -> None:
    agent = start_agent(
        runtime="native", command=(sys.executable, str(FAKE_ENGINE), "stranger"), load_timeout_s=3
    )
    ended = agent.wait_for(State.ENDED)
    assert ended.cause is not None
    assert ended.cause.code == "load-timeout"
    assert "another server answers on this port" in agent.log()


def test_running_requests_finish_before_a_stop(start_agent: StartAgent) -> None:
    agent = start_agent(
        runtime="native", command=(sys.executable, str(FAKE_ENGINE), "busy-for", "4"), drain_s=20
    )
    agent.wait_for(State.READY)
    asked = time.monotonic()
    agent.process.send_signal(signal.SIGTERM)
    agent.wait_for(State.DRAINING, timeout_s=3)
    assert agent.process.wait(30) == 0
    assert 3.5 < time.monotonic() - asked < 15


def test_every_allowed_port_is_taken(start_agent: StartAgent, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        site = Site(str(tmp_path / "registry"), str(tmp_path / "cache"), ports=(port, port))
        ended = start_agent(site=site).wait_for(State.ENDED)
    assert ended.cause is not None
    assert ended.cause.code == "no-free-port"
    assert str(port) in ended.cause.message
