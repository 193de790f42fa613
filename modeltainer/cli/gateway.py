"""``mt-submit gateway``."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modeltainer.cli import exit_codes
from modeltainer.cli.failures import Failure
from modeltainer.cli.gateway_process import end, spawn
from modeltainer.cli.invocation import Invocation, pass_invocation
from modeltainer.cli.placement_options import seconds
from modeltainer.cli.text import echo_json, note, span

if TYPE_CHECKING:
    from modeltainer.gateway.address import GatewayAddress
    from modeltainer.gateway.settings import GatewaySettings


@click.group(
    "gateway",
    epilog="\b\nExample:\n  mt-submit gateway start\n  mt-submit gateway status\n"
    "  mt-submit gateway stop",
)
def command() -> None:
    """Start, stop or look at the gateway: one OpenAI-compatible URL over all models."""


@command.command(
    "start",
    epilog="\b\nExample:\n"
    "  mt-submit gateway start\n"
    "  mt-submit gateway start --listen tcp --port 0\n"
    "  mt-submit gateway start --foreground",
)
@click.option("--foreground", is_flag=True, help="Stay here, log to standard error.")
@click.option("--listen", type=click.Choice(["unix", "tcp"]), help="Unix socket or TCP.")
@click.option("--host", metavar="ADDRESS", help="TCP address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), help="TCP port; 0 takes any free one.")
@click.option("--log", type=click.Path(dir_okay=False, path_type=Path), hidden=True)
@pass_invocation
def start(
    invocation: Invocation,
    /,
    *,
    foreground: bool,
    listen: str | None,
    host: str | None,
    port: int | None,
    log: Path | None,
) -> None:
    """Start the gateway on this host, in the background; it stays when you log out.

    Options override the gateway section of models.yaml until it is stopped.
    """
    wishes = {"listen": listen, "host": host, "port": port}
    changes = {name: value for name, value in wishes.items() if value is not None}
    settings = _settings(invocation, changes)
    if foreground:
        _serve(invocation, settings, log)
        return
    from modeltainer.gateway import address

    layout = invocation.layout()
    found = address.read(layout)
    if found is not None and found.alive:
        note("a gateway already runs here:")
    else:
        if found is not None and found.alive is None:
            note(f"a gateway was started on {found.host} too; from here, this one is used")
        found = spawn(invocation.config_path(), layout, changes)
    click.echo(_description(found))


def _settings(invocation: Invocation, changes: dict[str, Any]) -> GatewaySettings:
    from pydantic import ValidationError

    from modeltainer.gateway.settings import GatewaySettings

    own = invocation.config().gateway.model_dump()
    try:
        return GatewaySettings.model_validate({**own, **changes})
    except ValidationError as error:
        reasons = "; ".join(
            str(fault["ctx"]["error"]) if "error" in fault.get("ctx", {}) else fault["msg"]
            for fault in error.errors()
        )
        raise click.UsageError(reasons) from error


def _serve(invocation: Invocation, settings: GatewaySettings, log: Path | None) -> None:
    from modeltainer.gateway.listening import CannotListenError
    from modeltainer.gateway.serve import serve

    def announce(address: GatewayAddress) -> None:
        note(_description(address))

    try:
        serve(
            settings,
            invocation.layout(),
            invocation.config_path(),
            log_file=log,
            announce=announce,
        )
    except CannotListenError as error:
        message, _, hint = str(error).partition("; ")
        raise Failure(message, hint) from error


@command.command(
    "render",
    epilog="\b\nExample:\n"
    "  mt-submit gateway render --chain --partition cpu > gateway.sbatch\n"
    "  sbatch gateway.sbatch",
)
@click.option("--chain", is_flag=True, help="Each job submits its successor.")
@click.option("--partition", "-p", metavar="NAME", help="The partition to run in.")
@click.option("--account", "-A", metavar="NAME", help="Who pays.")
@click.option("--qos", metavar="NAME", help="Which limits apply.")
@click.option(
    "--time",
    "-t",
    "walltime_s",
    metavar="TIME",
    default="1-00:00:00",
    show_default=True,
    callback=seconds,
    help="Walltime of one job.",
)
@pass_invocation
def render(
    invocation: Invocation,
    /,
    *,
    chain: bool,
    partition: str | None,
    account: str | None,
    qos: str | None,
    walltime_s: int,
) -> None:
    """Print a batch file that runs the gateway as a job, where login nodes allow no services.

    What up --keep has declared is kept up from there, too.
    """
    from modeltainer.hpc import gateway_job

    config = invocation.config()
    site = config.site
    at = site.partitions.get(partition or "")
    text = gateway_job.render(
        invocation.config_path(),
        walltime_s=walltime_s,
        drain_s=config.gateway.drain,
        options={
            "partition": partition,
            "account": account or (at.account if at else None),
            "qos": qos or (at.qos if at else None),
        },
        prelude=site.prelude,
        chain=chain,
    )
    click.echo(text, nl=False)


@command.command(
    "unit",
    epilog="\b\nExample:\n"
    "  mt-submit gateway unit > ~/.config/systemd/user/modeltainer-gateway.service\n"
    "  systemctl --user enable --now modeltainer-gateway\n"
    "  loginctl enable-linger    # on after you log out, where the site allows it",
)
@pass_invocation
def unit(invocation: Invocation, /) -> None:
    """Print a systemd user unit that keeps the gateway running on this host."""
    from modeltainer.gateway.user_unit import user_unit

    drain_s = invocation.config().gateway.drain
    text = user_unit(invocation.config_path(), python=sys.executable, drain_s=drain_s)
    click.echo(text, nl=False)


@command.command("stop", epilog="\b\nExample:\n  mt-submit gateway stop")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="How long to wait for running answers.  [default: its drain time, and 10 s]",
)
@pass_invocation
def stop(invocation: Invocation, /, wait_s: float | None) -> None:
    """End the gateway of this host: it takes no new requests, and running answers finish."""
    from modeltainer.gateway import address

    found = address.read(invocation.layout())
    if found is None or found.alive is False:
        click.echo("no gateway runs")
        return
    if not found.here:
        raise Failure(
            f"the gateway runs on {found.host}, this is {socket.gethostname()}",
            f"ssh {found.host} mt-submit gateway stop",
            exit_codes.GATEWAY_UNREACHABLE,
        )
    end(found, invocation.config().gateway.drain + 10 if wait_s is None else wait_s)
    click.echo("the gateway is stopped")


@command.command(
    "status",
    epilog="\b\nExample:\n  mt-submit gateway status\n"
    "  mt-submit gateway status --json | jq -r .url",
)
@click.option("--json", "as_json", is_flag=True, help="Address and state as JSON.")
@pass_invocation
@click.pass_context
def status(ctx: click.Context, /, invocation: Invocation, as_json: bool) -> None:
    """Show where the gateway is and what it serves. Exit code 8 if none runs or answers."""
    from modeltainer.cli import gateway_client
    from modeltainer.gateway import address

    layout = invocation.layout()
    found = address.read(layout)
    if found is not None and found.alive is False:
        found = None
    says = gateway_client.status(layout) if found is not None else None
    if as_json:
        echo_json(_status_json(found, says))
    elif found is None:
        click.echo("no gateway runs; start one with: mt-submit gateway start")
    else:
        click.echo(_description(found))
        click.echo(_account(says) if says is not None else "it does not answer from this host")
    if says is None:
        ctx.exit(exit_codes.GATEWAY_UNREACHABLE)


def _status_json(found: GatewayAddress | None, says: dict[str, Any] | None) -> dict[str, Any]:
    if found is None:
        return {"running": False}
    return {
        "running": True,
        "answers": says is not None,
        "host": found.host,
        "pid": found.pid,
        "socket": found.socket,
        "url": None if found.socket else f"{found.url}/v1",
        "status": says,
    }


def _description(found: GatewayAddress) -> str:
    where = f"unix:{found.socket}" if found.socket else f"{found.url}/v1"
    return (
        f"gateway on {found.host} (pid {found.pid}, {span(time.time() - found.started_unix)}): "
        f"{where}"
    )


def _account(says: dict[str, Any]) -> str:
    routed = [one for one in says["endpoints"] if one["routed"]]
    up = sorted({one["model"] for one in routed})
    lines = [
        f"serves: {', '.join(up) if up else 'no model is up'} "
        f"({len(routed)} of {len(says['endpoints'])} endpoints)",
        f"requests under way: {says['in_flight']}; keys: {says['keys']}",
    ]
    for name in ("config_problem", "scheduler_problem"):
        if says[name]:
            lines.append(f"{click.style('warning:', fg='yellow')} {says[name]}")
    for file, problem in says["registry_problems"].items():
        lines.append(f"{click.style('warning:', fg='yellow')} {file}: {problem}")
    return "\n".join(lines)
