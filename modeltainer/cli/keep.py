"""``mt-submit up --keep``: declare what should run, and see the first of it submitted."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from modeltainer.cli.failures import Failure
from modeltainer.cli.invocation import Invocation
from modeltainer.cli.text import note

if TYPE_CHECKING:
    from modeltainer.config.resolve import Overrides
    from modeltainer.registry.deployments import Deployment
    from modeltainer.view import Row

FIRST_LAUNCH_S = 60.0
"""For a reconciler that runs already to submit what was declared."""


@dataclass(frozen=True)
class Bounds:
    """The options that only make sense for a deployment; None takes the default."""

    minimum: int | None
    maximum: int | None
    idle_release_s: int | None
    in_flight: int | None
    gpu_hours: float | None
    spare_partition: str | None

    @property
    def given(self) -> bool:
        """At least one of them was given."""
        return any(value is not None for value in asdict(self).values())

    def check(self, replicas: int | None) -> None:
        """See that they fit together.

        Raises:
            click.UsageError: they do not.
        """
        if replicas is not None and (self.minimum, self.maximum) != (None, None):
            raise click.UsageError("--replicas is --min and --max in one: give either")
        if self.maximum is not None and self.maximum < (self.minimum or 0):
            raise click.UsageError("--max is less than --min")
        if self.spare_partition is not None and (self.maximum or 0) <= max(self.minimum or 0, 1):
            raise click.UsageError(
                "--spare-partition takes the replicas beyond --min (at least one stays out of it): "
                "give --max, and more than that"
            )


def take_bounds(options: dict[str, Any]) -> Bounds:
    """Take these options out of ``options``."""
    return Bounds(
        minimum=options.pop("minimum"),
        maximum=options.pop("maximum"),
        idle_release_s=options.pop("idle_release"),
        in_flight=options.pop("in_flight"),
        gpu_hours=options.pop("gpu_hours"),
        spare_partition=options.pop("spare_partition"),
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

    low = replicas if bounds.minimum is None else bounds.minimum
    if bounds.minimum is None and bounds.maximum is not None:
        low = min(replicas, bounds.maximum)
    optional: dict[str, Any] = {
        "idle_release_s": bounds.idle_release_s,
        "target_in_flight": bounds.in_flight,
        "gpu_hours_per_day": bounds.gpu_hours,
        "spare_partition": bounds.spare_partition,
    }
    return Deployment(
        model=model,
        revision="",
        minimum=low,
        maximum=max(low, 1) if bounds.maximum is None else bounds.maximum,
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
        if refused or time.monotonic() > deadline:
            reason = refused[0].cause if refused else "no reconciler has submitted it yet"
            raise Failure(
                f"declared, but not submitted: {reason}",
                "it is tried again; mt-submit ls shows it, mt-submit stop MODEL takes it back",
            )
        time.sleep(0.3)
