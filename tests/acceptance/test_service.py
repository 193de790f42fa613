"""What is declared is started when it is asked for, and what cannot start is told."""

from __future__ import annotations

import json
import os
import time

import pytest

from modeltainer.registry.deployments import History, file_name, write_history
from modeltainer.registry.layout import Layout
from tests.acceptance.service import load, outcome, ready, serves, until
from tests.acceptance.site import Account

pytestmark = pytest.mark.cluster


def test_requests_for_a_cold_model_start_one_job_and_wait_for_it(alice: Account) -> None:
    alice.write_config(
        gateway={
            "listen": "tcp",
            "port": 0,
            "cold_start": {"enabled": True, "wait": 60, "idle_release": 10},
        }
    )
    alice.mt("gateway start")
    running = load(alice, "tiny", seconds=1, long_s=0.01)
    found = outcome(running)
    assert found["bad"] == []
    assert found["requests"] >= 3
    assert len(alice.jobs()) == 1
    until(lambda: alice.jobs() == [], "the idle model is let go", 60)
    assert "0-1" in alice.mt("ls").stdout
    alice.mt("stop tiny")
    alice.assert_nothing_left()


def test_bad_wishes_are_told_and_leave_what_runs_alone(alice: Account) -> None:
    gguf = "/shared/models/gemma-3-270m.gguf"
    two = {"gpus": 2, "gpu_type": "a100_1g.10gb"}
    alice.config["models"]["long"] = {
        **alice.config["models"]["tiny"],
        **{"aliases": [], "source": gguf, "context": 10**9, "resources": {"gpus": 1}},
    }
    alice.config["models"]["sliced"] = {
        **{"engine": "vllm", "source": "/shared/models", "resources": two},
        "command": ["vllm", "serve"],
    }
    alice.config["models"]["slow"] = {
        **alice.config["models"]["tiny"],
        **{"aliases": [], "drain": "5s"},
        "command": ["sh", "-c", 'sleep 70; exec llama-server "$@"', "sh"],
    }
    alice.write_config()
    alice.mt("gateway start")
    alice.mt("up tiny --keep --wait")
    [running] = ready(alice)
    key = alice.mt("key create curl").stdout.strip()
    url = json.loads(alice.mt("gateway status --json").stdout)["url"]
    body = """'{"model": "tiny", "prompt": "a", "max_tokens": 2}'"""
    ask = f"curl -sf -H 'Authorization: Bearer {key}' -d {body} {url}/completions"

    def refused(line: str, *words: str) -> None:
        done = alice.mt(line, check=False)
        assert done.returncode != 0, done.stdout
        for word in words:
            assert word in done.stderr, done.stderr
        assert "choices" in alice.sh(ask).stdout

    refused("up tiny --keep --gpus 9", "9 are asked for, and a node has 2")
    refused("up tiny --keep --mig 7g.80gb", "no node of partition", "7g.80gb")
    refused("up tiny --keep --time 300:00:00", "at most 1-00:00:00")
    refused("up long --keep", "nothing here holds it")
    refused("size long", "nothing of this cluster holds it at context 1000000000")
    refused("up sliced --keep", "does not cross MIG slices")
    refused("up gemma --keep --gpus 1 --gpu-hours 0", "its GPU hours of today are used up")
    alice.mt("stop gemma")
    # A walltime that is over before the engine is up: when that is known, and when it is not.
    known = History("slow", load_s=(70.0,))
    layout = Layout(alice.registry)
    write_history(layout, known)
    file = layout.reconcile / file_name("slow")
    owner = layout.reconcile.stat()
    os.chown(file, owner.st_uid, owner.st_gid)
    refused("up slow --keep --time 1", "its starts take up to 70 s", "[walltime-too-short]")
    file.unlink()
    alice.mt("up slow --keep --time 1")
    until(lambda: "[walltime-too-short]" in alice.mt("ls").stdout, "the reason in ls", 150)
    assert "choices" in alice.sh(ask).stdout
    alice.mt("stop slow")
    # The file changes under it: first into nonsense, then so that the model is gone.
    file = alice.here(alice.home) / "models.yaml"
    good = file.read_text()
    file.write_text(good.replace("context: 256", "context: many"))
    refused("up gemma --keep", "models.yaml:", "models.tiny.context", "not 'many'")
    file.write_text(good.replace("  tiny:", "  tinier:"))
    refused("up tiny --keep", "tiny")
    time.sleep(5)
    assert serves(alice, running)
    # Its job is lost, and nobody knows what it was.
    alice.sh(f"scancel {running['job_id']}")
    until(lambda: "no model 'tiny'" in alice.mt("ls").stdout, "the reason in ls")
    file.write_text(good)
    until(lambda: len(ready(alice)) == 1, "it is there again", 120)
    alice.mt("stop --all")
    alice.assert_nothing_left()


def test_what_cannot_start_is_tried_ever_more_rarely_and_said(alice: Account) -> None:
    alice.config["models"]["tiny"]["engine_args"] = {"no-such-option": 1}
    alice.write_config()
    alice.mt("gateway start")
    alice.mt("up tiny --keep")
    until(lambda: "starts in a row failed" in alice.mt("ls").stdout, "the cause in ls")
    assert len(alice.launch_folders()) <= 2
    assert "next try in" in alice.mt("ls").stdout
    alice.config["models"]["tiny"].pop("engine_args")
    alice.write_config()
    alice.mt("up tiny --keep --wait")  # mended and declared again: no waiting
    assert len(ready(alice)) == 1
    refused = alice.mt("up gemma --keep --time 300:00:00", check=False)
    assert refused.returncode != 0
    assert json.loads(alice.mt("ls --deployments --json").stdout)[0]["model"] == "tiny"
    alice.mt("stop --all")
    alice.assert_nothing_left()
