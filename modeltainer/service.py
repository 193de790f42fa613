"""The public API: launch, wait, stop, list. ``mt-submit`` is a thin shell over these functions.

State is read from the registry and the scheduler each time; nothing is kept in this process.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from modeltainer.config.load import load
from modeltainer.config.resolve import CannotLaunchError, Overrides, launch_spec, secret_environment
from modeltainer.registry import deployments, launches, leftovers
from modeltainer.registry.endpoints import EndpointReader
from modeltainer.registry.layout import Layout
from modeltainer.registry.records import Endpoint, State, Submission
from modeltainer.scheduler import Scheduler
from modeltainer.spec import LaunchSpec, Source
from modeltainer.tls import NoTlsError
from modeltainer.view import JobSight, Row, merge

if TYPE_CHECKING:
    from modeltainer.config.schema import Config
    from modeltainer.hpc.placement import Places
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
    """Targets that name neither a launch nor a deployment."""
    withdrawn: list[str] = field(default_factory=list)
    """Models that are declared no more."""
    replaced: list[str] = field(default_factory=list)
    """Models of single launches that were stopped but stay declared: others take their place."""


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
    planner = Planner(config)
    names = [known_model(wished, config) for wished in models]
    return [
        planner.spec(name, replica, overrides)
        for name in names
        for replica in range(replicas or config.models[name].replicas)
    ]


class Planner:
    """Specs with their placement, all from one look at the cluster."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._executor = executor_of(config)
        self._places: Places | None = None

    def spec(
        self,
        model: str,
        replica: int,
        overrides: Overrides | None = None,
    ) -> LaunchSpec:
        """The spec of one replica of a model in models.yaml. Raises as :func:`plan`."""
        spec = launch_spec(
            self._config, model, replica, executor=self._executor, overrides=overrides
        )
        if self._executor != "slurm":
            return spec
        return self._placed(spec, overrides or Overrides())

    def _placed(self, spec: LaunchSpec, overrides: Overrides) -> LaunchSpec:
        from modeltainer.hpc.commands import SlurmError
        from modeltainer.hpc.placement import PlacementError, Places
        from modeltainer.hpc.snapshot import take_snapshot

        site = self._config.site
        try:
            if self._places is None:
                self._places = Places(take_snapshot(), tuple(site.partitions))
            spec, why = _sized(spec, self._config, overrides, self._places.snapshot)
            placement = self._places.find(spec.resources)
        except SlurmError as error:
            raise LaunchError(
                "slurm-unavailable", str(error), "try again, or ask whether the controller is down"
            ) from error
        except PlacementError as error:
            raise LaunchError(error.code, f"{spec.model}: {error.message}", error.hint) from error
        at = site.partitions.get(placement.partition or "")
        resources = replace(
            spec.resources,
            account=spec.resources.account or (at.account if at else None),
            qos=spec.resources.qos or (at.qos if at else None),
        )
        placement = replace(placement, reasons=(*why, *placement.reasons))
        return replace(spec, placement=placement, resources=resources)


def known_model(wished: str, config: Config) -> str:
    """The name in models.yaml behind a name or alias.

    Raises:
        LaunchError: there is none; the nearest is named.
    """
    name = config.model_named(wished)
    if name is None:
        raise LaunchError("no-such-model", *_unknown_model(wished, config))
    return name


def submit(specs: Sequence[LaunchSpec], *, config: Config, as_array: bool = False) -> list[Row]:
    """Write and submit planned launches, all or none: when one is refused, or on Ctrl-C, those
    already submitted by this call are cancelled and removed.

    Args:
        as_array: launches that differ in their number only become tasks of one job array.

    Raises:
        LaunchError: the registry cannot be written, or the scheduler refuses.
        CannotLaunchError: a secret is not there.
    """
    submit_unseen(specs, config=config, as_array=as_array)
    wanted = {spec.launch_id for spec in specs}
    try:
        return [row for row in list_launches(config) if row.launch_id in wanted]
    except KeyboardInterrupt as error:
        _take_back(specs, error, config)
        raise


