"""``mt-submit validate``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from modeltainer.cli import exit_codes
from modeltainer.cli.invocation import Invocation, pass_invocation
from modeltainer.cli.text import counted, echo_json, note


@click.command(
    "validate",
    epilog="\b\nExample:\n"
    "  mt-submit validate\n"
    "  mt-submit validate other/models.yaml\n"
    "  mt-submit validate --schema > config/models.schema.json",
)
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--schema", is_flag=True, help="Print the JSON schema, for editors that complete it.")
@click.option("--json", "as_json", is_flag=True, help="The faults as JSON.")
@pass_invocation
@click.pass_context
def command(
    ctx: click.Context, /, invocation: Invocation, file: Path | None, schema: bool, as_json: bool
) -> None:
    """Check models.yaml: each fault with file, line, field, what is wrong and the right spelling.

    Without FILE the configuration in use is checked, with what overrides it. Exit code 3 if
    anything is wrong.
    """
    from modeltainer.config import Config, ConfigError, load

    if schema:
        echo_json(Config.json_schema())
        return
    try:
        path = file or invocation.config_path()
        config = load(path)
    except ConfigError as error:
        if as_json:
            echo_json([{**asdict(one), "file": str(one.file)} for one in error.problems])
        else:
            click.echo(str(error))
            note(counted(len(error.problems), "fault"))
        ctx.exit(exit_codes.CONFIG)
    if as_json:
        echo_json([])
    else:
        click.echo(f"{path}: good, {counted(len(config.models), 'model')}")
