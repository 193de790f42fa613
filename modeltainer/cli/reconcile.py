"""``mt-submit reconcile``."""

from __future__ import annotations

import threading

import click

from modeltainer.cli.failures import Interrupted
from modeltainer.cli.invocation import Invocation, pass_invocation
from modeltainer.cli.placement_options import seconds
from modeltainer.cli.text import note


@click.command(
    "reconcile",
    epilog="\b\nExample:\n"
    "  mt-submit reconcile\n"
    "  mt-submit reconcile --watch\n"
    "  * * * * * mt-submit --config ~/models.yaml reconcile --for 10m    # in crontab or scrontab",
)
@click.option(
    "--watch/--once",
    default=False,
    help="Stay and keep it so, or look and act once. [default: --once]",
)
@click.option(
    "--for",
    "stay_s",
    metavar="TIME",
    callback=seconds,
    help="Stay for so long: silent nodes and load are seen by looking again and again.",
)
@pass_invocation
def command(invocation: Invocation, /, watch: bool, stay_s: int | None) -> None:
    """Make what runs equal to what was declared with mt-submit up --keep.

    A running gateway does this itself. One reconciler works on a registry at a time; --once and
    --for leave it to the other one if there is one.
    """
    from modeltainer.reconcile.run import (
        STEP_S,
        BusyError,
        Reconciler,
        keep_looking,
        lease,
        reconcile,
    )

    if watch and stay_s is not None:
        raise click.UsageError("--watch and --for exclude each other")
    layout = invocation.layout()
    if watch:
        try:
            reconcile(layout, invocation.fresh_config, over=threading.Event(), say=note)
        except KeyboardInterrupt:
            raise Interrupted("no longer reconciling; what runs goes on") from None
        return
    try:
        with lease(layout, wait=False) as ours:
            reconciler = Reconciler(layout, invocation.fresh_config, ours=ours, say=note)
            reconciler.step()
            if stay_s is not None:
                over = threading.Event()
                timer = threading.Timer(stay_s, over.set)
                timer.daemon = True
                timer.start()
                over.wait(STEP_S)
                keep_looking(reconciler, ours, over, note)
    except KeyboardInterrupt:
        raise Interrupted("no longer reconciling; what runs goes on") from None
    except BusyError as error:
        note(str(error))
