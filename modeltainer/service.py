"""The public API: launch, wait, stop, list. ``mt-submit`` is a thin shell over these functions.

State is read from the registry and the scheduler each time; nothing is kept in this process.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from modeltainer.config.load import load
from modeltainer.config.resolve import CannotLaunchError, Overrides, launch_spec, secret_environment
from modeltainer.registry import launches
from modeltainer.registry.endpoints import EndpointReader
from modeltainer.registry.layout import Layout
from modeltainer.registry.records import Endpoint, State
from modeltainer.scheduler import Scheduler
from modeltainer.spec import LaunchSpec, Source
from modeltainer.view import JobSight, Row, merge

if TYPE_CHECKING:
    from modeltainer.config.schema import Config
    from modeltainer.hpc.snapshot import Snapshot
    from modeltainer.weights.shape import ModelShape


class LaunchError(RuntimeError):
    """A launch could not be planned, submitted or written; nothing of it was left behind.

    ``code`` is stable (``no-such-model``, ``registry-unwritable``, or that of hpc's
    ``PlacementError`` or ``SubmissionError``); ``message`` says what happened, ``hint`` what to
    do next.
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.code, self.message, self.hint = code, message, hint


class WaitTimeoutError(TimeoutError):
    """Not all launches were ready in time; they go on. ``rows`` has their last state."""

    def __init__(self, rows: list[Row]) -> None:
        waiting = ", ".join(
            f"{row.launch_id} ({row.state.value})" for row in rows if _underway(row)
        )
        super().__init__(f"still not ready: {waiting}")
        self.rows = rows


@dataclass
class StopReport:
    """What :func:`stop` did."""

    stopped: list[str] = field(default_factory=list)
    """Launch ids that are gone: no job, no process, no endpoint file."""
    still_running: list[str] = field(default_factory=list)
    """Cancelled, but not gone within the time given; stop again or ask the scheduler."""
    unknown: list[str] = field(default_factory=list)
    """Targets that name no launch."""


def executor_of(config: Config) -> Literal["slurm", "local"]:
    """Where launches go: the site's choice, or Slurm where its commands are found."""
    if config.site.executor != "auto":
        return config.site.executor
    from modeltainer.hpc.cluster import detect

    return detect()


def plan(
    models: Sequence[str],
    *,
    config: Config,
    replicas: int | None = None,
    overrides: Overrides | None = None,
) -> list[LaunchSpec]:
    """Specs with their placement for every replica of every model; nothing is written.

    Args:
        models: names or aliases in models.yaml.
        replicas: jobs per model; None takes each model's own number.
        overrides: the command line's wishes over the configuration.

    Raises:
        LaunchError: an unknown model, no place on this cluster, or (``does-not-fit``) a model that
            nothing there can hold.
        CannotLaunchError: the source or the runtime does not allow it.
    """
    executor = executor_of(config)
    specs = []
    for wished in models:
        name = known_model(wished, config)
        for replica in range(replicas or config.models[name].replicas):
            specs.append(launch_spec(config, name, replica, executor=executor, overrides=overrides))
    if executor != "slurm":
        return specs
    return _placed(specs, config, overrides or Overrides())


def known_model(wished: str, config: Config) -> str:
    """The name in models.yaml behind a name or alias.

    Raises:
        LaunchError: there is none; the nearest is named.
    """
    name = config.model_named(wished)
    if name is None:
        raise LaunchError("no-such-model", *_unknown_model(wished, config))
    return name


