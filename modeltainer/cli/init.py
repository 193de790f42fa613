"""``mt-submit init``."""

from __future__ import annotations

import json
import os
from importlib.resources import files
from pathlib import Path

import click

from modeltainer.cli.failures import Failure
from modeltainer.cli.text import note


@click.command(
    "init",
    epilog="\b\nExample:\n"
    "  mt-submit init\n"
    "  $EDITOR ~/.config/modeltainer/models.yaml\n"
    "  mt-submit validate",
)
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
def command(file: Path | None) -> None:
    """Write a models.yaml with worked examples, to be changed to what you serve.

    FILE is ~/.config/modeltainer/models.yaml unless given; a file that is there is left as it is.
    Its JSON schema is written beside it, with which editors complete and check the fields.
    """
    from modeltainer.config import Config
    from modeltainer.config.load import user_folder

    path = file or user_folder(os.environ) / "models.yaml"
    schema = path.with_name("models.schema.json")
    example = files("modeltainer.config").joinpath("starter.yaml").read_text()
    if path.exists():
        raise Failure(
            f"{path} is there already, and was left as it is",
            "check it with mt-submit validate, or name another file",
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(example)
        schema.write_text(json.dumps(Config.json_schema(), indent=2) + "\n")
    except OSError as error:
        raise Failure(
            f"{path} cannot be written: {error.strerror}", "name a file in a folder of yours"
        ) from error
    click.echo(path)
    note("next: say in it what you serve, then mt-submit validate and mt-submit doctor")
