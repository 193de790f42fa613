"""``mt-submit key``."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import click

from modeltainer.cli import exit_codes
from modeltainer.cli.failures import Failure
from modeltainer.cli.invocation import Invocation, pass_invocation
from modeltainer.cli.names import complete_model
from modeltainer.cli.placement_options import seconds
from modeltainer.cli.text import echo_json, note, span, table
from modeltainer.registry.keys import KeyRecord

_COUNT = click.IntRange(1)


@click.group(
    "key",
    epilog="\b\nExample:\n  mt-submit key create laptop\n  mt-submit key list\n"
    "  mt-submit key revoke laptop",
)
def command() -> None:
    """Create, list or revoke the keys that clients of the gateway need."""


@command.command(
    "create",
    epilog="\b\nExample:\n"
    "  export OPENAI_API_KEY=$(mt-submit key create laptop)\n"
    "  mt-submit key create course --models qwen2.5-7b,llama3.1-8b --expires 7d\n"
    "  mt-submit key create guest --rpm 60 --tpm 100000 --concurrent 4",
)
@click.argument("name")
@click.option(
    "--models", metavar="A,B", default="", shell_complete=complete_model, help="Only these models."
)
@click.option("--expires", metavar="TIME", callback=seconds, help="Ends after: 12h, 7d.")
@click.option("--rpm", type=_COUNT, metavar="N", help="At most N requests a minute.")
@click.option("--tpm", type=_COUNT, metavar="N", help="At most N tokens a minute, with prompts.")
@click.option("--concurrent", type=_COUNT, metavar="N", help="At most N requests at once.")
@click.option("--json", "as_json", is_flag=True, help="The key and what is kept of it, as JSON.")
@pass_invocation
def create(
    invocation: Invocation,
    /,
    *,
    name: str,
    models: str,
    expires: int | None,
    rpm: int | None,
    tpm: int | None,
    concurrent: int | None,
    as_json: bool,
) -> None:
    """Make a key for NAME (a person, a program) and print it: once, only its hash is kept."""
    from modeltainer import service
    from modeltainer.registry import keys

    config = invocation.config()
    wished = [one.strip() for one in models.split(",") if one.strip()]
    allowed = [one if one in config.splits else service.known_model(one, config) for one in wished]
    record, plain = keys.create(
        invocation.layout(),
        name,
        allowed,
        None if expires is None else time.time() + expires,
        rpm=rpm,
        tpm=tpm,
        concurrent=concurrent,
    )
    if as_json:
        echo_json({"key": plain, **_public(record)})
        return
    click.echo(plain)
    note(f"this is the only time it is shown; mt-submit key revoke {record.id} ends it")


@command.command("list", epilog="\b\nExample:\n  mt-submit key list --json")
@click.option("--json", "as_json", is_flag=True, help="An array of keys as JSON.")
@pass_invocation
def list_(invocation: Invocation, /, as_json: bool) -> None:
    """Show the keys: whom they are for and what they may do. The keys themselves are not kept."""
    from modeltainer.registry import keys

    records = keys.list_keys(invocation.layout())
    if as_json:
        echo_json([_public(record) for record in records])
        return
    if not records:
        click.echo("there are no keys; make one with: mt-submit key create NAME")
        return
    now = time.time()
    rows = [
        (
            record.id,
            record.name,
            ", ".join(record.models) or "all",
            _limits(record),
            span(now - record.created_unix),
            _expiry(record, now),
        )
        for record in records
    ]
    click.echo(table(("ID", "NAME", "MODELS", "LIMITS", "AGE", "EXPIRES"), rows))


@command.command("revoke", epilog="\b\nExample:\n  mt-submit key revoke laptop")
@click.argument("key", metavar="ID|NAME")
@pass_invocation
def revoke(invocation: Invocation, /, key: str) -> None:
    """End a key; a running gateway refuses it within a second or so."""
    from modeltainer.registry import keys

    record = keys.revoke(invocation.layout(), key)
    if record is None:
        same = [one.id for one in keys.list_keys(invocation.layout()) if one.name == key]
        if same:
            raise Failure(
                f"{len(same)} keys are named {key!r}",
                f"name one by its id: {', '.join(same)}",
                exit_codes.NO_MATCH,
            )
        raise Failure(
            f"there is no key {key!r}", "mt-submit key list shows them", exit_codes.NO_MATCH
        )
    click.echo(f"{record.id} ({record.name}): revoked")


def _public(record: KeyRecord) -> dict[str, Any]:
    return {name: value for name, value in asdict(record).items() if name != "sha256"}


def _limits(record: KeyRecord) -> str:
    parts = (
        (record.rpm, "requests/min"),
        (record.tpm, "tokens/min"),
        (record.concurrent, "at once"),
    )
    return ", ".join(f"{count} {what}" for count, what in parts if count) or "none"


def _expiry(record: KeyRecord, now_unix: float) -> str:
    if record.expires_unix is None:
        return "never"
    left = record.expires_unix - now_unix
    return f"in {span(left)}" if left > 0 else "expired"
