"""The reconciler at work: looks at the registry and the queue, decides, and acts.

One at a time per registry (:func:`lease`). Whatever it does is found again by the next look: a
launch's folder is written before its job is submitted, the job carries the launch's name, and
everything else may be done twice.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from modeltainer import service
from modeltainer.apptainer.lock import shared_lock
from modeltainer.companion import LEASE_RENEW_S, LEASE_STALE_S
from modeltainer.reconcile.decide import Cancel, Drain, Forget, Plan, Submit, decide
from modeltainer.reconcile.demand import DemandReader
from modeltainer.reconcile.learn import failed
from modeltainer.reconcile.queue_estimates import QueueEstimates
from modeltainer.reconcile.replica import Phase, Replica
from modeltainer.reconcile.scale import Pressure
from modeltainer.registry import deployments, launches, leftovers, runs
from modeltainer.registry.deployments import RECONCILER_LOCK, Deployment, History
from modeltainer.registry.endpoints import EndpointReader, Sighting
from modeltainer.registry.layout import Layout
from modeltainer.registry.records import Cause, Endpoint, State, Submission
from modeltainer.scheduler import Scheduler, start_ticks
from modeltainer.spec import LaunchSpec
from modeltainer.view import JobSight, Row, merge

if TYPE_CHECKING:
    from modeltainer.config.schema import Config
    from modeltainer.hpc.queue import JobStatus

STEP_S = 2.0
"""Between two looks at the registry; the scheduler is asked far less often."""
WALLTIME_RESERVE_S = 15.0
"""Beside its drain time, what an agent keeps free before its walltime (jobs/agent.py)."""
TIDY_EVERY_S = 10.0
"""Between two looks for what killed processes have left."""
OLD_S = 3600.0
SPARE_AGAIN_S = 300.0
"""After a spare replica could not be submitted. It is no failure of the model's: the troubles of
its partition must not hold up the safe ones."""
SUBMITTING_S = 5.0
"""So long one look may go on submitting; sbatch takes from 20 ms to seconds."""
NAMES_EVERY_S = 10.0
"""Between two questions for jobs by their names."""
MUTE_S = 300.0
"""Prologs and imports from a slow file system take long; longer than this, nobody is there."""


class BusyError(RuntimeError):
    """Another reconciler works on this registry; the message names it."""


@contextlib.contextmanager
def lease(
    layout: Layout,
    *,
    cancelled: Callable[[], bool] = lambda: False,
    on_wait: Callable[[str], None] = lambda holder: None,
    wait: bool = True,
) -> Iterator[Callable[[], bool]]:
    """Be the one reconciler of this registry; gives a function that says whether we still are.

    Args:
        wait: False gives up as soon as the other one is seen to be alive.

    Raises:
        BusyError: ``wait`` is False, and there is another; or ``cancelled``.
        OSError: the registry cannot be written.
    """
    layout.create()
    path = layout.reconcile / RECONCILER_LOCK
    first = _content(path)

    def give_up() -> bool:
        return cancelled() or (not wait and _content(path) not in ("", first))

    with contextlib.ExitStack() as held:
        try:
            ours = held.enter_context(
                shared_lock(
                    path,
                    on_wait=on_wait,
                    cancelled=give_up,
                    renew_s=LEASE_RENEW_S,
                    stale_s=LEASE_STALE_S,
                )
            )
        except KeyboardInterrupt:
            if not give_up():
                raise
            other = deployments.reconciler(layout) or "another process"
            raise BusyError(f"this registry is reconciled by {other}") from None
        yield ours


def _content(path: Path) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text()
    return ""


@dataclass(frozen=True)
class View:
    """One look, before anything is decided."""

    declared: dict[str, Deployment]
    replicas: list[Replica]
    submissions: dict[str, Submission]
    specs: dict[str, LaunchSpec]
    silent_nodes: tuple[str, ...] = ()
    """Where an agent's lease stands still, though Slurm calls its job running."""


