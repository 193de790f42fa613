"""``mt-submit models``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from modeltainer.cli.invocation import Invocation, pass_invocation
from modeltainer.cli.text import echo_json, table

if TYPE_CHECKING:
    from modeltainer.config.schema import ModelSection


@click.command(
    "models",
    epilog="\b\nExample:\n  mt-submit models\n  mt-submit models --json | jq -r '.[].name'",
)
@click.option("--json", "as_json", is_flag=True, help="Every field of each model, as JSON.")
@pass_invocation
def command(invocation: Invocation, /, as_json: bool) -> None:
    """List the models of models.yaml. Whether they run is in mt-submit ls."""
    models = invocation.config().models
    if as_json:
        echo_json(
            [{"name": name, **model.model_dump(mode="json")} for name, model in models.items()]
        )
        return
    if not models:
        click.echo("models.yaml has no models")
        return
    heads = ("MODEL", "ENGINE", "GPUS", "REPLICAS", "CONTEXT", "ALIASES", "SOURCE", "DESCRIPTION")
    click.echo(table(heads, [_cells(name, model) for name, model in models.items()]))


def _cells(name: str, model: ModelSection) -> tuple[str, ...]:
    source = model.source
    return (
        name,
        model.engine,
        "-" if model.resources.gpus is None else str(model.resources.gpus),
        str(model.replicas),
        "-" if model.context is None else str(model.context),
        ", ".join(model.aliases) or "-",
        str(source.hub or source.path),
        model.description,
    )
