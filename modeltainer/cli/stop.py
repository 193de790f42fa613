"""``mt-submit stop``."""

from __future__ import annotations

import click

from modeltainer.cli import exit_codes
from modeltainer.cli.failures import Failure, Interrupted
from modeltainer.cli.invocation import Invocation, pass_invocation
from modeltainer.cli.names import complete_launch
from modeltainer.cli.text import echo_json, note


@click.command(
    "stop",
    epilog="\b\nExample:\n"
    "  mt-submit stop qwen2.5-7b\n"
    "  mt-submit stop qwen2.5-7b-r1-k3m9xa 4711\n"
    "  mt-submit stop --all --wait 120",
)
@click.argument(
    "targets", nargs=-1, metavar="[MODEL|LAUNCH|JOB]...", shell_complete=complete_launch
)
@click.option("--all", "all_", is_flag=True, help="Everything in this registry.")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for running requests and jobs to end.",
)
@click.option("--json", "as_json", is_flag=True, help="What was done, as JSON.")
@pass_invocation
def command(
    invocation: Invocation, /, targets: tuple[str, ...], all_: bool, wait_s: float, as_json: bool
) -> None:
    """End launches: running requests finish, then job, process and endpoint are gone.

    Logs go with the launch; read them before. A model that up --keep declared is kept up no more
    when it is named; single launches of it are replaced.
    """
    if bool(targets) == all_:
        raise click.UsageError("name models, launches or jobs, or give --all")
    from dataclasses import asdict

    from modeltainer import service

    try:
        report = service.stop(targets, config=invocation.config(), all_=all_, wait_s=wait_s)
    except KeyboardInterrupt:
        raise Interrupted(
            "no longer waiting; what was asked to stop may still be draining",
            "mt-submit ls shows what is left; mt-submit stop again clears it away",
        ) from None
    if as_json:
        echo_json(asdict(report))
    else:
        for launch_id in report.stopped:
            click.echo(f"{launch_id}: stopped")
        for model in report.withdrawn:
            click.echo(f"{model}: kept up no more")
        for model in report.replaced:
            note(f"{model} is kept up: another replica comes; to end it: mt-submit stop {model}")
        if all_ and not (report.stopped or report.still_running or report.withdrawn):
            click.echo("nothing runs")
    if report.unknown:
        from modeltainer.cli.selection import near
        from modeltainer.registry import launches

        raise Failure(
            f"no launch is named {', '.join(map(repr, report.unknown))}",
            near(report.unknown[0], launches.read_all(invocation.layout())),
            exit_codes.NO_MATCH,
        )
    if report.still_running:
        raise Failure(
            f"not gone within {wait_s:g} s: {', '.join(report.still_running)}",
            "they were asked to end; run mt-submit stop again later, or look with squeue --me",
            exit_codes.TIMEOUT,
        )
