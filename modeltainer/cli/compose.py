"""``mt-submit compose``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modeltainer.cli import exit_codes
from modeltainer.cli.failures import Failure
from modeltainer.cli.invocation import Invocation, pass_invocation
from modeltainer.cli.names import complete_model
from modeltainer.cli.text import counted, note

if TYPE_CHECKING:
    from modeltainer.compose.plan import Replica
    from modeltainer.compose.project import Project
    from modeltainer.config.schema import Config

_HINT = (
    "mend models.yaml, or name the models that this machine is to serve: mt-submit compose MODEL…"
)


@click.command(
    "compose",
    epilog="\b\nExample:\n"
    "  mt-submit compose smollm2-cpu                       # look at it\n"
    "  mt-submit compose smollm2-cpu --output ~/llm/compose.yaml --check\n"
    "  docker compose -f ~/llm/compose.yaml --profile cpu up -d\n"
    "  MODELTAINER_REGISTRY=~/llm/registry mt-submit key create laptop",
)
@click.argument("models", nargs=-1, shell_complete=complete_model)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the project: this file, and beside it secrets, settings and data folders.",
)
@click.option("--check", is_flag=True, help="Also check this machine: Docker, GPUs, ports.")
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    metavar="NAME",
    help="A profile that you will start: gpu, cpu, arm, observability, tls (repeatable).",
)
@click.option("--bind", default="127.0.0.1", show_default=True, help="Address to publish on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535))
@click.option("--tls-port", default=8443, show_default=True, type=click.IntRange(1024, 65535))
@click.option("--grafana-port", default=3000, show_default=True, type=click.IntRange(1, 65535))
@click.option("--user", metavar="UID:GID", help="Whom the services run as.  [default: you]")
@pass_invocation
def command(
    invocation: Invocation,
    /,
    *,
    models: tuple[str, ...],
    output: Path | None,
    check: bool,
    profiles: tuple[str, ...],
    bind: str,
    port: int,
    tls_port: int,
    grafana_port: int,
    user: str | None,
) -> None:
    """Render models as Docker Compose services for a workstation.

    MODELS are names or aliases in models.yaml; default: all. Without --output the compose file is
    only printed. Nothing is started. Exit code 3 if Docker Compose cannot serve the models, with
    every reason.
    """
    from modeltainer.compose import machine
    from modeltainer.compose.plan import CannotComposeError, plan
    from modeltainer.compose.project import Project
    from modeltainer.compose.project_writer import with_identities
    from modeltainer.compose.render import render, to_yaml

    config = invocation.config()
    try:
        replicas = plan(config, models, profiles or None)
    except CannotComposeError as error:
        raise Failure(str(error), _HINT, exit_codes.CONFIG) from error
    folder = (output.expanduser().absolute() if output else Path.cwd() / "compose.yaml").parent
    project = Project(
        folder=folder,
        cache=config.site.cache,
        user=_user(user),
        bind=bind,
        port=port,
        tls_port=tls_port,
        grafana_port=grafana_port,
        build_context=_source_tree(),
        file_name=output.name if output else "compose.yaml",
    )
    replicas, project = with_identities(replicas, project)
    if check:
        found = machine.problems(replicas, project, profiles)
        if found:
            raise Failure("\n".join(found), "nothing was written or started", exit_codes.CONFIG)
    if output is None:
        click.echo(to_yaml(render(replicas, project)), nl=False)
        note("only printed; write the project with its secrets: --output FILE")
        return
    _write(invocation, config, replicas, project)
    note(f"{counted(len(replicas), 'engine')} written to {project.file}; start them with:")
    needed = dict.fromkeys([*profiles] or [one.profiles[0] for one in replicas])
    options = " ".join(f"--profile {name}" for name in needed)
    click.echo(f"docker compose -f {project.file} {options} up -d")


def _write(
    invocation: Invocation, config: Config, replicas: list[Replica], project: Project
) -> None:
    from modeltainer.compose.project_writer import gateway_models, write_project
    from modeltainer.config.document import read_document
    from modeltainer.config.resolve import secret_environment

    chosen = dict.fromkeys(one.spec.model for one in replicas)
    values = {name: secret_environment(name, config.models[name].secrets) for name in chosen}
    data = read_document(invocation.config_path()).data
    write_project(replicas, project, models=gateway_models(data, replicas), secret_values=values)


def _user(given: str | None) -> str:
    uid, _, gid = (given or f"{os.getuid()}:{os.getgid()}").partition(":")
    if not (uid.isdecimal() and gid.isdecimal()):
        raise click.BadParameter("write it as UID:GID, in numbers", param_hint="--user")
    if int(uid) == 0:
        raise Failure(
            "the services must not run as root",
            "run mt-submit as the user who shall own them, or give --user UID:GID",
            exit_codes.USAGE,
        )
    return f"{uid}:{gid}"


def _source_tree() -> Path | None:
    """The checkout that the gateway's image can be built from, where this is one."""
    import modeltainer.compose

    root = Path(modeltainer.compose.__file__).resolve().parents[1]
    return root if (root / "compose" / "Dockerfile").is_file() else None