def submit(specs: Sequence[LaunchSpec], *, config: Config) -> list[Row]:
    """Write and submit planned launches, all or none: when one is refused, or on Ctrl-C, those
    already submitted by this call are cancelled and removed.

    Raises:
        LaunchError: the registry cannot be written, or the scheduler refuses.
        CannotLaunchError: a secret is not there.
    """
    from modeltainer.hpc.submit import SubmissionError
    from modeltainer.hpc.submit import submit as submit_job

    layout = Layout(config.site.registry)
    executor = executor_of(config)
    created: list[str] = []
    try:
        for spec in specs:
            secrets = secret_environment(spec.model, config.models[spec.model].secrets)
            created.append(spec.launch_id)
            launches.create(layout, spec, launches.new_secret(secrets))
            submission = submit_job(spec, layout, executor=executor)
            launches.record_submission(layout, submission)
    except BaseException as error:
        _undo(layout, created, executor)
        if isinstance(error, SubmissionError):
            raise LaunchError(error.code, error.message, error.hint) from error
        if isinstance(error, OSError):
            raise _registry_error(config, error) from error
        raise
    wanted = set(created)
    return [row for row in list_launches(config) if row.launch_id in wanted]


def launch(
    models: Sequence[str] | str,
    *,
    config: Config | None = None,
    replicas: int | None = None,
    overrides: Overrides | None = None,
) -> list[Row]:
    """Plan and submit: the models' replicas become jobs. Returns their rows at once; use
    :func:`wait` for readiness. Raises as :func:`plan` and :func:`submit`."""
    config = load() if config is None else config
    names = [models] if isinstance(models, str) else list(models)
    specs = plan(names, config=config, replicas=replicas, overrides=overrides)
    return submit(specs, config=config)


def list_launches(config: Config | None = None) -> list[Row]:
    """Every launch of this registry, ordered by launch id. One query to the scheduler."""
    config = load() if config is None else config
    return _Observer(Layout(config.site.registry)).rows()


def wait(
    launch_ids: Sequence[str],
    *,
    config: Config | None = None,
    timeout_s: float | None = None,
    on_change: Callable[[list[Row]], None] | None = None,
    poll_s: float = 0.5,
) -> list[Row]:
    """Block until each launch is ready or has ended, and return their rows.

    Args:
        timeout_s: None waits as long as the queue does.
        on_change: called with all rows at the start and at each change of a state or reason.
        poll_s: how often the registry is read; the scheduler is asked far less often.

    Raises:
        WaitTimeoutError: time is up; the launches go on.
        LaunchError: a launch id is not in the registry.
    """
    config = load() if config is None else config
    observer = _Observer(Layout(config.site.registry))
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    wanted = set(launch_ids)
    last: list[tuple[State, str]] = []
    while True:
        rows = [row for row in observer.rows() if row.launch_id in wanted]
        missing = wanted - {row.launch_id for row in rows}
        if missing:
            raise LaunchError(
                "no-such-launch",
                f"{', '.join(sorted(missing))} is not in the registry (any more)",
                "another mt-submit may have stopped it; see mt-submit ls",
            )
        now = [(row.state, row.reason) for row in rows]
        if now != last and on_change is not None:
            on_change(rows)
        last = now
        if not any(_underway(row) for row in rows):
            return rows
        if deadline is not None and time.monotonic() >= deadline:
            raise WaitTimeoutError(rows)
        time.sleep(poll_s)


def stop(
    targets: Sequence[str] = (),
    *,
    config: Config | None = None,
    all_: bool = False,
    wait_s: float = 60.0,
) -> StopReport:
    """Cancel launches and see them gone: no job, no process, no endpoint file, no launch folder.

    Args:
        targets: model names, aliases, launch ids or job ids.
        all_: everything in this registry.
        wait_s: how long to wait for running requests to drain and jobs to end.

    Raises:
        LaunchError: the scheduler does not answer; nothing was removed.
    """
    from modeltainer.hpc.cancel import cancel
    from modeltainer.hpc.commands import SlurmError

    config = load() if config is None else config
    layout = Layout(config.site.registry)
    found = launches.read_all(layout)
    chosen, unknown = _select(found, targets, all_, config)
    try:
        cancel([launch.submission for launch in chosen if launch.submission is not None])
    except SlurmError as error:
        raise LaunchError(
            "slurm-unavailable", f"the jobs could not be cancelled: {error}", "try again"
        ) from error
    report = StopReport(unknown=unknown)
    scheduler = Scheduler(min_interval_s=0.5)
    deadline = time.monotonic() + wait_s
    waiting = {launch.spec.launch_id: launch for launch in chosen}
    while waiting:
        sights = scheduler.look([w.submission for w in waiting.values() if w.submission])
        for launch_id, one in list(waiting.items()):
            if one.submission is None or sights[one.submission.job_id].residence == "gone":
                _forget(layout, launch_id)
                report.stopped.append(launch_id)
                del waiting[launch_id]
        if waiting and time.monotonic() >= deadline:
            report.still_running = sorted(waiting)
            break
        if waiting:
            time.sleep(0.2)
    return report


