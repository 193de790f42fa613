"""``mt-submit reconcile``."""

from __future__ import annotations

import threading

import click

from modeltainer.cli.failures import Interrupted
from modeltainer.cli.invocation import Invocation, pass_invocation
from modeltainer.cli.text import note


@click.command(
    "reconcile",
    epilog="\b\nExample:\n"
    "  mt-submit reconcile\n"
    "  mt-submit reconcile --watch\n"
    "  * * * * * mt-submit --config ~/models.yaml reconcile    # in crontab or scrontab",
)
@click.option(
    "--watch/--once",
    default=False,
    help="Stay and keep it so, or look and act once. [default: --once]",
)
@pass_invocation
def command(invocation: Invocation, /, watch: bool) -> None:
    """Make what runs equal to what was declared with mt-submit up --keep.

    A running gateway does this itself. One reconciler works on a registry at a time; --once leaves
    it to the other one if there is one.
    """
    from modeltainer.reconcile.run import BusyError, Reconciler, lease, reconcile

    layout = invocation.layout()
    if watch:
        try:
            reconcile(layout, invocation.fresh_config, over=threading.Event(), say=note)
        except KeyboardInterrupt:
            raise Interrupted("no longer reconciling; what runs goes on") from None
        return
    try:
        with lease(layout, wait=False) as ours:
            Reconciler(layout, invocation.fresh_config, ours=ours, say=note).step()
    except BusyError as error:
        note(str(error))
