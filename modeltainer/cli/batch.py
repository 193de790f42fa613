"""``mt-submit batch``."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modeltainer.cli import exit_codes
from modeltainer.cli.failures import Failure, Interrupted
from modeltainer.cli.gateway_client import Door, chosen_door
from modeltainer.cli.invocation import Invocation, pass_invocation
from modeltainer.cli.names import complete_model
from modeltainer.cli.placement_options import seconds
from modeltainer.cli.text import counted, note, span

if TYPE_CHECKING:
    from modeltainer.batch.results import Results
    from modeltainer.batch.rows import BatchRow
    from modeltainer.batch.run import Limits, Progress


@click.group(
    "batch", epilog="\b\nExample:\n  mt-submit batch run questions.jsonl --model qwen2.5-7b"
)
def command() -> None:
    """Many requests from a file: exactly one answer a row, resumable at any moment."""


@command.command(
    "run",
    epilog="\b\nExample:\n"
    "  mt-submit batch run questions.jsonl --model qwen2.5-7b\n"
    "  mt-submit batch run openai-batch.jsonl --output answers.jsonl --concurrency 64\n"
    "  mt-submit batch run prompts.parquet --model qwen2.5-7b",
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--model", shell_complete=complete_model, help="For rows that name none in their body."
)
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Answers, a line each.  [default: INPUT.answers.jsonl]",
)
@click.option("--concurrency", type=click.IntRange(1, 4096), default=16, show_default=True)
@click.option("--tries", type=click.IntRange(1), default=6, show_default=True, help="Per row.")
@click.option(
    "--patience",
    metavar="TIME",
    callback=seconds,
    default="10m",
    show_default=True,
    help="How long a row waits for a model that is not up.",
)
@click.option("--url", envvar="MODELTAINER_URL", metavar="URL", help="Another gateway.")
@click.option("--key", envvar="MODELTAINER_KEY", metavar="KEY", help="A key of it.")
@pass_invocation
def run(
    invocation: Invocation,
    /,
    *,
    file: Path,
    model: str | None,
    output: Path | None,
    concurrency: int,
    tries: int,
    patience: int,
    url: str | None,
    key: str | None,
) -> None:
    """Send every row of FILE (JSONL or parquet) through the gateway.

    A row is OpenAI's batch format, or just {"prompt": …} or {"messages": […]}. Answers are written
    as they come, in no particular order; run the same command again to go on where it stopped.
    """
    from modeltainer.batch.results import Results
    from modeltainer.batch.rows import BadBatchError, read_rows
    from modeltainer.batch.run import Limits

    try:
        rows = read_rows(file, model)
    except BadBatchError as error:
        model_hint = "; --model names one for all rows" if error.code == "missing_model" else ""
        raise Failure(
            f"{file}: {error}", f"nothing was sent{model_hint}", exit_codes.USAGE, code=error.code
        ) from error
    door = chosen_door(invocation.layout, url, key)
    path = output or file.with_name(f"{file.stem}.answers.jsonl")
    limits = Limits(concurrency=concurrency, tries=tries, patience_s=patience)
    try:
        results = Results(path)
    except ValueError as error:
        raise Failure(str(error), f"{path} is left as it is", exit_codes.USAGE) from error
    with results:
        if results.done:
            note(f"{counted(len(results.done), 'row')} done before are kept ({path})")
        began = time.monotonic()
        try:
            progress = asyncio.run(_run(rows, results, door, limits))
        except KeyboardInterrupt:
            raise Interrupted(
                f"\n{len(results.done)} of {len(rows)} rows are in {path}",
                "run the same command again to go on",
            ) from None
    took = time.monotonic() - began
    note(
        f"{progress.done} of {len(rows)} rows in {path}, {progress.tokens} tokens in {span(took)}, "
        f"{progress.retries} retries"
    )
    if progress.failed:
        raise Failure(
            f"{counted(progress.failed, 'row')} failed: {results.failures_path}",
            "run the same command again to try them again",
        )


async def _run(rows: list[BatchRow], results: Results, door: Door, limits: Limits) -> Progress:
    import httpx

    from modeltainer.batch.run import run as run_batch

    shown_at = 0.0

    def show(progress: Progress) -> None:
        nonlocal shown_at
        now = time.monotonic()
        if not sys.stderr.isatty() or (now - shown_at < 0.2 and progress.done < progress.total):
            return
        shown_at = now
        click.echo(
            f"\r{progress.done}/{progress.total} rows, {progress.failed} failed, "
            f"{progress.retries} retries ",
            nl=progress.done + progress.failed == progress.total,
            err=True,
        )

    async with httpx.AsyncClient(
        base_url=door.url,
        headers={"Authorization": f"Bearer {door.key}"} if door.key else {},
        transport=httpx.AsyncHTTPTransport(
            verify=door.verify,
            uds=door.socket,
            limits=httpx.Limits(max_connections=limits.concurrency),
        ),
        timeout=httpx.Timeout(10.0, read=900.0, pool=None),
        trust_env=False,
    ) as client:
        return await run_batch(rows, results, client, limits, show)
