"""``mt-submit up --keep``: declare what should run, and see the first of it submitted."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from modeltainer.cli import exit_codes
from modeltainer.cli.failures import Failure
from modeltainer.cli.invocation import Invocation
from modeltainer.cli.text import note

if TYPE_CHECKING:
    from modeltainer.config.resolve import Overrides
    from modeltainer.registry.deployments import Deployment
    from modeltainer.registry.layout import Layout
    from modeltainer.spec import LaunchSpec
    from modeltainer.view import Row

FIRST_LAUNCH_S = 60.0
"""For a reconciler that runs already to submit what was declared."""
LOOKED_S = 8.0
"""By then it has looked: what it says holds it back is about this declaration."""


@dataclass(frozen=True)
class Bounds:
    """The options that only make sense for a deployment; None takes the default."""

    minimum: int | None
    maximum: int | None
    idle_release_s: int | None
    in_flight: int | None
    first_token_s: float | None
    gpu_hours: float | None
    spare_partition: str | None

    @property
    def given(self) -> bool:
        """At least one of them was given."""
        return any(value is not None for value in asdict(self).values())

    def check(self, replicas: int | None, *, as_array: bool) -> None:
        """See that they fit together.

        Raises:
            click.UsageError: they do not.
        """
        if as_array:
            raise click.UsageError("what is kept up has a job for each replica: leave --array out")
        if replicas is not None and (self.minimum, self.maximum) != (None, None):
            raise click.UsageError("--replicas is --min and --max in one: give either")
        if self.maximum is not None and self.maximum < (self.minimum or 0):
            raise click.UsageError("--max is less than --min")

    def limits(self, replicas: int) -> tuple[int, int]:
        """The least and the most replicas of a model of so many.

        Raises:
            click.UsageError: none of them is left for the spare partition.
        """
        low = replicas if self.minimum is None else self.minimum
        if self.minimum is None and self.maximum is not None:
            low = min(replicas, self.maximum)
        high = max(low, 1) if self.maximum is None else self.maximum
        if self.spare_partition is not None and high <= max(low, 1):
            raise click.UsageError(
                f"--spare-partition takes the replicas beyond --min ({low}, and at least one), and "
                f"--max is {high}: give more"
            )
        return low, high


def take_bounds(options: dict[str, Any]) -> Bounds:
    """Take these options out of ``options``."""
    return Bounds(
        minimum=options.pop("minimum"),
        maximum=options.pop("maximum"),
        idle_release_s=options.pop("idle_release"),
        in_flight=options.pop("in_flight"),
        first_token_s=options.pop("first_token"),
        gpu_hours=options.pop("gpu_hours"),
        spare_partition=options.pop("spare_partition"),
    )


def check_lives(layout: Layout, specs: Sequence[LaunchSpec]) -> None:
    """See that each would be up for longer than its starts are known to take.

    Raises:
        Failure: one would not.
    """
    from modeltainer.reconcile.run import reserved_s
    from modeltainer.registry import deployments

    for spec in specs:
        load_s = max(deployments.read_history(layout, spec.model).load_s, default=None)
        if load_s is None or spec.placement is None:
            continue
        walltime_s = min(spec.placement.walltime_s, spec.resources.time_min_s or math.inf)
        life_s = walltime_s - reserved_s(spec)
        if life_s <= load_s:
            raise Failure(
                f"{spec.model}: its starts take up to {load_s:.0f} s, and a walltime of "
                f"{walltime_s:.0f} s leaves {max(life_s, 0):.0f} s for starting and serving",
                "ask for more with --time (and --time-min)",
                exit_codes.REFUSED,
                code="walltime-too-short",
            )


def keep_up(
    invocation: Invocation,
    models: Sequence[str],
    replicas: int | None,
    bounds: Bounds,
    overrides: Overrides,
    *,
    quiet: bool,
) -> list[Row]:
    """Declare the models and have one look of the reconciler, here or where it runs already.

    Returns:
        The launches that serve the declarations now.

    Raises:
        Failure: nothing could be submitted; the declaration stays, and is tried again.
    """
    from modeltainer import service
    from modeltainer.reconcile.run import BusyError, Reconciler, lease
    from modeltainer.registry import deployments

    config, layout = invocation.config(), invocation.layout()
    names = [service.known_model(wished, config) for wished in models]
    made = [
        deployments.declare(
            layout,
            replace(
                _deployment(name, replicas or config.models[name].replicas, bounds, overrides),
                model_digest=config.models[name].jobs_digest(),
            ),
        )
        for name in dict.fromkeys(names)
    ]

    def say(line: str) -> None:
        if not quiet:
            note(line)

    try:
        with lease(layout, wait=False) as ours:
            Reconciler(layout, invocation.fresh_config, ours=ours).step()
        say("declared; the gateway (mt-submit gateway start) or mt-submit reconcile keeps it up")
    except BusyError as error:
        say(f"declared; {error}")
    wanted = {one.revision for one in made if one.minimum}
    return _launches(invocation, made, wanted)


def _deployment(model: str, replicas: int, bounds: Bounds, overrides: Overrides) -> Deployment:
    from modeltainer.registry.deployments import Deployment, plain_overrides

    low, high = bounds.limits(replicas)
    optional: dict[str, Any] = {
        "idle_release_s": bounds.idle_release_s,
        "target_in_flight": bounds.in_flight,
        "target_first_token_s": bounds.first_token_s,
        "gpu_hours_per_day": bounds.gpu_hours,
        "spare_partition": bounds.spare_partition,
    }
    return Deployment(
        model=model,
        revision="",
        minimum=low,
        maximum=high,
        overrides=plain_overrides(asdict(overrides)),
        created_unix=time.time(),
        **{name: value for name, value in optional.items() if value is not None},
    )


def _launches(invocation: Invocation, made: Sequence[Deployment], wanted: set[str]) -> list[Row]:
    """Wait until each deployment that wants a replica has a launch."""
    from modeltainer import service
    from modeltainer.registry import deployments, launches

    layout = invocation.layout()
    deadline = time.monotonic() + FIRST_LAUNCH_S
    while True:
        found = {
            one.spec.launch_id: one.spec.deployment
            for one in launches.read_all(layout)
            if one.submission is not None and one.spec.deployment in wanted
        }
        if wanted <= set(found.values()):
            return [
                row for row in service.list_launches(invocation.config()) if row.launch_id in found
            ]
        histories = [deployments.read_history(layout, one.model) for one in made]
        refused = [
            one
            for one, deployment in zip(histories, made, strict=True)
            if one.failures and one.failed_unix >= deployment.created_unix
        ]
        held = "; ".join(dict.fromkeys(one.note for one in histories if one.note))
        now = time.monotonic()
        if refused or now > deadline or (held and now > deadline - FIRST_LAUNCH_S + LOOKED_S):
            reason = refused[0].cause if refused else held or "no reconciler has submitted it yet"
            raise Failure(
                f"declared, but not submitted: {reason}",
                "it is tried again; mt-submit ls shows it, mt-submit stop MODEL takes it back",
                code=refused[0].cause_code if refused else "",
            )
        time.sleep(0.3)
