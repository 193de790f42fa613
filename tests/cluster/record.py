"""Record what Slurm's commands really print, for the parsers' tests."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.cluster import Cluster, ClusterError

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "slurm"
SQUEUE_FORMAT = "%i|%A|%F|%K|%j|%u|%T|%r|%P|%N|%B|%D|%C|%m|%b|%M|%L|%l|%S|%V|%Z"
SQUEUE_FIELDS = (
    "JobID,JobArrayID,ArrayTaskID,Name,UserName,State,ReasonList,Partition,NodeList,"
    "SubmitTime,StartTime,TimeLeft,tres-alloc,tres-per-node,Comment,Requeue,RestartCnt"
)
COMMANDS: dict[str, list[str]] = {
    "sinfo_version.txt": ["sinfo", "--version"],
    "sinfo_nodes.txt": [
        *("sinfo", "-h", "-N", "-a", "-o"),
        "%N|%P|%t|%T|%c|%C|%m|%e|%G|%l|%L|%f|%E|%D",
    ],
    "sinfo_long.txt": ["sinfo", "-a", "-O", "NodeList:100,Gres:100,GresUsed:100,StateLong:30"],
    "scontrol_nodes.txt": ["scontrol", "show", "node", "-o"],
    "scontrol_nodes_detail.txt": ["scontrol", "-d", "show", "node", "-o"],
    "scontrol_partitions.txt": ["scontrol", "show", "partition", "-a", "-o"],
    "scontrol_jobs.txt": ["scontrol", "show", "job", "-o"],
    "scontrol_config.txt": ["scontrol", "show", "config"],
    "squeue_format.txt": ["squeue", "-h", "-a", "-r", "-o", SQUEUE_FORMAT],
    "squeue_arrays.txt": ["squeue", "-h", "-a", "-o", SQUEUE_FORMAT],
    "squeue_fields.txt": [
        *("squeue", "-a", "-O"),
        ",".join(f"{field}:60" for field in SQUEUE_FIELDS.split(",")),
    ],
    "squeue_me.txt": ["squeue", "--me", "-h", "-o", "%i|%T|%r|%N"],
    "squeue_unknown_job.txt": ["squeue", "-h", "-j", "999999", "-o", "%i|%T"],
    "scontrol_unknown_job.txt": ["scontrol", "show", "job", "999999"],
    "sbatch_bad_partition.txt": ["sbatch", "-p", "no-such", "--wrap", "true"],
    "sbatch_bad_gres.txt": ["sbatch", "--gres=gpu:h100:1", "--wrap", "true"],
    "sbatch_bad_time.txt": ["sbatch", "-p", "short", "-t", "1:00:00", "--wrap", "true"],
    "sbatch_bad_account.txt": ["sbatch", "-A", "no-such", "--wrap", "true"],
    "sbatch_too_big.txt": ["sbatch", "--gres=gpu:a100:9", "--wrap", "true"],
    "sbatch_test_only.txt": ["sbatch", "--test-only", "--gres=gpu:a100:1", "--wrap", "true"],
    "sbatch_test_only_mig.txt": [
        *("sbatch", "--test-only", "-p", "gpu", "--gres=gpu:a100_1g.10gb:1", "--wrap", "true"),
    ],
    "sbatch_parsable.txt": ["sbatch", "--parsable", "--hold", "--wrap", "true"],
    "sacct.txt": ["sacct", "-X", "-n", "-P", "-o", "JobID,State"],
    "sprio.txt": ["sprio", "-h"],
    "environment.txt": ["srun", "-p", "gpu", "--gres=gpu:a100_1g.10gb:1", "sh", "-c", "env | sort"],
}


def record(cluster: Cluster) -> Path:
    """Write ``tests/fixtures/slurm/<version>/``: one file a command, as its user saw it.

    A file's first line is the command and its exit status.
    """
    folder = FIXTURES / cluster.slurm_version
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    with _busy(cluster):
        for name, command in COMMANDS.items():
            done = cluster.run("login", command, check=False)
            shown = " ".join(word if " " not in word else f"'{word}'" for word in command)
            text = f"# {shown} # exit {done.returncode}\n{done.stdout}{done.stderr}"
            (folder / name).write_text(text)
    return folder


@contextmanager
def _busy(cluster: Cluster) -> Iterator[None]:
    """A queue with something of everything: running, pending for several reasons, an array."""

    def submit(*options: str, user: str = "alice") -> str:
        command = ["sbatch", "--parsable", "--output=/dev/null", *options, "--wrap", "sleep 600"]
        return cluster.run("login", command, user).stdout.strip()

    running = submit("-J", "slice", "-p", "gpu", "--gres=gpu:a100_1g.10gb:1", "-c", "4")
    submit("-J", "two-gpus", "-p", "gpu", "-w", "c2", "--gres=gpu:a100:2", "--mem=8G")
    # bob's job takes c1's whole GPUs, so the next one has to wait for resources.
    submit("-J", "theirs", "-p", "gpu", "-w", "c1", "--gres=gpu:a100:2", user="bob")
    submit("-J", "waits", "-p", "gpu", "-w", "c1", "--gres=gpu:a100:1", "-t", "30")
    submit("-J", "behind", "-p", "gpu", "-w", "c1", "--gres=gpu:a100:1", "-t", "30")
    submit("-J", "after", f"--dependency=afterok:{running}", "--comment=mt:qwen/0")
    submit("-J", "array", "-p", "gpu", "-w", "c1", "--gres=gpu:a100:1", "--array=0-7%2")
    submit("-J", "held", "--hold")
    submit("-J", "later", "--begin=now+1hour")
    submit("-J", "spare", "-p", "scavenger", "-c", "2")
    submit("-J", "odd name|with=signs", "-p", "short", "-t", "5")
    try:
        _wait_for_reasons(cluster, {"Resources", "Dependency", "JobHeldUser", "BeginTime"})
        yield
    finally:
        for user in ("alice", "bob"):
            cluster.run("login", ["scancel", "-u", user], user="root")
        cluster.wait_idle(90)


def _wait_for_reasons(cluster: Cluster, wanted: set[str], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    reasons: set[str] = set()
    while not wanted <= reasons:
        reasons = set(cluster.run("login", ["squeue", "-h", "-o", "%r"]).stdout.split())
        if time.monotonic() > deadline:
            raise ClusterError(f"the queue shows {reasons}, not {wanted}")
        time.sleep(0.5)
