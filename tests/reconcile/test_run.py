"""The reconciler on real files and a fake Slurm: killed at each step, it never starts one need
twice and loses no job."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import yaml

from modeltainer import service
from modeltainer.config.load import load
from modeltainer.config.schema import Config
from modeltainer.reconcile.replica import Phase
from modeltainer.reconcile.run import BusyError, Reconciler, lease
from modeltainer.registry import deployments, launches, runs
from modeltainer.registry.days import day_of
from modeltainer.registry.deployments import Deployment, History
from modeltainer.registry.endpoints import EndpointWriter
from modeltainer.registry.layout import Layout, new_launch_id
from modeltainer.registry.records import Cause, Endpoint, RunRecord, State
from tests.hpc.recordings import VERSIONS, recorded

FAKE = Path(__file__).with_name("fake_slurm.py")


@dataclass
class Site:
    """A registry, a configuration and a fake Slurm."""

    root: Path
    now: float = 0.0
    said: list[str] = field(default_factory=list)

    @property
    def layout(self) -> Layout:
        return Layout(self.root / "registry")

    @property
    def config_file(self) -> Path:
        return self.root / "models.yaml"

    def config(self) -> Config:
        return load(self.config_file)

    def reconciler(self) -> Reconciler:
        return Reconciler(self.layout, self.config, say=self.said.append, clock=lambda: self.now)

    def jobs(self, state: str = "PENDING") -> list[str]:
        """Names of the jobs in a state."""
        found = [job.read_text().split() for job in (self.root / "slurm" / "jobs").iterdir()]
        return sorted(name for is_in, name in found if is_in == state)

    def declare(self, replicas: int) -> Deployment:
        wished = Deployment("m", "", minimum=replicas, maximum=replicas, created_unix=time.time())
        return deployments.declare(self.layout, wished)

    def killed_at(self, command: str, moment: str) -> None:
        """One look in a process that is killed when it calls this command."""
        code = (
            "import os, sys; from pathlib import Path;"
            "from modeltainer.config.load import load;"
            "from modeltainer.reconcile.run import Reconciler;"
            "from modeltainer.registry.layout import Layout;"
            "kill, registry, config = map(Path, sys.argv[1:4]);"
            "kill.write_text(f'{sys.argv[4]} {os.getpid()}');"
            "Reconciler(Layout(registry), lambda: load(config)).step()"
        )
        argv = [sys.executable, "-c", code, str(self.root / "slurm" / "kill")]
        argv += [str(self.layout.root), str(self.config_file), f"{command} {moment}"]
        done = subprocess.run(argv, timeout=60, check=False, capture_output=True, text=True)
        assert done.returncode == -9, done.stderr
        self.settle()

    def settle(self) -> None:
        """Let a command that outlived its caller finish."""
        time.sleep(0.3)

    def looks(self, count: int = 4, pause_s: float = 60.0) -> None:
        """A new reconciler, over some minutes."""
        reconciler = self.reconciler()
        for _ in range(count):
            reconciler.step()
            self.now += pause_s


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    slurm = tmp_path / "slurm"
    (slurm / "jobs").mkdir(parents=True)
    for command in ("sbatch", "squeue", "scancel", "scontrol", "sinfo", "srun"):
        (slurm / command).symlink_to(FAKE)
    for name in ("nodes", "partitions"):
        (slurm / f"{name}.txt").write_text(recorded(VERSIONS[-1], name))
    monkeypatch.setenv("PATH", f"{slurm}{os.pathsep}{os.environ['PATH']}")
    # On a busy machine the fake's interpreter may take seconds to start.
    monkeypatch.setattr("modeltainer.reconcile.run.SUBMITTING_S", 60.0)
    model = {
        "engine": "llamacpp",
        "source": "org/model",
        "runtime": "native",
        "resources": {"cpus": 1, "walltime": "20"},
    }
    made = Site(tmp_path)
    made.config_file.write_text(
        yaml.safe_dump({"site": {"registry": str(made.layout.root)}, "models": {"m": model}})
    )
    made.layout.create()
    return made


def whole(site: Site) -> bool:
    """Each job has its launch, and each launch its job."""
    found = launches.read_all(site.layout)
    return all(one.submission is not None for one in found) and (
        sorted(f"mt-{one.spec.launch_id}" for one in found) == site.jobs()
    )


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("command", ["scontrol", "sbatch", "squeue"])
def test_killed_while_it_submits(site: Site, command: str, moment: str) -> None:
    site.declare(2)
    if command == "squeue":  # which is asked when there is something to ask about
        site.reconciler().step()
    site.killed_at(command, moment)
    assert len(site.jobs()) <= 2
    site.looks()
    assert len(site.jobs()) == 2
    assert whole(site)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_while_it_cancels(site: Site, moment: str) -> None:
    site.declare(2)
    site.looks(1)
    assert deployments.withdraw(site.layout, "m")
    site.killed_at("scancel", moment)
    site.looks()
    assert site.jobs() == []
    assert len(site.jobs("CANCELLED")) == 2
    assert launches.read_all(site.layout) == []


def test_a_job_whose_submitter_died_is_found_by_its_name(site: Site) -> None:
    site.declare(1)
    site.killed_at("sbatch", "after")
    [name] = site.jobs()
    site.looks(1)
    assert site.jobs() == [name]
    assert whole(site)
    assert any("found again as job 100" in line for line in site.said)


def test_a_slurm_that_does_not_answer_changes_nothing(site: Site) -> None:
    site.declare(2)
    site.looks(1)
    (site.root / "slurm" / "squeue").unlink()
    broken = site.root / "slurm" / "squeue"
    broken.write_text("#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact' >&2; exit 1\n")
    broken.chmod(0o755)
    before = site.jobs()
    site.looks(5)
    assert site.jobs() == before
    assert len(launches.read_all(site.layout)) == 2


def test_an_old_launch_without_a_record_is_not_taken_for_lost_while_slurm_is_silent(
    site: Site,
) -> None:
    """Its submitter was killed between sbatch's answer and its record, and its job still waits."""
    site.declare(1)
    site.killed_at("sbatch", "after")
    [found] = launches.read_all(site.layout)
    spec = site.layout.spec(found.spec.launch_id)
    os.utime(spec, (time.time() - 7200, time.time() - 7200))
    squeue = site.root / "slurm" / "squeue"
    squeue.unlink()
    squeue.write_text("#!/bin/sh\necho 'Unable to contact' >&2; exit 1\n")
    squeue.chmod(0o755)
    before = site.jobs()
    site.looks(3)
    assert site.jobs() == before
    assert [one.spec.launch_id for one in launches.read_all(site.layout)] == [found.spec.launch_id]
    squeue.unlink()
    squeue.symlink_to(FAKE)
    site.looks(2)
    assert site.jobs() == before
    assert whole(site)


