"""What load generators themselves cost, side by side.

Each drives the same server with known timing, first with few requests and then with many, at the
same number of streams. The CPU time between the two, per token, is what a token costs its client:
what it needs to start is in neither. From it follows how many streams of that speed one core
drives. Rounds are interleaved; the median counts. Others are measured where they are given:

    python -m modeltainer.bench.load_generators --tokenizer FOLDER \\
        --guidellm ~/guidellm/bin/guidellm --aiperf ~/aiperf/bin/aiperf --vllm ~/vllm/bin/vllm
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from modeltainer.bench.calibrate import mock_server

TTFT_S, GAP_S, TOKENS = 0.05, 0.02, 64
FEW, MANY = 2, 10
"""Requests of each stream."""
PROMPT_TOKENS = 16


@dataclass(frozen=True)
class Load:
    """What a client is asked to do."""

    url: str
    streams: int
    requests: int
    tokenizer: str
    folder: str


Command = Callable[[Load], list[str]]


def ours(load: Load) -> list[str]:
    """``mt-submit bench``."""
    program = [sys.executable, "-m", "modeltainer.cli.main", "bench", "run", "mock"]
    shape = ["--prompt-tokens", str(PROMPT_TOKENS), "--output-tokens", str(TOKENS)]
    amount = ["--concurrency", str(load.streams), "--requests", str(load.requests)]
    rest = ["--no-calibration", "--output", f"{load.folder}/ours", "--workers", "1"]
    return [*program, "--url", load.url, *shape, *amount, *rest]


def guidellm(program: str) -> Command:
    """GuideLLM 0.8."""

    def command(load: Load) -> list[str]:
        return [
            *(program, "run", "--disable-console"),
            *("--backend", f"kind=openai_http,target={load.url},model=mock"),
            *("--profile", f"kind=concurrent,streams={load.streams}"),
            *("--constraint", f"kind=max_requests,count={load.requests}"),
            *("--tokenizer", f"kind=hf_auto,model={load.tokenizer}"),
            *(
                "--data",
                f"kind=synthetic_text,prompt_tokens={PROMPT_TOKENS},output_tokens={TOKENS}",
            ),
            *("--output", f"kind=json,path={load.folder}/guidellm.json"),
        ]

    return command


def aiperf(program: str) -> Command:
    """NVIDIA AIPerf 0.13."""

    def command(load: Load) -> list[str]:
        return [
            *(program, "profile", "--model", "mock", "--url", load.url, "--streaming"),
            *("--endpoint-type", "chat", "--ui", "none", "--tokenizer", load.tokenizer),
            *("--concurrency", str(load.streams), "--request-count", str(load.requests)),
            *("--isl", str(PROMPT_TOKENS), "--osl", str(TOKENS), "--use-server-token-count"),
            *("--artifact-dir", f"{load.folder}/aiperf"),
        ]

    return command


def vllm(program: str) -> Command:
    """``vllm bench serve``."""

    def command(load: Load) -> list[str]:
        return [
            *(program, "bench", "serve", "--model", "mock", "--base-url", load.url),
            *("--backend", "openai-chat", "--endpoint", "/v1/chat/completions"),
            *("--tokenizer", load.tokenizer, "--dataset-name", "random"),
            *("--random-input-len", str(PROMPT_TOKENS), "--random-output-len", str(TOKENS)),
            *("--num-prompts", str(load.requests), "--max-concurrency", str(load.streams)),
            "--disable-tqdm",
        ]

    return command


def cpu_s(argv: Sequence[str], log: Path) -> float:
    """CPU seconds of a program and of all that it has waited for.

    Raises:
        SystemExit: it failed; its last words are in the message.
    """
    environment = {**os.environ, "NO_COLOR": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=log.parent,
        )
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{argv[0]} failed:\n{log.read_text()[-3000:]}")
    return usage.ru_utime + usage.ru_stime


def per_token_s(command: Command, url: str, streams: int, tokenizer: str) -> float:
    """CPU seconds that one more token costs the client."""
    used = []
    for each in (FEW, MANY):
        with tempfile.TemporaryDirectory() as folder:
            load = Load(url, streams, each * streams, tokenizer, folder)
            used.append(cpu_s(command(load), Path(folder) / "output.log"))
    return (used[1] - used[0]) / ((MANY - FEW) * streams * TOKENS)


def main() -> None:
    """Measure, and print a table and, with ``--json``, all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", default="", help="folder of any small tokenizer")
    for name in ("guidellm", "aiperf", "vllm"):
        parser.add_argument(f"--{name}", metavar="PROGRAM")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    clients: dict[str, Command] = {"mt-submit bench": ours}
    for name, make in (("guidellm", guidellm), ("aiperf", aiperf), ("vllm", vllm)):
        program = getattr(options, name)
        if program:
            clients[name] = make(program)
    found: dict[str, list[float]] = {name: [] for name in clients}
    with mock_server(TTFT_S, GAP_S, TOKENS, tcp=True) as url:
        for _ in range(options.rounds):
            for name in random.sample(list(clients), len(clients)):
                cost = per_token_s(clients[name], url, options.streams, options.tokenizer)
                found[name].append(cost)
                print(f"{name}: {cost * 1e6:.1f} us a token", file=sys.stderr)
    print(f"{'client':<16} {'us a token':>10} {'streams a core':>15}")
    for name, costs in found.items():
        middle = statistics.median(costs)
        print(f"{name:<16} {middle * 1e6:>10.1f} {GAP_S / middle:>15.0f}")
    if options.json is not None:
        document = {"streams": options.streams, "gap_s": GAP_S, "cpu_s_per_token": found}
        options.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
