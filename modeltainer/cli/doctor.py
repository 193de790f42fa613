"""``mt-submit doctor``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from modeltainer.cli import exit_codes
from modeltainer.cli.invocation import Invocation, pass_invocation
from modeltainer.cli.text import STATE_COLOURS, echo_json

if TYPE_CHECKING:
    from modeltainer.cli.doctor_checks import Finding, Site


@click.command(
    "doctor",
    epilog="\b\nExample:\n"
    "  mt-submit doctor\n"
    "  mt-submit doctor --partition gpu\n"
    "  mt-submit doctor --no-job --json | jq '.[] | select(.status != \"ok\")'",
)
@click.option("--partition", "-p", metavar="NAME", help="Where to run the short job.")
@click.option("--no-job", is_flag=True, help="Do not run a job on a compute node.")
@click.option("--json", "as_json", is_flag=True, help="An array of findings as JSON.")
@pass_invocation
@click.pass_context
def command(
    ctx: click.Context,
    /,
    invocation: Invocation,
    partition: str | None,
    no_job: bool,
    as_json: bool,
) -> None:
    """Check this host and, by a short job, a compute node: what is well, and what to do.

    Exit code 1 if anything fails; warnings do not count.
    """
    findings = []
    for finding in _examine(_site(invocation, partition, job=not no_job)):
        findings.append(finding)
        if not as_json:
            click.echo(_line(finding))
    if as_json:
        echo_json([asdict(finding) for finding in findings])
    if any(finding.status == "failure" for finding in findings):
        ctx.exit(exit_codes.FAILURE)


def _site(invocation: Invocation, partition: str | None, *, job: bool) -> Site:
    from modeltainer import service
    from modeltainer.cli.doctor_checks import Site
    from modeltainer.config.problems import ConfigError
    from modeltainer.hpc.cluster import detect

    try:
        config = invocation.config()
    except ConfigError as error:
        return Site(None, str(error), detect(), partition, job)
    return Site(config, "", service.executor_of(config), partition, job)


def _examine(site: Site) -> Iterator[Finding]:
    from modeltainer.cli.doctor_checks import CHECKS
    from modeltainer.cli.doctor_node import node_findings

    for check in CHECKS:
        finding = check(site)
        if finding is not None:
            yield finding
    if site.job:
        yield from node_findings(site)


def _line(finding: Finding) -> str:
    mark = click.style(f"{finding.status:<8}", fg=STATE_COLOURS[finding.status])
    line = f"{mark} {finding.name}: {finding.message}"
    return f"{line}\n{' ' * 9}{finding.todo}" if finding.todo else line
