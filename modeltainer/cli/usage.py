"""``mt-submit usage``."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from modeltainer.cli.invocation import Invocation, pass_invocation
from modeltainer.cli.placement_options import seconds
from modeltainer.cli.text import echo_json, note, table

if TYPE_CHECKING:
    from modeltainer.registry.runs import GpuTime
    from modeltainer.registry.usage import Total


@click.command(
    "usage",
    epilog="\b\nExample:\n  mt-submit usage\n  mt-submit usage --by model --since 7d\n"
    "  mt-submit usage --by user --json",
)
@click.option(
    "--by",
    type=click.Choice(["key", "model", "day", "user"]),
    default="key",
    show_default=True,
    help="What to sum up by.",
)
@click.option("--since", metavar="TIME", callback=seconds, help="Only the last: 12h, 7d.")
@click.option("--json", "as_json", is_flag=True, help="An array of sums as JSON.")
@pass_invocation
def command(invocation: Invocation, /, by: str, since: int | None, as_json: bool) -> None:
    """Show requests and tokens by key, model, day or user, and GPU hours by model or day.

    Tokens are counted by the engines; an answer that broke off before is shown as uncounted. By
    model and by day there are GPU hours too, where jobs had GPUs: by Slurm's accounting where the
    site has it, else by what each job's agent has noted. A MIG slice counts as a GPU, a
    shared GPU by its part.
    """
    from modeltainer.registry import runs, usage

    layout = invocation.layout()
    begin = 0.0 if since is None else time.time() - since
    found = usage.totals(usage.read(layout, begin), by)  # type: ignore[arg-type]
    hours: dict[str, runs.GpuTime] = {}
    if by in {"model", "day"}:
        from modeltainer.hpc.accounting import elapsed_s

        jobs = runs.read(layout, begin)
        charged = elapsed_s({one.job_id for one in jobs}) if jobs else {}
        hours = runs.gpu_time(jobs, charged, begin, by_day=by == "day")
    names = sorted({*found, *hours})
    if as_json:
        echo_json([_as_json(by, name, found, hours) for name in names])
        return
    if not names:
        click.echo("no requests have been counted")
        return
    heads = [by.upper(), "REQUESTS", "PROMPT", "COMPLETION", "UNCOUNTED"]
    if hours:
        heads += ["JOBS", "GPU HOURS", "TOKENS/GPU HOUR"]
    click.echo(table(heads, [_row(name, found, hours) for name in names]))
    missing = sum(total.uncounted_events for total in found.values())
    if missing:
        note(f"answers that broke off before their engine's count had about {missing} tokens more")


def _row(name: str, found: dict[str, Total], hours: dict[str, GpuTime]) -> list[str]:
    from modeltainer.registry.usage import Total

    total = found.get(name, Total())
    counts = (total.requests, total.prompt_tokens, total.completion_tokens, total.uncounted)
    row = [name, *map(str, counts)]
    if hours:
        spent = hours.get(name)
        row.append(str(len(spent.jobs)) if spent else "-")
        row.append(f"{spent.gpu_s / 3600:.2f}" if spent else "-")
        row.append(f"{_tokens(total) / spent.gpu_s * 3600:.0f}" if spent else "-")
    return row


def _as_json(
    by: str, name: str, found: dict[str, Total], hours: dict[str, GpuTime]
) -> dict[str, object]:
    from modeltainer.registry.usage import Total

    row: dict[str, object] = {by: name, **asdict(found.get(name, Total()))}
    if by in {"model", "day"}:
        spent = hours.get(name)
        row["jobs"] = len(spent.jobs) if spent else 0
        row["gpu_seconds"] = round(spent.gpu_s, 1) if spent else 0.0
    return row


def _tokens(total: Total) -> int:
    return total.prompt_tokens + total.completion_tokens
