"""``mt-submit ls``, also ``status``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from modeltainer.cli.deployment_listing import as_json as as_json_array
from modeltainer.cli.deployment_listing import deployment_table
from modeltainer.cli.invocation import Invocation, pass_invocation
from modeltainer.cli.listing import listing
from modeltainer.cli.text import echo_json
from modeltainer.registry import deployments as records
from modeltainer.registry.deployments import Deployment, History
from modeltainer.registry.records import State
from modeltainer.view import Row

if TYPE_CHECKING:
    from modeltainer.service import Observer


@click.command(
    "ls",
    epilog="\b\nExample:\n"
    "  mt-submit ls\n"
    "  mt-submit ls --watch\n"
    "  mt-submit ls --json | jq -r '.[] | select(.state == \"ready\") | .model'",
)
@click.option("--watch", "-w", is_flag=True, help="Show again every two seconds until Ctrl-C.")
@click.option("--all", "-a", "all_", is_flag=True, help="Those that ended as planned, too.")
@click.option("--deployments", "-d", is_flag=True, help="Only what up --keep has declared.")
@click.option("--json", "as_json", is_flag=True, help="An array of launches as JSON.")
@pass_invocation
def command(
    invocation: Invocation, /, *, watch: bool, all_: bool, deployments: bool, as_json: bool
) -> None:
    """Show each launch: model, state, node, GPU or slice, age, time left, requests, URL.

    The URL is the engine's own; clients use the gateway's (mt-submit gateway status). Launches that
    failed stay, with the reason, until mt-submit stop clears them away. Below them: what up --keep
    has declared, how many replicas are wanted and ready, and what holds them back.
    """
    if watch and as_json:
        raise click.UsageError("--watch and --json exclude each other")
    if as_json and deployments:
        echo_json(as_json_array(*_declared(invocation), _rows(invocation)))
        return
    if as_json:
        echo_json([row.to_json() for row in _rows(invocation) if all_ or _matters(row)])
        return
    if watch:
        _watch(invocation, all_, deployments)
        return
    click.echo(_text(invocation, all_, deployments))


def _rows(invocation: Invocation, observer: Observer | None = None) -> list[Row]:
    from modeltainer.cli.gateway_client import requests_in_flight
    from modeltainer.service import Observer
    from modeltainer.view import with_requests

    rows = (observer or Observer(invocation.config())).rows()
    return with_requests(rows, requests_in_flight(invocation.layout())) if rows else rows


def _matters(row: Row) -> bool:
    return row.state is not State.ENDED or row.failed


def _declared(invocation: Invocation) -> tuple[dict[str, Deployment], dict[str, History]]:
    layout = invocation.layout()
    declared = records.read_all(layout)
    return declared, {model: records.read_history(layout, model) for model in declared}


def _text(
    invocation: Invocation, all_: bool, only_deployments: bool, observer: Observer | None = None
) -> str:
    rows = _rows(invocation, observer)
    declared, histories = _declared(invocation)
    layout = invocation.layout()
    kept = deployment_table(declared, histories, rows, reconciler=records.reconciler(layout))
    if only_deployments:
        return kept or "nothing is declared; declare something with: mt-submit up MODEL --keep"
    rows = [row for row in rows if all_ or _matters(row)]
    if not rows and kept:
        return kept
    return "\n\n".join(part for part in (listing(rows, time.time()), kept) if part)


def _watch(invocation: Invocation, all_: bool, only_deployments: bool) -> None:
    from modeltainer.service import Observer

    observer = Observer(invocation.config())  # one, so that Slurm is asked as seldom as it says
    try:
        while True:
            text = _text(invocation, all_, only_deployments, observer)
            click.clear()
            click.echo(text)
            time.sleep(2)
    except KeyboardInterrupt:
        return  # the way to end it
