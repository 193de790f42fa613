"""A cluster that is only simulated: jobs that queue, load, serve, end, fail, fall silent."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from modeltainer.reconcile.decide import Cancel, Drain, Forget, Plan, Submit, decide
from modeltainer.reconcile.replica import Phase, Replica
from modeltainer.reconcile.scale import Load, Pressure
from modeltainer.registry.deployments import Deployment, History
from modeltainer.registry.records import Cause

ALIVE = {Phase.QUEUED, Phase.STARTING, Phase.READY, Phase.SILENT, Phase.LEAVING}
EPOCH = 1_800_000_000.0


@dataclass
class Job:
    """One launch, with the job behind it."""

    replica: Replica
    age_s: float = 0.0
    """Since it was submitted."""
    lost: bool = False
    """Submitted, but the submitter died before it could note it."""


@dataclass
class Simulation:
    """Time passes in :meth:`tick`; :meth:`look` is the reconciler."""

    deployments: dict[str, Deployment]
    queue_s: float = 5.0
    load_s: float = 20.0
    drain_s: float = 10.0
    walltime_s: float | None = None
    """Useful seconds of a job."""
    broken: bool = False
    """Every start fails."""
    gpus: int = 0
    now: float = 0.0
    jobs: list[Job] = field(default_factory=list)
    histories: dict[str, History] = field(default_factory=dict)
    pressures: dict[str, Pressure] = field(default_factory=dict)
    loads: dict[str, Load] = field(default_factory=dict)
    submitted: int = 0

    def plan(self) -> Plan:
        """What a look comes to; nothing is done."""
        return decide(
            self.deployments,
            [job.replica for job in self.jobs],
            self.histories,
            now_unix=EPOCH + self.now,
            now=self.now,
            loads=self.loads,
            pressures=self.pressures,
        )

    def look(self, die_after: int | None = None) -> Plan:
        """One look of a reconciler, which dies after so many steps of its acting (None: lives);
        a submission is two steps: the folder, and the note of its job."""
        plan = self.plan()
        self.histories.update(plan.histories)
        self.pressures = dict(plan.pressures)
        left = 10_000 if die_after is None else die_after
        for action in plan.actions:
            if left <= 0:
                return plan
            left -= 1
            if isinstance(action, Submit):
                self._submit(action, note=left > 0)
                left -= 1
            else:
                self._act(action)
        return plan

    def _submit(self, action: Submit, *, note: bool) -> None:
        deployment = self.deployments[action.model]
        self.submitted += 1
        self.jobs.append(
            Job(
                Replica(
                    launch_id=f"{action.model}-r{action.number}-{self.submitted:06}",
                    model=action.model,
                    revision=deployment.revision,
                    number=action.number,
                    phase=Phase.QUEUED if note else Phase.UNSUBMITTED,
                    lifetime_s=self.walltime_s,
                    gpus=self.gpus,
                    spare=action.spare,
                    on_demand=deployment.on_demand,
                    submitted_unix=EPOCH + self.now,
                ),
                lost=not note and self.submitted % 2 == 0,
            )
        )

    def _act(self, action: Drain | Cancel | Forget) -> None:
        [job] = [one for one in self.jobs if one.replica.launch_id == action.launch_id]
        if isinstance(action, Forget):
            assert job.replica.phase in (Phase.ENDED, Phase.UNSUBMITTED)
            assert not job.lost, "a job was left without its launch"
            self.jobs.remove(job)
        elif isinstance(action, Drain):
            assert job.replica.phase is Phase.READY
            job.replica = replace(job.replica, phase=Phase.LEAVING, asked=True, useful_s=None)
            job.age_s = -self.drain_s
        else:
            assert job.replica.phase in (Phase.QUEUED, Phase.STARTING, Phase.SILENT)
            job.replica = replace(job.replica, asked=True)
            self.end(job, Cause("stopped", "it was asked to stop"))

    @staticmethod
    def end(job: Job, cause: Cause) -> None:
        """The job is over."""
        job.replica = replace(job.replica, phase=Phase.ENDED, cause=cause, useful_s=None)

    def tick(self, seconds: float) -> None:
        """Time passes; jobs go on by themselves."""
        self.now += seconds
        for job in self.jobs:
            job.age_s += seconds
            self._age(job, seconds)

    def _age(self, job: Job, seconds: float) -> None:
        one = job.replica
        if one.phase is Phase.UNSUBMITTED:
            if job.lost:  # the next look finds it by its name
                job.lost, job.replica = False, replace(one, phase=Phase.QUEUED)
                return
            job.replica = replace(one, unsubmitted_s=one.unsubmitted_s + seconds)
        elif one.phase is Phase.SILENT:
            job.replica = replace(one, silent_s=one.silent_s + seconds)
        elif one.phase is Phase.LEAVING:
            if job.age_s >= 0:
                self.end(job, Cause("drained", "it was asked to drain"))
        elif one.phase is Phase.QUEUED and job.age_s >= self.queue_s:
            job.replica = replace(one, phase=Phase.STARTING, queue_s=self.queue_s)
        elif one.phase is Phase.STARTING:
            job.replica = replace(one, running_s=one.running_s + seconds)
            if job.age_s >= self.queue_s + self.load_s:
                self._loaded(job)
        elif one.phase is Phase.READY:
            self._serve(job, seconds)

    def _loaded(self, job: Job) -> None:
        if self.broken:
            self.end(job, Cause("out-of-memory", "the GPU has too little memory"))
            return
        left = None if self.walltime_s is None else self.walltime_s - self.load_s
        job.replica = replace(job.replica, phase=Phase.READY, load_s=self.load_s, useful_s=left)

    def _serve(self, job: Job, seconds: float) -> None:
        one = job.replica
        left = None if one.useful_s is None else one.useful_s - seconds
        job.replica = replace(
            one,
            serving_s=one.serving_s + seconds,
            running_s=one.running_s + seconds,
            useful_s=left,
        )
        if left is not None and left <= 0:
            self.end(job, Cause("walltime", "the job's walltime was over"))

    def count(self, *phases: Phase) -> int:
        """Launches in one of these phases."""
        return sum(job.replica.phase in phases for job in self.jobs)

    @property
    def with_job(self) -> int:
        """Launches that have a job, noted or not, and have not been asked to end."""
        return sum(job.lost or job.replica.phase in ALIVE - {Phase.LEAVING} for job in self.jobs)