def submit_unseen(specs: Sequence[LaunchSpec], *, config: Config, as_array: bool = False) -> None:
    """:func:`submit` without a look at the queue afterwards. Raises as it does."""
    from modeltainer.hpc import array
    from modeltainer.hpc.submit import SubmissionError
    from modeltainer.hpc.submit import submit as submit_job

    layout = Layout(config.site.registry)
    executor = executor_of(config)
    created: list[LaunchSpec] = []
    try:
        together = as_array and executor == "slurm"
        for alike in array.groups(specs) if together else [[spec] for spec in specs]:
            group = array.numbered(alike) if len(alike) > 1 else alike
            for spec in group:
                secrets = secret_environment(spec.model, config.models[spec.model].secrets)
                secret = launches.new_secret(secrets, tls=spec.site.engine_tls)
                created.append(spec)
                launches.create(layout, spec, secret)
            if len(group) > 1:
                submissions = array.submit(group, layout)
            else:
                submissions = [submit_job(group[0], layout, executor=executor)]
            for submission in submissions:
                launches.record_submission(layout, submission)
    except BaseException as error:
        _take_back(created, error, config)
        if isinstance(error, SubmissionError):
            raise LaunchError(error.code, error.message, error.hint) from error
        if isinstance(error, NoTlsError):
            raise LaunchError("no-tls", error.message, error.hint) from error
        if isinstance(error, OSError):
            raise _registry_error(config, error) from error
        raise


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
    return Observer(config).rows()


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
    observer = Observer(config)
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
    config = load() if config is None else config
    layout = Layout(config.site.registry)
    # First of all, so that no reconciler starts anew what is stopped here.
    try:
        withdrawn = _withdraw(layout, targets, all_, config)
    except OSError as error:
        raise _registry_error(config, error) from error
    found = launches.read_all(layout)
    chosen, unknown = _select(found, targets, all_, config)
    unknown = [one for one in unknown if (config.model_named(one) or one) not in withdrawn]
    report = StopReport(
        unknown=unknown, withdrawn=withdrawn, replaced=_still_declared(layout, chosen)
    )
    deadline = time.monotonic() + wait_s
    known: set[str] = set()
    while chosen and not report.still_running:
        chosen = _with_lost_submissions(layout, chosen, config)
        _end(layout, chosen, max(0.0, deadline - time.monotonic()), report)
        known.update(one.spec.launch_id for one in chosen)
        # A reconciler may have been submitting just when its declaration was withdrawn.
        chosen = [
            one
            for one in launches.read_all(layout)
            if one.spec.model in withdrawn
            and one.spec.deployment is not None
            and one.spec.launch_id not in known
        ]
    if all_:
        _clear_endings(layout)
    return report


ASK_LOCAL_AGAIN_S = 1.0
"""A job that has only just begun may miss its SIGTERM: submitit's controller passes it on to the
processes that it has noted, and has not noted yet the one it has just started."""


def _end(
    layout: Layout, chosen: Sequence[launches.Launch], wait_s: float, report: StopReport
) -> None:
    """Drain and cancel, and see them gone; adds to the report.

    Raises:
        LaunchError: the scheduler does not answer.
    """
    from modeltainer.hpc.cancel import cancel
    from modeltainer.hpc.commands import SlurmError

    began = time.monotonic()
    scheduler = Scheduler(min_interval_s=0.5)
    draining = _ask_to_drain(layout, chosen, scheduler) if wait_s > 0 else {}
    try:
        cancel([one.submission for one in chosen if one.submission and not _in(draining, one)])
    except SlurmError as error:
        raise LaunchError(
            "slurm-unavailable", f"the jobs could not be cancelled: {error}", "try again"
        ) from error
    asked = time.monotonic()
    deadline = began + wait_s
    waiting = {launch.spec.launch_id: launch for launch in chosen}
    while waiting:
        sights = scheduler.look([w.submission for w in waiting.values() if w.submission])
        for launch_id, one in list(waiting.items()):
            if one.submission is None or sights[one.submission.job_id].residence == "gone":
                forget(layout, launch_id)
                report.stopped.append(launch_id)
                del waiting[launch_id]
        late = [
            waiting[name].submission
            for name, patience_s in draining.items()
            if name in waiting and time.monotonic() - began >= min(patience_s, wait_s)
        ]
        if late:
            with contextlib.suppress(SlurmError):
                cancel([one for one in late if one is not None])
                draining = {}
        if waiting and time.monotonic() >= deadline:
            report.still_running = sorted(waiting)
            break
        if time.monotonic() - asked >= ASK_LOCAL_AGAIN_S:
            asked = time.monotonic()
            here = [one.submission for one in waiting.values() if one.submission]
            cancel([one for one in here if one.executor == "local"])
        if waiting:
            time.sleep(0.2)