class Reconciler:
    """Keeps between its looks only what can be found again."""

    def __init__(
        self,
        layout: Layout,
        load_config: Callable[[], Config],
        *,
        ours: Callable[[], bool] = lambda: True,
        say: Callable[[str], None] = lambda line: None,
        scheduler: Scheduler | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            load_config: reads models.yaml; called when something is to be submitted.
            ours: whether the lease still is; asked before each submission.
            say: told what is done, a line at a time.
        """
        self._layout, self._load_config, self._ours, self._say = layout, load_config, ours, say
        self._clock = clock
        self._endpoints = EndpointReader(layout, clock=clock)
        self._leftovers = leftovers.Leftovers(layout, clock)
        self._tidy_at = self._names_at = float("-inf")
        self._names_known = False
        """Whether Slurm answered when it was last asked for jobs by their names."""
        self._scheduler = scheduler or Scheduler(5.0, 30.0, clock)
        self._launches = launches.LaunchReader(layout)
        self._demand = DemandReader(layout, clock)
        self._queue = QueueEstimates(clock=clock)
        self._pressures: Mapping[str, Pressure] = {}
        self._no_spare_until: dict[str, float] = {}
        """By model (monotonic)."""
        self._first_seen: dict[str, float] = {}
        """When a launch without a job, or a silent one, was first seen so (monotonic)."""

    def step(self) -> Plan:
        """Look, decide and act once.

        Raises:
            OSError: the registry cannot be read; nothing was done.
        """
        self._tidy()
        view = self.look()
        if not view.declared and not view.replicas:
            return Plan()
        demands = self._demand.read()
        replicas = [
            replace(one, in_flight=demands.in_flight(one.launch_id)) for one in view.replicas
        ]
        models = sorted({*view.declared, *(one.model for one in replicas)})
        histories = {model: deployments.read_history(self._layout, model) for model in models}
        if any(one.shared_gpu_hours_per_day is not None for one in view.declared.values()):
            # What models that are declared no more have used today counts in the total.
            histories = {**deployments.read_histories(self._layout), **histories}
        plan = decide(
            view.declared,
            replicas,
            histories,
            now_unix=time.time(),
            now=self._clock(),
            loads=demands.loads(view.declared),
            pressures=self._pressures,
            queue_estimates=self._queue.look(replicas, view.specs),
            no_spares={model for model, at in self._no_spare_until.items() if self._clock() < at},
        )
        self._pressures = plan.pressures
        # What was learned of an ended launch is kept before the launch is forgotten.
        for model, history in plan.histories.items():
            if history != histories[model]:
                deployments.write_history(self._layout, history)
        self._act(plan, view)
        return plan

    def _tidy(self) -> None:
        """Remove what killed processes have left, now and then."""
        now = self._clock()
        if now < self._tidy_at:
            return
        self._tidy_at = now + TIDY_EVERY_S
        for path in self._leftovers.look(self._endpoints.poll()):
            leftovers.remove(path)
            self._say(f"removed what was left of {path.name}")

    # -- looking --

    def look(self) -> View:
        """What is declared and what is there.

        Raises:
            OSError: the registry cannot be read.
        """
        declared = deployments.read_all(self._layout)
        found = [one for one in self._launches.read_all() if one.spec.deployment is not None]
        unreadable = {
            one.spec.model
            for one in found
            if one.spec.model not in declared
            and (self._layout.deployments / deployments.file_name(one.spec.model)).exists()
        }
        # A declaration that cannot be read now must not end what it declares.
        found = [one for one in found if one.spec.model not in unreadable]
        if not found:
            return View(declared, [], {}, {})
        seen = {one.endpoint.launch_id: one for one in self._endpoints.poll()}
        found = self._adopt(found, seen)
        submissions = {
            one.spec.launch_id: one.submission for one in found if one.submission is not None
        }
        sights = self._scheduler.look(
            list(submissions.values()),
            settled=frozenset(
                one.submission.job_id
                for one in found
                if one.submission is not None and one.spec.launch_id in seen
            ),
        )
        now = self._clock()
        replicas = [self._replica(one, seen.get(one.spec.launch_id), sights, now) for one in found]
        known = {one.spec.launch_id for one in found}
        self._first_seen = {name: at for name, at in self._first_seen.items() if name in known}
        silent = {one.launch_id for one in replicas if one.phase is Phase.SILENT}
        nodes = {seen[name].endpoint.node for name in silent if name in seen}
        specs = {one.spec.launch_id: one.spec for one in found}
        return View(declared, replicas, submissions, specs, tuple(sorted(nodes)))

    def _adopt(
        self, found: list[launches.Launch], seen: Mapping[str, Sighting]
    ) -> list[launches.Launch]:
        """Launches whose submitter was cut off after the scheduler had taken the job."""
        lost = [one for one in found if one.submission is None]
        if not lost:
            return found
        if self._clock() < self._names_at:
            return found
        executor = self._executor()
        jobs = {} if executor == "local" else _jobs_by_name()
        self._names_at = self._clock() + NAMES_EVERY_S
        self._names_known = jobs is not None
        if jobs is None:  # not asked, not missing
            for one in lost:
                self._first_seen.pop(one.spec.launch_id, None)
        adopted: dict[str, Submission] = {}
        for one in lost:
            sighting = seen.get(one.spec.launch_id)
            endpoint = sighting.endpoint if sighting else None
            submission = _submission(one.spec, jobs, endpoint, executor)
            if submission is not None:
                launches.record_submission(self._layout, submission)
                adopted[one.spec.launch_id] = submission
                self._say(f"{one.spec.launch_id}: found again as job {submission.job_id}")
        return [
            replace(one, submission=adopted.get(one.spec.launch_id, one.submission))
            for one in found
        ]

    def _executor(self) -> Literal["slurm", "local"]:
        from modeltainer.config.problems import ConfigError
        from modeltainer.hpc.cluster import detect

        try:
            return service.executor_of(self._load_config())
        except (ConfigError, OSError):
            return detect()

    def _replica(
        self,
        one: launches.Launch,
        sighting: Sighting | None,
        sights: Mapping[str, JobSight],
        now: float,
    ) -> Replica:
        spec, submission = one.spec, one.submission
        endpoint = sighting.endpoint if sighting else None
        sight = sights.get(submission.job_id, JobSight("unknown")) if submission else None
        row = merge(one, endpoint, sight or JobSight("unknown"))
        asked = launches.drain_reason(self._layout.launch(spec.launch_id)) is not None
        silent = sighting is not None and not sighting.alive
        phase = _phase(row, submitted=submission is not None, silent=silent, asked=asked)
        since = now
        if phase is Phase.STARTING and sighting is None:
            # Its job runs, but its agent never spoke: the node may hang.
            mute_s = now - self._first_seen.setdefault(spec.launch_id, now)
            if mute_s < MUTE_S:
                return _replica(one, row, None, phase, asked=asked)
            phase = Phase.SILENT
        if phase in (Phase.UNSUBMITTED, Phase.SILENT):
            since = self._first_seen.setdefault(spec.launch_id, now)
        else:
            self._first_seen.pop(spec.launch_id, None)
        if phase is Phase.UNSUBMITTED and self._names_known and self._is_old(spec.launch_id):
            since = float("-inf")
        ended_s = 0.0
        if phase is Phase.ENDED and endpoint is not None:
            ended_s = self._ended_s(endpoint)
        return _replica(
            one,
            row,
            endpoint,
            phase,
            asked=asked,
            phase_s=now - since,
            confirmed=sighting is None or sighting.confirmed,
            ended_s=ended_s,
        )

    def _ended_s(self, endpoint: Endpoint) -> float:
        """How long ago a launch has ended; of an agent that was killed outright, about so long."""
        now = time.time()
        ended = endpoint.ended_unix or runs.last_seen_unix(
            self._layout, endpoint.job_id, endpoint.launch_id
        )
        if ended is None:
            ended = min(now, endpoint.ends_unix or now)
        return max(0.0, now - ended)

    def _is_old(self, launch_id: str) -> bool:
        """For reconcilers that look once: by far older than any difference between clocks."""
        try:
            return time.time() - self._layout.spec(launch_id).stat().st_mtime > OLD_S
        except OSError:
            return False

    # -- acting --

    def _act(self, plan: Plan, view: View) -> None:
        from modeltainer.hpc.cancel import nudge

        cancelled = [one for one in plan.actions if isinstance(one, Cancel)]
        drained = [one for one in plan.actions if isinstance(one, Drain)]
        for one in drained:
            self._ask(one.launch_id, one.reason)
        nudge([view.submissions[one.launch_id] for one in drained])
        self._cancel(cancelled, view)
        for action in plan.actions:
            if isinstance(action, Forget):
                service.forget(self._layout, action.launch_id)
                self._launches.drop(action.launch_id)
        wanted = [one for one in plan.actions if isinstance(one, Submit)]
        if wanted:
            self._submit(wanted, plan.histories, view.silent_nodes)

    def _ask(self, launch_id: str, reason: str) -> None:
        with contextlib.suppress(OSError):
            launches.request_drain(self._layout, launch_id, reason)
            self._say(f"{launch_id}: drain: {reason}")

    def _cancel(self, actions: Sequence[Cancel], view: View) -> None:
        from modeltainer.hpc.cancel import cancel
        from modeltainer.hpc.commands import SlurmError

        known = [one for one in actions if one.launch_id in view.submissions]
        if not known:
            return
        try:
            cancel([view.submissions[one.launch_id] for one in known])
        except SlurmError as error:
            self._say(f"could not cancel now: {error}")
            return
        for one in known:  # noted last: what was not cancelled is cancelled at the next look
            self._ask(one.launch_id, one.reason)

    def _submit(
        self,
        wanted: Sequence[Submit],
        histories: Mapping[str, History],
        silent_nodes: Sequence[str],
    ) -> None:
        planner: service.Planner | None = None
        hopeless: set[str] = set()
        began = time.monotonic()
        for one in wanted:
            if time.monotonic() - began > SUBMITTING_S:
                return  # the rest at the next look: other replicas must not wait for all of them
            if one.model in hopeless:
                continue
            try:
                # Asked as late as can be: mt-submit stop may have come in between.
                deployment = deployments.read(self._layout, one.model)
                if not self._ours():
                    return
                if deployment is None:
                    continue
                config = self._load_config()
                planner = planner or service.Planner(config)
                spec = _spec(planner, config, deployment, one)
                _submit_elsewhere(spec, config, silent_nodes)
                self._say(f"{spec.launch_id}: submitted: {one.reason}")
            except (service.LaunchError, ValueError, OSError) as error:
                # ValueError: ConfigError and CannotLaunchError.
                hopeless.add(one.model)
                cause = Cause(getattr(error, "code", "cannot-launch"), str(error))
                self._say(f"{one.model}: could not be submitted: {cause.message}")
                if one.spare:
                    self._no_spare_until[one.model] = self._clock() + SPARE_AGAIN_S
                    continue
                history = failed(histories[one.model], cause, time.time())
                with contextlib.suppress(OSError):
                    deployments.write_history(self._layout, history)


def _spec(
    planner: service.Planner, config: Config, deployment: Deployment, wanted: Submit
) -> LaunchSpec:
    from modeltainer.config.resolve import Overrides

    model = service.known_model(deployment.model, config)
    overrides = Overrides(**deployment.overrides)
    if wanted.spare:
        overrides = replace(overrides, partition=deployment.spare_partition)
    spec = planner.spec(model, wanted.number, overrides)
    return replace(
        spec,
        deployment=deployment.revision,
        spare=wanted.spare,
        on_demand=deployment.on_demand,
    )


def _submit_elsewhere(spec: LaunchSpec, config: Config, nodes: Sequence[str]) -> None:
    """Submit; not to these nodes, if Slurm can do without them."""
    if nodes and spec.resources.nodelist is None:
        resources = replace(spec.resources, exclude=",".join(nodes))
        with contextlib.suppress(service.LaunchError):
            service.submit_unseen([replace(spec, resources=resources)], config=config)
            return
    service.submit_unseen([spec], config=config)


def _jobs_by_name() -> dict[str, JobStatus] | None:
    from modeltainer.hpc.commands import SlurmError
    from modeltainer.hpc.queue import poll_jobs

    try:
        return {job.name: job for job in poll_jobs().values()}
    except SlurmError:
        return None


def _submission(
    spec: LaunchSpec,
    jobs: Mapping[str, JobStatus] | None,
    endpoint: Endpoint | None,
    executor: Literal["slurm", "local"],
) -> Submission | None:
    """The job behind a launch without one, by the job's name or by its agent's word."""
    from modeltainer.hpc.options import job_name

    job = (jobs or {}).get(job_name(spec.launch_id))
    ticks = None
    if job is not None:
        job_id, submitted = job.job_id, job.submit_unix or time.time()
    elif endpoint is not None:
        job_id, submitted = endpoint.job_id, endpoint.started_unix
        if executor == "local" and job_id.isdigit():
            ticks = start_ticks(int(job_id))
    else:
        return None
    return Submission(
        launch_id=spec.launch_id,
        model=spec.model,
        replica=spec.replica,
        executor=executor,
        job_id=job_id,
        submitted_unix=submitted,
        partition=spec.placement.partition if spec.placement else None,
        gres=spec.gres,
        local_start_ticks=ticks,
    )


_STARTING = frozenset({State.STARTING, State.PULLING, State.LOADING})


def _phase(row: Row, *, submitted: bool, silent: bool, asked: bool) -> Phase:
    if row.state is State.ENDED:
        return Phase.ENDED
    if not submitted:
        return Phase.UNSUBMITTED
    if asked or row.state is State.DRAINING:
        return Phase.LEAVING
    if silent:
        return Phase.SILENT
    if row.state is State.READY:
        return Phase.READY
    return Phase.STARTING if row.state in _STARTING else Phase.QUEUED


def reserved_s(spec: LaunchSpec) -> float:
    """Of a launch's walltime, what its agent keeps for the end."""
    return spec.drain_s + WALLTIME_RESERVE_S


def _replica(
    one: launches.Launch,
    row: Row,
    endpoint: Endpoint | None,
    phase: Phase,
    *,
    asked: bool,
    phase_s: float = 0.0,
    confirmed: bool = True,
    ended_s: float = 0.0,
) -> Replica:
    spec = one.spec
    reserve_s = reserved_s(spec)
    left = row.time_left_s
    walltime_s: float | None = spec.placement.walltime_s if spec.placement else None
    if endpoint is not None and endpoint.ends_unix is not None:
        walltime_s = endpoint.ends_unix - endpoint.started_unix  # Slurm may have shortened it
    load_s = None
    if row.loading_s is not None and endpoint is not None and endpoint.ready_unix is not None:
        load_s = max(row.loading_s, endpoint.ready_unix - endpoint.started_unix)
    started = endpoint.started_unix if endpoint is not None else None
    now = time.time()
    serving_s = row.serving_s or 0.0
    if endpoint is not None and endpoint.ended_unix is None:
        serving_s = max(0.0, serving_s - ended_s)  # the row's goes on until now
    return Replica(
        launch_id=spec.launch_id,
        model=spec.model,
        revision=spec.deployment or "",
        number=spec.replica,
        phase=phase,
        useful_s=None if left is None else left - reserve_s,
        lifetime_s=None if walltime_s is None else max(1.0, walltime_s - reserve_s),
        queue_s=row.queue_s,
        load_s=load_s,
        start=endpoint.clocks if endpoint is not None else None,
        serving_s=serving_s,
        running_s=max(0.0, now - ended_s - started) if started is not None else 0.0,
        ended_s=ended_s,
        unsubmitted_s=phase_s if phase is Phase.UNSUBMITTED else 0.0,
        silent_s=phase_s if phase is Phase.SILENT else 0.0,
        confirmed=confirmed,
        gpus=spec.gpu_count,
        spare=spec.spare,
        on_demand=spec.on_demand,
        submitted_unix=one.submission.submitted_unix if one.submission else 0.0,
        cause=row.cause,
        asked=asked,
    )


def reconcile(
    layout: Layout,
    load_config: Callable[[], Config],
    *,
    over: threading.Event,
    say: Callable[[str], None],
) -> None:
    """Be the reconciler, as soon as no other one is, until ``over``.

    Raises:
        BusyError: it was over before the other one had gone.
        OSError: the registry cannot be written.
    """

    def waits(holder: str) -> None:
        say(f"waiting: {holder} reconciles this registry")

    while not over.is_set():
        with lease(layout, cancelled=over.is_set, on_wait=waits) as ours:
            say("reconciling")
            keep_looking(Reconciler(layout, load_config, ours=ours, say=say), ours, over, say)


def keep_looking(
    reconciler: Reconciler,
    ours: Callable[[], bool],
    over: threading.Event,
    say: Callable[[str], None],
) -> None:
    """Look again and again, until it is over or the lease is another's."""
    while ours() and not over.is_set():
        try:
            reconciler.step()
        except Exception as error:  # one bad look must not end the service
            say(f"this look failed: {type(error).__name__}: {error}")
        over.wait(STEP_S)
