"""The runbooks, followed: their commands as they stand, on the cluster, with small models under the
names they use."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.acceptance.site import Account, account
from tests.acceptance.vllm_models import vllm_section
from tests.cluster.cluster import Cluster
from tests.docs.code_blocks import ROOT

pytestmark = pytest.mark.cluster


def commands(book: str, heading: str) -> list[str]:
    """The shell lines of one section. One that follows a log is left after a few seconds."""
    text = (ROOT / "docs" / f"runbook-{book}.md").read_text()
    [section] = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    lines = [
        line
        for block in re.findall(r"```sh\n(.*?)```", section, re.S)
        for line in block.splitlines()
    ]
    assert lines
    return [
        f"timeout 4 {line} || [ $? = 124 ]" if line.endswith("--follow") else line for line in lines
    ]


def follow(alice: Account, *lines: str) -> str:
    """Type the lines; what came on both outputs."""
    done = alice.sh("set -ex; " + "\n".join(lines) + "\n", timeout=400)
    return done.stdout + done.stderr


def end(alice: Account) -> None:
    alice.mt("stop --all", check=False)
    alice.mt("gateway stop", check=False)


def test_llama_cpp(cluster: Cluster) -> None:
    alice = account(cluster, "alice", "runbook-llamacpp")
    tiny: dict[str, Any] = {**alice.config["models"]["tiny"], "aliases": []}
    gated = {**tiny, "secrets": {"HF_TOKEN": {"env": "HF_TOKEN"}}}
    alice.write_config(models={"smollm2-cpu": tiny, "smollm2-q8": tiny, "gemma-gguf": gated})
    try:
        assert "→ ready" in follow(alice, *commands("llamacpp", "Start"))
        assert [row["state"] for row in alice.ls()] == ["ready"]
        follow(alice, *commands("llamacpp", "Gated models"))
        follow(alice, *commands("llamacpp", "Swap a model"))
        assert {row["model"] for row in alice.ls()} == {"smollm2-q8", "gemma-gguf"}
        alice.mt("up smollm2-cpu --wait")
        said = follow(alice, *commands("llamacpp", "Read the logs"))
        assert "n_ctx_slot = 256" in said
        assert "listening on" in said
        assert "tokens per second" in said
        assert "ready after" in said
    finally:
        end(alice)
    alice.assert_nothing_left()


@pytest.mark.vllm
@pytest.mark.timeout(1800)  # the first run installs vLLM
def test_vllm(cluster_22_05: Cluster) -> None:
    alice = account(cluster_22_05, "alice", "runbook-vllm")
    section = vllm_section(cluster_22_05)
    alice.write_config(models={"qwen2.5-7b": section, "qwen3-8b": section})
    # Natively there is no image to pull.
    start = [line for line in commands("vllm", "Start") if " pull " not in line]
    try:
        assert "→ ready" in follow(alice, *start)
        said = follow(alice, *commands("vllm", "Read the logs"))
        assert "Application startup complete" in said
        assert "ready after" in said
        follow(alice, *commands("vllm", "Swap a model"))
        assert [(row["model"], row["state"]) for row in alice.ls()] == [("qwen3-8b", "ready")]
        assert alice.mt("chat qwen3-8b 'one two' --max-tokens 4").stdout.strip()
    finally:
        end(alice)
    alice.assert_nothing_left()
