"""``mt-submit tunnel``."""

from __future__ import annotations

import getpass
import json
import os
import shlex
import socket
import subprocess
from dataclasses import dataclass
from urllib.parse import urlsplit

import click

from modeltainer.cli import exit_codes
from modeltainer.cli.failures import Failure
from modeltainer.cli.invocation import Invocation, pass_invocation
from modeltainer.cli.text import echo_json, note


@dataclass(frozen=True)
class Far:
    """The far end of a tunnel: where the gateway listens on its host."""

    host: str
    socket: str | None
    address: tuple[str, int] | None

    @property
    def login(self) -> str:
        """The host to log in to: the gateway's own, unless it listens to other hosts too. A gateway
        in a job is on a compute node, where ssh is often refused; this host reaches it as well."""
        if self.address is None or self.address[0].startswith(("127.", "localhost", "::1")):
            return self.host
        return socket.gethostname()

    @property
    def forward(self) -> str:
        """As it stands at the end of ``ssh -L``."""
        if self.socket is not None:
            return self.socket
        assert self.address is not None
        name, port = self.address
        return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


@click.command(
    "tunnel",
    epilog="\b\nExample:\n"
    "  mt-submit tunnel                              on the login node: prints what to type\n"
    "  mt-submit tunnel --login alice@hpc.example.org --run   on your own computer",
)
@click.option("--run", "run_it", is_flag=True, help="Run ssh now instead of printing the command.")
@click.option(
    "--local-port", type=click.IntRange(1, 65535), default=8000, show_default=True, metavar="PORT"
)
@click.option(
    "--login",
    metavar="[USER@]HOST",
    help="The login node as your computer calls it.  [default: its host name]",
)
@click.option("--new-key", metavar="NAME", help="Make a key for it, and print it.")
@click.option("--json", "as_json", is_flag=True, help="The command and variables as JSON.")
@pass_invocation
def command(
    invocation: Invocation,
    /,
    *,
    run_it: bool,
    local_port: int,
    login: str | None,
    new_key: str | None,
    as_json: bool,
) -> None:
    """Print the ssh command that brings the gateway to your own computer, and what to set there.

    With --run it is run. On a computer that does not see the registry, --login asks the login node
    where the gateway is.
    """
    far = _local_gateway(invocation)
    if far is None:
        if login is None or not run_it:
            raise Failure(
                "no gateway runs that this host knows of",
                "on the login node: mt-submit gateway start; elsewhere: mt-submit tunnel --login "
                "USER@HOST --run",
                exit_codes.GATEWAY_UNREACHABLE,
            )
        far = _remote_gateway(login)
    argv = ssh_command(far, login or f"{getpass.getuser()}@{far.login}", local_port)
    if run_it:
        note(f"http://127.0.0.1:{local_port}/v1 until Ctrl-C: {shlex.join(argv)}")
        # ssh takes this process's place: the user's signals and its exit code go straight.
        os.execvp(argv[0], argv)  # noqa: S606
    key = _new_key(invocation, new_key) if new_key else None
    variables = {
        "OPENAI_BASE_URL": f"http://127.0.0.1:{local_port}/v1",
        "OPENAI_API_KEY": key or "<a key that mt-submit key create NAME prints>",
    }
    if as_json:
        echo_json({"command": argv, "environment": variables})
        return
    click.echo("# on your own computer; it runs until Ctrl-C")
    click.echo(shlex.join(argv))
    click.echo("# and in another terminal there")
    for name, value in variables.items():
        click.echo(f"export {name}={shlex.quote(value)}")


def ssh_command(far: Far, login: str, local_port: int) -> list[str]:
    """``ssh -N -L …``; it ends at once where the local port is taken, rather than stay useless."""
    return [
        "ssh",
        "-N",
        "-o",
        "ExitOnForwardFailure=yes",
        "-L",
        f"127.0.0.1:{local_port}:{far.forward}",
        login,
    ]


def _local_gateway(invocation: Invocation) -> Far | None:
    from modeltainer.config.problems import ConfigError
    from modeltainer.gateway import address

    try:
        found = address.read(invocation.layout())
    except ConfigError:
        if invocation.config_file is not None:
            raise
        return None  # a computer without a configuration of its own
    if found is None or found.alive is False:
        return None
    return far_end(found.host, found.socket, found.url)


def far_end(host: str, unix: str | None, url: str | None) -> Far:
    """The far end from what a gateway says of itself.

    Raises:
        Failure: neither socket nor URL.
    """
    if unix:
        return Far(host, unix, None)
    parts = urlsplit(url or "")
    if parts.hostname is None or parts.port is None:
        raise Failure(f"the gateway on {host} does not say where it listens")
    # A gateway on all interfaces is reached on the loopback of its own host.
    name = "127.0.0.1" if parts.hostname in {"0.0.0.0", "::"} else parts.hostname  # noqa: S104
    return Far(host, None, (name, parts.port))


def _remote_gateway(login: str) -> Far:
    """Ask the login node; a login shell, since mt-submit is often on a module's PATH."""
    asked = ["ssh", login, "bash", "-lc", shlex.quote("mt-submit gateway status --json")]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise Failure("there is no ssh here", "install OpenSSH's client") from error
    try:
        says = json.loads(done.stdout)
    except ValueError as error:
        reason = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no output"]
        raise Failure(
            f"{login} did not say where the gateway is: {reason[0]}",
            f"does this work: ssh {login} bash -lc 'mt-submit gateway status'",
            exit_codes.GATEWAY_UNREACHABLE,
        ) from error
    if not says.get("running"):
        raise Failure(
            f"no gateway runs on {login}",
            f"start one: ssh {login} bash -lc 'mt-submit gateway start'",
            exit_codes.GATEWAY_UNREACHABLE,
        )
    return far_end(says["host"], says.get("socket"), says.get("url"))


def _new_key(invocation: Invocation, name: str) -> str:
    from modeltainer.registry import keys

    return keys.create(invocation.layout(), name)[1]
