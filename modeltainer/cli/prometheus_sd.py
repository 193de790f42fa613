"""``mt-submit prometheus-sd``."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from modeltainer.cli.invocation import Invocation, pass_invocation
from modeltainer.cli.text import note


@click.command(
    "prometheus-sd",
    epilog="\b\nExample:\n"
    "  mt-submit prometheus-sd\n"
    "  mt-submit prometheus-sd --output /srv/prometheus/modeltainer.json --every 15",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write this file, whole; it is printed otherwise.",
)
@click.option(
    "--every",
    type=click.FloatRange(1),
    metavar="SECONDS",
    help="Stay, and write it again when something has changed.",
)
@pass_invocation
def command(invocation: Invocation, /, output: Path | None, every: float | None) -> None:
    """Write the gateway and the engines as targets for Prometheus.

    The file is for file_sd_configs. It holds no keys: give Prometheus a client key of its own
    (mt-submit key create prometheus) as authorization credentials.
    """
    from modeltainer.gateway import address
    from modeltainer.registry.endpoints import EndpointReader
    from modeltainer.registry.service_discovery import target_groups, write_targets

    if every is not None and output is None:
        raise click.UsageError("--every goes with --output")
    layout = invocation.layout()
    reader = EndpointReader(layout)
    while True:
        gateway = address.read(layout)
        groups = target_groups(gateway, reader.poll())
        if output is None:
            click.echo(json.dumps(groups, indent=2))
        elif write_targets(output, groups):
            note(f"{output}: {len(groups)} targets")
        if gateway is not None and gateway.socket is not None and every is None:
            note("the gateway listens on a Unix socket, which Prometheus cannot scrape")
        if every is None:
            return
        time.sleep(every)
