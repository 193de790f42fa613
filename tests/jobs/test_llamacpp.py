"""llama.cpp's server as the agent starts it: its command line, and many clients at once."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from modeltainer.jobs.engines.base import EngineStart
from modeltainer.jobs.engines.llamacpp import HTTP_THREADS, EmbeddedLlamaCpp, LlamaCpp
from modeltainer.spec import Resources, Source
from tests.launch_spec import launch_spec
from tests.tiny_gguf import write_tiny_gguf

CLIENTS = 64


def start(port: int, model: str = "/m.gguf", **options: Any) -> EngineStart:
    spec = launch_spec(
        source=Source("path", model), resources=Resources(cpus=2), engine_args=options
    )
    return EngineStart(spec, "127.0.0.1", port, "nonce")


@pytest.mark.parametrize(
    ("options", "threads"), [({}, str(HTTP_THREADS)), ({"threads_http": 32}, "32")]
)
def test_a_thread_for_each_connection_unless_the_user_says_otherwise(
    options: dict[str, Any], threads: str
) -> None:
    argv = LlamaCpp().command(start(1, **options)).argv
    assert argv.count("--threads-http") == 1
    assert argv[argv.index("--threads-http") + 1] == threads


@pytest.mark.parametrize(
    ("network", "gpus", "options", "read"),
    [
        (True, 1, {}, True),
        (False, 1, {}, False),
        (True, 0, {}, False),
        (True, 1, {"no_mmap": True}, True),
        (True, 1, {"mlock": True}, False),
    ],
)
def test_what_goes_to_a_gpu_over_the_network_is_read_and_not_mapped(
    network: bool, gpus: int, options: dict[str, Any], read: bool
) -> None:
    asked = start(1, **options)
    spec = replace(asked.spec, resources=Resources(cpus=2, gpus=gpus))
    command = LlamaCpp().command(replace(asked, spec=spec, weights_from_network=network))
    assert command.argv.count("--no-mmap") == int(read)


def test_clients_that_keep_their_connections_have_a_thread_each(tmp_path: Path) -> None:
    """With the server's default, some wait for 5 s until another's kept connection times out."""
    write_tiny_gguf(tmp_path / "m.gguf", context=4096)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = EmbeddedLlamaCpp().command(start(port, str(tmp_path / "m.gguf"), n_parallel=4))
    environ = {**os.environ, **command.env, "LLAMA_API_KEY": "k"}
    with (tmp_path / "log").open("wb") as log:
        engine = subprocess.Popen(command.argv, env=environ, stdout=log, stderr=log)
    try:
        asyncio.run(_burst(f"http://127.0.0.1:{port}"))
        assert len(os.listdir(f"/proc/{engine.pid}/task")) > HTTP_THREADS
    finally:
        engine.terminate()
        engine.wait(30)


async def _burst(url: str) -> None:
    limits = httpx.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)
    async with httpx.AsyncClient(
        base_url=url,
        headers={"authorization": "Bearer k"},
        limits=limits,
        timeout=60,
        trust_env=False,
    ) as client:

        async def ready() -> bool:
            try:
                return (await client.get("/health")).status_code == 200
            except httpx.TransportError:
                return False

        for _ in range(600):
            if await ready():
                break
            await asyncio.sleep(0.1)

        async def ask(number: int) -> None:
            body = {"model": "m", "prompt": f"word{number}", "max_tokens": 2}
            (await client.post("/v1/completions", json=body)).raise_for_status()

        await asyncio.gather(*(ask(number) for number in range(CLIENTS)))