def test_when_a_launch_ended_is_what_its_agent_said_or_its_run_file(site: Site) -> None:
    """A reconciler that comes hours later charges nothing for them."""
    site.declare(1)
    site.looks(1)
    [found] = launches.read_all(site.layout)
    assert found.submission is not None
    now = time.time()
    endpoint = Endpoint(
        launch_id=found.spec.launch_id,
        model="m",
        replica=0,
        job_id=found.submission.job_id,
        owner="me",
        engine="llamacpp",
        runtime="native",
        state=State.ENDED,
        node="n1",
        started_unix=now - 10_000,
        ready_unix=now - 9_900,
        ended_unix=now - 9_000,
        cause=Cause("walltime", "the job's walltime was over"),
    )
    EndpointWriter(site.layout, endpoint).write()
    [seen] = site.reconciler().look().replicas
    assert seen.running_s == pytest.approx(1000, abs=5)
    assert seen.serving_s == pytest.approx(900, abs=5)
    assert seen.ended_s == pytest.approx(9000, abs=5)

    [job] = (site.root / "slurm" / "jobs").iterdir()
    job.write_text(job.read_text().replace("PENDING", "CANCELLED"))
    killed = replace(endpoint, state=State.READY, ended_unix=None, cause=None)
    EndpointWriter(site.layout, killed).write()
    run = RunRecord(
        job_id=endpoint.job_id,
        launch_id=endpoint.launch_id,
        model="m",
        owner="me",
        gpus=1,
        started_unix=now - 10_000,
        seen_unix=now - 8_000,
    )
    runs.write(site.layout, run)
    reconciler = site.reconciler()
    reconciler.look()
    site.now += 60
    [seen] = reconciler.look().replicas
    assert seen.phase is Phase.ENDED
    assert seen.running_s == pytest.approx(2000, abs=5)
    assert seen.serving_s == pytest.approx(1900, abs=5)


def test_a_bad_configuration_is_said_and_what_runs_is_left_alone(site: Site) -> None:
    site.declare(1)
    site.looks(1)
    good = site.config_file.read_text()
    site.config_file.write_text(good.replace("cpus: 1", "cpus: many"))
    site.declare(2)
    site.looks(2, pause_s=1.0)
    assert len(site.jobs()) == 1
    history = deployments.read_history(site.layout, "m")
    assert history.failures >= 1
    assert "cpus" in history.cause
    site.config_file.write_text(good)
    site.declare(2)
    site.looks(2)
    assert len(site.jobs()) == 2