def _clear_endings(layout: Layout) -> None:
    """Last words of agents whose launches were gone when they could speak again."""
    with contextlib.suppress(OSError):
        for path in leftovers.Leftovers(layout).look(EndpointReader(layout).poll()):
            leftovers.remove(path)


def _with_lost_submissions(
    layout: Layout, chosen: Sequence[launches.Launch], config: Config
) -> list[launches.Launch]:
    """Launches whose mt-submit was killed between the scheduler's answer and our record of it: the
    agent knows the job, and before it speaks the job's name finds it.

    Raises:
        LaunchError: a launch of a bare machine is on another host, or Slurm does not answer.
    """
    from modeltainer.hpc.commands import SlurmError

    here = os.uname().nodename
    agents = {seen.endpoint.launch_id: seen.endpoint for seen in EndpointReader(layout).poll()}
    whole = []
    for one in chosen:
        submission, agent = one.submission, agents.get(one.spec.launch_id)
        if submission is None and executor_of(config) == "slurm":
            if agent is not None:
                submission = Submission(
                    launch_id=one.spec.launch_id,
                    model=one.spec.model,
                    replica=one.spec.replica,
                    executor="slurm",
                    job_id=agent.job_id,
                    submitted_unix=agent.started_unix,
                )
            try:
                _cancel_unrecorded(one.spec)
            except SlurmError as error:
                raise LaunchError(
                    "slurm-unavailable", f"{one.spec.launch_id} was not cancelled: {error}"
                ) from error
        if submission is not None and submission.host not in {None, here}:
            raise LaunchError(
                "other-host",
                f"{one.spec.launch_id} runs on {submission.host}, and can only be stopped there",
                f"log in to {submission.host} and run mt-submit stop again",
            )
        whole.append(replace(one, submission=submission))
    return whole


DRAIN_SLACK_S = 8.0
"""Beside its drain time, what an agent needs to see the request and to end its engine."""


def _ask_to_drain(
    layout: Layout, chosen: Sequence[launches.Launch], scheduler: Scheduler
) -> dict[str, float]:
    """Have the agents of running Slurm jobs drain; launch ids, with the seconds to give each.

    scancel would end the engine, and its requests, with the agent (:mod:`modeltainer.hpc.cancel`).
    """
    from modeltainer.hpc.cancel import nudge

    slurm = [one for one in chosen if one.submission and one.submission.executor != "local"]
    if not slurm:
        return {}
    sights = scheduler.look([one.submission for one in slurm if one.submission])
    served = {
        seen.endpoint.launch_id
        for seen in EndpointReader(layout).poll()
        if seen.endpoint.state in {State.READY, State.DRAINING}
    }
    asked: list[launches.Launch] = []
    for one in slurm:
        assert one.submission is not None
        running = sights[one.submission.job_id].residence == "running"
        if running and one.spec.launch_id in served:
            with contextlib.suppress(OSError):
                launches.request_drain(layout, one.spec.launch_id, launches.STOPPED)
                asked.append(one)
    nudge([one.submission for one in asked if one.submission])
    return {one.spec.launch_id: one.spec.drain_s + DRAIN_SLACK_S for one in asked}


def _in(draining: Mapping[str, float], one: launches.Launch) -> bool:
    return one.spec.launch_id in draining


class Observer:
    """Registry and scheduler, read together; the scheduler's answers are reused between looks, so
    whoever looks again and again keeps one of these."""

    def __init__(self, config: Config) -> None:
        self._layout = Layout(config.site.registry)
        self._reader = EndpointReader(self._layout)
        self._scheduler = Scheduler()
        self._found: list[launches.Launch] | None = None

    def rows(self) -> list[Row]:
        """Every launch, ordered by launch id.

        Raises:
            OSError: the registry could not be read, not even once; later, a shared folder that is
                away for a moment leaves what was known.
        """
        try:
            self._found = launches.read_all(self._layout)
        except OSError:
            if self._found is None:
                raise
        found = self._found
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
        if spec.resources.nodes > 1:
            return spec, (f"{spec.resources.nodes} nodes: each with what is asked for",)
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


