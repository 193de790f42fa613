"""How long one look of the reconciler takes with many replicas, how long their places take to find
on a large cluster, and how often Slurm is asked.

``python -m modeltainer.bench.reconcile_step [--models N] [--replicas N]`` makes a registry with
that many launches that serve, a Slurm of which only ``squeue`` is there and simulated, and prints
one JSON object: the seconds of each look, and the queries to Slurm in a minute of looks. The clock
of the scheduler's cache is simulated; the files are real. Before them comes the first look of all:
what to submit, and where, on a simulated cluster of a thousand nodes.
"""

from __future__ import annotations

import argparse
import json
import stat
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from modeltainer.config.schema import Config
from modeltainer.hpc.placement import Places
from modeltainer.hpc.snapshot import Snapshot, parse_nodes, parse_partitions
from modeltainer.reconcile.decide import Submit, decide
from modeltainer.reconcile.run import STEP_S, Reconciler
from modeltainer.registry import deployments, launches
from modeltainer.registry.deployments import Deployment
from modeltainer.registry.endpoints import EndpointWriter
from modeltainer.registry.layout import Layout, new_launch_id
from modeltainer.registry.records import Clocks, Endpoint, State, Submission
from modeltainer.scheduler import Scheduler
from modeltainer.spec import LaunchSpec, Placement, Resources, Site, Source

WALLTIME_S = 24 * 3600


def populate(layout: Layout, models: int, replicas: int) -> list[str]:
    """Declare, and write what the agents would have written; returns squeue's lines."""
    lines = []
    now = time.time()
    for number in range(models):
        name = f"model-{number}"
        wished = Deployment(name, "", minimum=replicas, maximum=replicas, created_unix=now)
        revision = deployments.declare(layout, wished).revision
        for replica in range(replicas):
            job_id = str(1000 + number * replicas + replica)
            spec = LaunchSpec(
                launch_id=new_launch_id(name, replica),
                model=name,
                replica=replica,
                engine="vllm",
                runtime="apptainer",
                source=Source("hub", f"org/{name}"),
                resources=Resources(gpus=1),
                site=Site(registry=str(layout.root), cache=str(layout.root)),
                placement=Placement("gpu", "gpu:a100:1", WALLTIME_S),
                deployment=revision,
            )
            launches.create(layout, spec, launches.new_secret())
            submission = Submission(
                spec.launch_id, name, replica, "slurm", job_id, now, "gpu", "gpu:a100:1"
            )
            launches.record_submission(layout, submission)
            endpoint = Endpoint(
                launch_id=spec.launch_id,
                model=name,
                replica=replica,
                job_id=job_id,
                owner="me",
                engine="vllm",
                runtime="apptainer",
                state=State.READY,
                node=f"n{replica}",
                host=f"n{replica}",
                port=20000,
                started_unix=now,
                ready_unix=now,
                ends_unix=now + WALLTIME_S,
                clocks=Clocks(loading_s=60.0),
            )
            EndpointWriter(layout, replace(endpoint, period_s=3600.0)).write()
            fields = [job_id, job_id, "RUNNING", "None", f"n{replica}", "N/A"]
            fields += [str(int(now + WALLTIME_S)), str(int(now)), "gpu", f"mt-{spec.launch_id}"]
            lines.append("\x1f".join(fields))
    return lines


def fake_squeue(folder: Path, lines: list[str]) -> Path:
    """A folder for PATH with a squeue that answers these lines and counts its calls."""
    (folder / "answer").write_text("\n".join(lines) + "\n")
    for name in ("squeue", "sbatch"):
        script = folder / name
        script.write_text(f"#!/bin/sh\necho {name} >> {folder}/calls\ncat {folder}/answer\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    (folder / "calls").touch()
    return folder


def no_config() -> Config:
    """Nothing is to be submitted: all that is declared is there."""
    raise AssertionError("the reconciler wanted to submit")


def nodes_and_partitions(nodes: int) -> Snapshot:
    """A large cluster, from the lines in which scontrol would show it."""
    kinds = ("a100", "h100", "l40s", "a100_3g.40gb")
    lines = [
        f"NodeName=n{number} CPUTot=64 CPUEfctv=64 CPUAlloc=0 RealMemory=512000 AllocMem=0 "
        f"Gres=gpu:{kinds[number % 4]}:4 GresUsed=gpu:{kinds[number % 4]}:0(IDX:N/A) State=IDLE "
        f"Partitions=gpu"
        for number in range(nodes)
    ]
    partition = (
        "PartitionName=gpu AllowAccounts=ALL AllowQos=ALL Default=YES MaxTime=UNLIMITED "
        f"Nodes=n[0-{nodes - 1}] State=UP"
    )
    return Snapshot(parse_nodes("\n".join(lines)), parse_partitions(partition), (24, 11))


def first_look(models: int, replicas: int, nodes: int = 1000) -> dict[str, float]:
    """Seconds to decide that all of them are to be submitted, and to find the place of each."""
    declared = {
        f"model-{number}": Deployment(f"model-{number}", "a", replicas, replicas)
        for number in range(models)
    }
    began = time.perf_counter()
    plan = decide(declared, [], {}, now_unix=time.time())
    decided = time.perf_counter()
    wanted = [one for one in plan.actions if isinstance(one, Submit)]
    assert len(wanted) == models * replicas
    places = Places(nodes_and_partitions(nodes))
    asked = time.perf_counter()
    for one in wanted:
        kind = 16 + 4 * (int(one.model.partition("-")[2]) % 10)  # ten kinds of models
        assert places.find(Resources(gpus=1, gpu_memory_mib=kind * 1024)).gres is not None
    return {
        "decide_s": round(decided - began, 3),
        "place_s": round(time.perf_counter() - asked, 3),
    }


def measure(models: int, replicas: int) -> dict[str, object]:
    """Looks over a simulated minute."""
    import os

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        layout = Layout(root / "registry")
        layout.create()
        lines = populate(layout, models, replicas)
        (root / "bin").mkdir()
        bin_folder = fake_squeue(root / "bin", lines)
        os.environ["PATH"] = f"{bin_folder}:{os.environ['PATH']}"
        now = 0.0
        scheduler = Scheduler(min_interval_s=5.0, max_interval_s=30.0, clock=lambda: now)
        reconciler = Reconciler(layout, no_config, scheduler=scheduler)
        seconds = []
        while now < 60.0:
            began = time.perf_counter()
            plan = reconciler.step()
            seconds.append(time.perf_counter() - began)
            assert not plan.actions
            now += STEP_S
        calls = (bin_folder / "calls").read_text().split()
    return {
        "models": models,
        "replicas": models * replicas,
        "first_look_s": round(seconds[0], 3),
        "median_look_s": round(statistics.median(seconds), 3),
        "slowest_look_s": round(max(seconds), 3),
        "slurm_queries_per_minute": len(calls),
    }


def main(argv: list[str] | None = None) -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=50)
    parser.add_argument("--replicas", type=int, default=4, help="of each model")
    options = parser.parse_args(argv)
    first = first_look(options.models, options.replicas)
    print(json.dumps({**first, **measure(options.models, options.replicas)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