def test_spare_replicas_go_to_their_partition_and_its_refusal_is_no_failure(site: Site) -> None:
    wished = Deployment("m", "", minimum=1, maximum=3, spare_partition="short")
    deployments.declare(site.layout, wished)
    deployments.write_history(site.layout, deployments.History("m", wanted=3))
    site.looks(2)
    placed = {
        (one.spec.spare, one.spec.placement.partition if one.spec.placement else None)
        for one in launches.read_all(site.layout)
    }
    assert placed == {(False, "main"), (True, "short")}
    assert len(site.jobs()) == 3
    # The same where the partition is gone: the safe one comes, and the others are tried rarely.
    gone = replace(wished, spare_partition="no-such")
    deployments.declare(site.layout, gone)
    said = len(site.said)
    site.looks(4, pause_s=2.0)
    refusals = [line for line in site.said[said:] if "could not be submitted" in line]
    assert len(refusals) == 1
    assert "no-such" in refusals[0]
    assert deployments.read_history(site.layout, "m").failures == 0
    safe = [one for one in launches.read_all(site.layout) if not one.spec.spare]
    assert len(safe) >= 1


def test_what_was_used_on_demand_counts_though_it_is_declared_no_more(site: Site) -> None:
    wished = Deployment("m", "", minimum=0, on_demand=True, shared_gpu_hours_per_day=2.0)
    deployments.declare(site.layout, wished)
    deployments.write_history(site.layout, History("m", wanted=1))
    gone = History("gone", on_demand_gpu_seconds={day_of(time.time()): 7200.0})
    deployments.write_history(site.layout, gone)
    site.looks(2)
    assert not site.jobs()
    assert "on demand" in deployments.read_history(site.layout, "m").note
    deployments.write_history(
        site.layout, replace(gone, on_demand_gpu_seconds={"2020-01-01": 7200})
    )
    site.looks(1)
    [launch] = launches.read_all(site.layout)
    assert launch.spec.on_demand
    assert [one.on_demand for one in site.reconciler().look().replicas] == [True]


def test_a_damaged_declaration_ends_nothing(site: Site) -> None:
    site.declare(1)
    site.looks(1)
    (site.layout.deployments / deployments.file_name("m")).write_text('{"model": "m", "rev')
    site.looks(3)
    assert len(site.jobs()) == 1


def test_stop_takes_the_declaration_back_first(site: Site) -> None:
    site.declare(2)
    site.looks(1)
    report = service.stop(["m"], config=site.config(), wait_s=5)
    assert report.withdrawn == ["m"]
    assert len(report.stopped) == 2
    site.looks(3)
    assert site.jobs() == []
    assert launches.read_all(site.layout) == []


def test_stop_ends_what_was_being_submitted_when_it_came(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.declare(1)
    site.looks(1)
    [first] = launches.read_all(site.layout)
    forget = service.forget

    def meanwhile(layout: Layout, launch_id: str) -> None:
        forget(layout, launch_id)
        if launch_id == first.spec.launch_id:
            spec = replace(first.spec, launch_id=new_launch_id("m", 1))
            launches.create(layout, spec, launches.new_secret())

    monkeypatch.setattr(service, "forget", meanwhile)
    report = service.stop(["m"], config=site.config(), wait_s=5)
    assert len(report.stopped) == 2
    assert launches.read_all(site.layout) == []


def test_a_job_that_vanishes_is_replaced(site: Site) -> None:
    site.declare(1)
    site.looks(1)
    [job] = (site.root / "slurm" / "jobs").iterdir()
    job.write_text(job.read_text().replace("PENDING", "CANCELLED"))
    site.looks(2)
    assert len(site.jobs()) == 1
    assert deployments.read_history(site.layout, "m").failures == 1


def test_one_reconciler_at_a_time(site: Site) -> None:
    code = (
        "import sys, time; from pathlib import Path;"
        "from modeltainer.reconcile.run import lease;"
        "from modeltainer.registry.layout import Layout\n"
        "with lease(Layout(Path(sys.argv[1]))): print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(site.layout.root)], stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    try:
        with pytest.raises(BusyError, match=str(other.pid)), lease(site.layout, wait=False):
            pass
    finally:
        other.kill()
        other.communicate()
    with lease(site.layout, wait=False) as ours:  # it died on this machine: no waiting
        assert ours()
    assert deployments.reconciler(site.layout) is None