def _take_back(created: Iterable[LaunchSpec], error: BaseException, config: Config) -> None:
    """Take back what a submit() that ends with ``error`` has made.

    Raises:
        LaunchError: some of it could not be cancelled.
    """
    left = _undo(Layout(config.site.registry), created, executor_of(config))
    if left:
        raise LaunchError(
            "not-cancelled",
            f"the launch failed ({error}), and the scheduler did not answer when these were to "
            f"be cancelled: {', '.join(left)}",
            "they may run: mt-submit ls shows them, mt-submit stop ends them",
        ) from error


def _undo(layout: Layout, created: Iterable[LaunchSpec], executor: str) -> list[str]:
    """Cancel and remove what a failed or interrupted submit() has made so far; returns what could
    not be cancelled, which is kept. A second Ctrl-C has to wait until this is done."""
    interrupting = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, interrupting)
    try:
        left, cancelled = [], {}
        for one in created:
            submission = launches.read_submission(layout.launch(one.launch_id))
            if _cancels(one, submission, executor):
                cancelled[one.launch_id] = submission
            else:
                left.append(one.launch_id)
        _see_gone(cancelled.values())
        for launch_id in cancelled:
            forget(layout, launch_id)
        return left
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _cancels(spec: LaunchSpec, submission: Submission | None, executor: str) -> bool:
    """Cancel it; False when the scheduler did not answer."""
    from modeltainer.hpc.cancel import cancel
    from modeltainer.hpc.commands import SlurmError

    try:
        if submission is not None:
            cancel([submission])
        elif executor == "slurm":
            # Ctrl-C between the scheduler's answer and our record of it: the name finds the job.
            _cancel_unrecorded(spec)
    except SlurmError:
        return False
    return True


UNDO_S = 10.0
"""How long the end of cancelled jobs is waited for: one that had just begun writes into its
launch's folder until then."""


def _see_gone(submissions: Iterable[Submission | None]) -> None:
    """Wait until cancelled jobs have ended, for a while."""
    from modeltainer.hpc.cancel import cancel

    scheduler = Scheduler(min_interval_s=0.5)
    waiting = [one for one in submissions if one is not None]
    asked = time.monotonic()
    deadline = asked + UNDO_S
    while waiting and time.monotonic() < deadline:
        sights = scheduler.look(waiting)
        waiting = [one for one in waiting if sights[one.job_id].residence != "gone"]
        if waiting and time.monotonic() - asked >= ASK_LOCAL_AGAIN_S:
            asked = time.monotonic()
            cancel([one for one in waiting if one.executor == "local"])
        if waiting:
            time.sleep(0.2)


def _cancel_unrecorded(spec: LaunchSpec) -> None:
    from modeltainer.hpc.cancel import cancel_named, cancel_task
    from modeltainer.hpc.options import job_name

    if spec.array is not None:
        cancel_task(*spec.array)
    else:
        cancel_named(job_name(spec.launch_id))


def forget(layout: Layout, launch_id: str) -> None:
    """Remove what is left of a launch whose job is gone, its dead agent's endpoint file too."""
    with contextlib.suppress(OSError):
        for name in os.listdir(layout.endpoints):
            if name.endswith(f".{launch_id}.json"):
                (layout.endpoints / name).unlink(missing_ok=True)
    launches.remove(layout, launch_id)


def _withdraw(layout: Layout, targets: Sequence[str], all_: bool, config: Config) -> list[str]:
    """Remove the declarations of the models that are named; returns those that had one."""
    declared = deployments.read_all(layout)
    named = {config.model_named(target) or target for target in targets}
    chosen = [model for model in declared if all_ or model in named]
    return [model for model in chosen if deployments.withdraw(layout, model)]


def _still_declared(layout: Layout, chosen: Sequence[launches.Launch]) -> list[str]:
    declared = deployments.read_all(layout)
    return sorted(
        {one.spec.model for one in chosen if one.spec.deployment is not None} & declared.keys()
    )


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
            or (one.submission is not None and _is_job(target, one.submission.job_id))
        ]
        if not hits:
            unknown.append(target)
        chosen.update({one.spec.launch_id: one for one in hits})
    return list(chosen.values()), unknown


def _is_job(target: str, job_id: str) -> bool:
    """The array's id stands for all of its tasks."""
    return target in (job_id, job_id.partition("_")[0])


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