class _Observer:
    """Registry and scheduler, read together; the scheduler's answers are reused between polls."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._reader = EndpointReader(layout)
        self._scheduler = Scheduler()

    def rows(self) -> list[Row]:
        found = launches.read_all(self._layout)
        endpoints = {seen.endpoint.launch_id: seen.endpoint for seen in self._reader.poll()}
        sights = self._scheduler.look(
            [launch.submission for launch in found if launch.submission is not None],
            settled=_settled(endpoints),
        )
        nowhere = JobSight("unknown")
        return [
            merge(
                launch,
                endpoints.get(launch.spec.launch_id),
                sights.get(launch.submission.job_id, nowhere) if launch.submission else nowhere,
            )
            for launch in found
        ]


def _settled(endpoints: Mapping[str, Endpoint]) -> frozenset[str]:
    """Jobs whose agent has spoken: the scheduler need not be asked about them so often."""
    return frozenset(endpoint.job_id for endpoint in endpoints.values())


def _underway(row: Row) -> bool:
    return row.state not in {State.READY, State.DRAINING, State.ENDED}


def _placed(specs: list[LaunchSpec], config: Config, overrides: Overrides) -> list[LaunchSpec]:
    from modeltainer.hpc.commands import SlurmError
    from modeltainer.hpc.placement import PlacementError, place
    from modeltainer.hpc.snapshot import take_snapshot

    try:
        snapshot = take_snapshot()
    except SlurmError as error:
        raise LaunchError(
            "slurm-unavailable", str(error), "try again, or ask whether the controller is down"
        ) from error
    placed = []
    for unsized in specs:
        spec, why = _sized(unsized, config, overrides, snapshot)
        try:
            placement = place(
                snapshot, spec.resources, partitions_preferred=tuple(config.site.partitions)
            )
        except PlacementError as error:
            raise LaunchError(error.code, f"{spec.model}: {error.message}", error.hint) from error
        at = config.site.partitions.get(placement.partition or "")
        resources = replace(
            spec.resources,
            account=spec.resources.account or (at.account if at else None),
            qos=spec.resources.qos or (at.qos if at else None),
        )
        placement = replace(placement, reasons=(*why, *placement.reasons))
        placed.append(replace(spec, placement=placement, resources=resources))
    return placed


def _sized(
    spec: LaunchSpec, config: Config, overrides: Overrides, snapshot: Snapshot
) -> tuple[LaunchSpec, tuple[str, ...]]:
    """The launch with resources that hold its model, where the user has left them open and the
    weights are at hand; and why."""
    if not spec.resources.gpus:
        return spec, ()
    from modeltainer.sizing.fit import CannotFitError
    from modeltainer.sizing.launch import Given, check_parallelism, size_launch
    from modeltainer.weights.inspect import NoWeightsError

    layers = (config.site.defaults, config.models[spec.model].resources)

    def given(name: str, override: object) -> bool:
        return override is not None or any(getattr(one, name) is not None for one in layers)

    try:
        check_parallelism(spec)
        sized = size_launch(
            spec,
            model_shape(spec.source, cache=spec.site.cache),
            snapshot,
            Given(
                gpus=given("gpus", overrides.gpus),
                gpu_memory=given("gpu_memory", overrides.gpu_memory_mib),
                gpu_type=given("gpu_type", overrides.gpu_type),
                mig=given("mig", overrides.mig),
            ),
        )
    except NoWeightsError as error:
        return spec, (f"size not known: {error}",)
    except CannotFitError as error:
        raise LaunchError("does-not-fit", f"{spec.model}: {error.message}", error.hint) from error
    return (
        replace(spec, resources=sized.resources, engine_args=dict(sized.engine_args)),
        sized.reasons,
    )


def model_shape(source: Source, *, cache: str | None = None) -> ModelShape:
    """What a source's files tell of the model; the hub's caches are looked into, not the hub.

    Args:
        cache: the site's cache, whose ``huggingface/hub`` is searched too.

    Raises:
        NoWeightsError: nothing is at hand, or it does not tell.
    """
    from pathlib import Path

    from modeltainer.weights.hub_cache import hub_folders
    from modeltainer.weights.inspect import read_hub, read_path

    if source.kind == "path":
        return read_path(Path(source.value))
    folders = hub_folders()
    if cache is not None:
        folders = (Path(cache) / "huggingface" / "hub", *folders)
    return read_hub(source.value, revision=source.revision, file=source.file, folders=folders)


def _unknown_model(wished: str, config: Config) -> tuple[str, str]:
    names = [
        *config.models,
        *(alias for model in config.models.values() for alias in model.aliases),
    ]
    near = difflib.get_close_matches(wished, names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"known models: {', '.join(config.models)}"
    return f"there is no model {wished!r} in the configuration", hint


def _registry_error(config: Config, error: OSError) -> LaunchError:
    return LaunchError(
        "registry-unwritable",
        f"the registry {config.site.registry} cannot be written: {error.strerror or error}",
        "free some space or quota, or set site.registry (or MODELTAINER_REGISTRY) to a folder on "
        "the shared filesystem that you can write",
    )


def _undo(layout: Layout, created: Iterable[str], executor: str) -> None:
    """Cancel and remove what a failed or interrupted submit() has made so far."""
    from modeltainer.hpc.cancel import cancel, cancel_named
    from modeltainer.hpc.commands import SlurmError
    from modeltainer.hpc.options import job_name

    submissions = []
    for launch_id in created:
        submission = launches.read_submission(layout.launch(launch_id))
        if submission is not None:
            submissions.append(submission)
        elif executor == "slurm":
            # Ctrl-C between the scheduler's answer and our record of it: the name finds the job.
            with contextlib.suppress(SlurmError):
                cancel_named(job_name(launch_id))
    with contextlib.suppress(SlurmError):
        cancel(submissions)
    for launch_id in created:
        _forget(layout, launch_id)


def _forget(layout: Layout, launch_id: str) -> None:
    """Remove what is left of a launch whose job is gone, its dead agent's endpoint file too."""
    with contextlib.suppress(OSError):
        for name in os.listdir(layout.endpoints):
            if name.endswith(f".{launch_id}.json"):
                (layout.endpoints / name).unlink(missing_ok=True)
    launches.remove(layout, launch_id)


def _select(
    found: Sequence[launches.Launch], targets: Sequence[str], all_: bool, config: Config
) -> tuple[list[launches.Launch], list[str]]:
    if all_:
        return list(found), []
    chosen: dict[str, launches.Launch] = {}
    unknown = []
    for target in targets:
        model = config.model_named(target) or target
        hits = [
            one
            for one in found
            if target == one.spec.launch_id
            or model == one.spec.model
            or (one.submission is not None and target == one.submission.job_id)
        ]
        if not hits:
            unknown.append(target)
        chosen.update({one.spec.launch_id: one for one in hits})
    return list(chosen.values()), unknown


__all__ = [
    "CannotLaunchError",
    "LaunchError",
    "StopReport",
    "WaitTimeoutError",
    "executor_of",
    "launch",
    "list_launches",
    "plan",
    "stop",
    "submit",
    "wait",
]
