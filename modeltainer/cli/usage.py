"""``mt-submit usage``."""

from __future__ import annotations

import time
from dataclasses import asdict

import click

from modeltainer.cli.invocation import Invocation, pass_invocation
from modeltainer.cli.placement_options import seconds
from modeltainer.cli.text import echo_json, note, table


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
    """Show requests and tokens by key, model, day or user.

    Tokens are counted by the engines; an answer that broke off before is shown as uncounted.
    """
    from modeltainer.registry import usage

    begin = 0.0 if since is None else time.time() - since
    found = usage.totals(usage.read(invocation.layout(), begin), by)  # type: ignore[arg-type]
    if as_json:
        echo_json([{by: name, **asdict(total)} for name, total in found.items()])
        return
    if not found:
        click.echo("no requests have been counted")
        return
    rows = [
        (
            name,
            str(total.requests),
            str(total.prompt_tokens),
            str(total.completion_tokens),
            str(total.uncounted),
        )
        for name, total in found.items()
    ]
    click.echo(table((by.upper(), "REQUESTS", "PROMPT", "COMPLETION", "UNCOUNTED"), rows))
    missing = sum(total.uncounted_events for total in found.values())
    if missing:
        note(f"answers that broke off before their engine's count had about {missing} tokens more")
