"""The entry point of ``mt-submit``. Imports click and nothing heavier."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from modeltainer.__about__ import __version__
from modeltainer.cli.exit_codes import INTERRUPTED
from modeltainer.cli.invocation import Invocation
from modeltainer.cli.lazy import LazyGroup

_HOME = "modeltainer.cli"
COMMANDS = {
    "init": (f"{_HOME}.init", "Write a models.yaml with worked examples."),
    "up": (f"{_HOME}.up", "Launch models: one job per replica."),
    "ls": (f"{_HOME}.ls", "Show what is queued, loading and ready (also: status)."),
    "logs": (f"{_HOME}.logs", "Show what an engine or its agent says."),
    "stop": (f"{_HOME}.stop", "End launches, by model, launch or job."),
    "reconcile": (f"{_HOME}.reconcile", "Make what runs equal to what up --keep declared."),
    "chat": (f"{_HOME}.chat", "Talk to a model through the gateway."),
    "batch": (f"{_HOME}.batch", "Many requests from a file, one answer a row."),
    "gateway": (f"{_HOME}.gateway", "Start, stop or look at the one URL over all models."),
    "bench": (f"{_HOME}.bench", "Measure a model under load, and draw reports of it."),
    "key": (f"{_HOME}.key", "Create, list or revoke the keys of the gateway's clients."),
    "usage": (f"{_HOME}.usage", "Show requests and tokens by key, model, day or user."),
    "tunnel": (f"{_HOME}.tunnel", "Print or run the ssh command that reaches the gateway."),
    "models": (f"{_HOME}.models", "List the models of models.yaml."),
    "size": (f"{_HOME}.size", "Say which GPUs or slices hold a model, and why not the others."),
    "validate": (f"{_HOME}.validate", "Check models.yaml, or print its JSON schema."),
    "render": (f"{_HOME}.render", "Print the plain sbatch file of a launch."),
    "compose": (f"{_HOME}.compose", "Render models as Docker Compose services for a workstation."),
    "pull": (f"{_HOME}.pull", "Fetch container images into the shared cache, once."),
    "prometheus-sd": (
        f"{_HOME}.prometheus_sd",
        "Write the gateway and the engines as targets for Prometheus.",
    ),
    "doctor": (f"{_HOME}.doctor", "Check this cluster or machine, and say what to do."),
    "demo": (f"{_HOME}.demo", "Serve a small real model here and stream an answer from it."),
    "completion": (f"{_HOME}.completion", "Print the completion script of a shell."),
}


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    aliases={"status": "ls"},
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nExample:\n  mt-submit up qwen2.5-7b --wait\n  mt-submit gateway start\n"
    '  mt-submit chat qwen2.5-7b "What is a MIG slice?"\n  mt-submit stop qwen2.5-7b',
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The models.yaml; otherwise $MODELTAINER_CONFIG, config/models.yaml, models.yaml, "
    "~/.config/modeltainer/models.yaml.",
)
@click.option("--verbose", is_flag=True, help="Show tracebacks of errors.")
@click.version_option(__version__, prog_name="mt-submit")
@click.pass_context
def cli(ctx: click.Context, config_file: Path | None, verbose: bool) -> None:
    """Launch LLM inference servers on a Slurm cluster, behind one OpenAI-compatible URL."""
    ctx.obj = Invocation(config_file)
    if os.environ.get("NO_COLOR"):
        ctx.color = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``mt-submit``; returns its exit code (see :mod:`modeltainer.cli.exit_codes`)."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        # A closed terminal or a kill ends a command as Ctrl-C does: nothing half-started is left.
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    try:
        result = cli.main(arguments, prog_name="mt-submit", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return INTERRUPTED
    # click gives the code of ctx.exit() back as the result; commands themselves return nothing.
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    sys.exit(main())
