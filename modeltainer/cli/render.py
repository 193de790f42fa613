"""``mt-submit render``."""

from __future__ import annotations

from typing import Any

import click

from modeltainer.cli.invocation import Invocation, pass_invocation
from modeltainer.cli.names import complete_model
from modeltainer.cli.placement_options import placement_options, take_overrides
from modeltainer.cli.text import note


@click.command(
    "render",
    epilog="\b\nExample:\n"
    "  mt-submit render qwen2.5-7b\n"
    "  mt-submit render qwen2.5-7b --partition gpu --time 2:00:00 > qwen.sbatch\n"
    "  sbatch qwen.sbatch",
)
@click.argument("model", required=False, shell_complete=complete_model)
@placement_options
@pass_invocation
def command(invocation: Invocation, /, model: str | None, **options: Any) -> None:
    """Print the plain sbatch file of one replica of MODEL: the job that up would submit.

    Submitted by hand, the job registers itself and the gateway finds it.
    """
    from modeltainer import service
    from modeltainer.config.resolve import launch_spec
    from modeltainer.hpc.sbatch import SecretReference, render

    overrides, swallowed = take_overrides(options)
    names = [name for name in (model, *swallowed) if name is not None]
    if len(names) != 1:
        raise click.UsageError("name one model; mt-submit models lists them")
    config = invocation.config()
    if service.executor_of(config) == "slurm":
        spec = service.plan(names, config=config, replicas=1, overrides=overrides)[0]
    else:
        name = service.known_model(names[0], config)
        spec = launch_spec(config, name, 0, executor="slurm", overrides=overrides)
        note("no Slurm here: the partition and the GPU's type are left open")
    secrets = [
        SecretReference(name, secret.env, None if secret.file is None else str(secret.file))
        for name, secret in config.models[spec.model].secrets.items()
    ]
    click.echo(render(spec, secrets=secrets), nl=False)
