"""The virtual cluster is a cluster: what the other tests stand on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster import fixtures, process
from tests.cluster.cluster import Cluster, clusters_dir, remove

pytestmark = pytest.mark.cluster

SIF = "/shared/images/llama.cpp-cpu.sif"
FLAVOURS = ["cluster", "cluster_24_11", "cluster_22_05"]


@pytest.fixture(params=FLAVOURS)
def each(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Every flavour in turn."""
    up = request.getfixturevalue(request.param)
    assert isinstance(up, Cluster)
    yield up
    up.run("login", ["scancel", "--user=alice"], user="root")


def eventually(true: Callable[[], bool], timeout: float = 60) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def state(up: Cluster, job: str) -> str:
    """The job's state, as squeue has it."""
    return up.run("login", ["squeue", "-h", "-j", job, "-o", "%T"]).stdout.strip()


def test_jobs_run_as_the_user_on_each_node(each: Cluster) -> None:
    script = "echo $(hostname) $(id -un) $(pwd)"
    lines = each.run("login", ["srun", "-N2", "-n2", "sh", "-c", script]).stdout.splitlines()
    assert sorted(lines) == [f"{node} alice /shared/home/alice" for node in ("c1", "c2")]


def test_gres_are_seen_and_handed_out(each: Cluster) -> None:
    listed = each.run("login", ["sinfo", "-h", "-o", "%G", "-p", "gpu"]).stdout
    gpus, shards = listed.strip().split(",shard", 1)
    assert gpus == "gpu:a100:2,gpu:a100_1g.10gb:4,gpu:a100_3g.40gb:1"
    assert shards.split(",")[0] in {":8", ":a100:8"}

    batch = ["sbatch", "--wait", "-p", "gpu", "--gres=gpu:a100_1g.10gb:1", "-o", "slice.out"]
    each.run("login", [*batch, "--wrap", "echo $SLURM_JOB_GPUS $CUDA_VISIBLE_DEVICES"])
    out = each.shared / "home" / "alice" / "slice.out"
    eventually(lambda: out.exists() and bool(out.read_text()))
    gpus = out.read_text().split()[0]
    assert gpus in {"2", "3", "4", "5"}


def test_native_llama_server_loads_the_tiny_model(each: Cluster) -> None:
    server = "/opt/llama/bin/llama-server --model /shared/models/tiny.gguf --port 18080"
    ask = (
        "for i in $(seq 100); do curl -sf localhost:18080/health && break; sleep 0.2; done;"
        'curl -sf localhost:18080/completion -d \'{"prompt":"a","n_predict":4}\''
    )
    script = f"{server} >log 2>&1 & {ask}; status=$?; kill %1; wait; exit $status"
    answer = each.run("c1", ["bash", "-c", script]).stdout
    assert '"tokens_predicted":4' in answer


def test_environment_has_modeltainer_and_its_dependencies(each: Cluster) -> None:
    imports = "import modeltainer.spec, submitit, fastapi, uvloop, openai; print('ok')"
    for host in ("login", "c1"):
        assert each.run(host, ["/opt/modeltainer/bin/python", "-c", imports]).stdout == "ok\n"
    which = each.run("login", ["bash", "-lc", "command -v mt-submit"]).stdout
    assert which == "/opt/modeltainer/bin/mt-submit\n"


@pytest.mark.parametrize("flavour", ["cluster", "cluster_24_11"])
def test_apptainer_runs_the_image_as_a_user(request: pytest.FixtureRequest, flavour: str) -> None:
    up: Cluster = request.getfixturevalue(flavour)
    shown = up.run("c1", ["apptainer", "exec", "--containall", SIF, "llama-server", "--version"])
    assert "built with" in shown.stdout + shown.stderr
    # Mounted by squashfuse, not unpacked at each start.
    assert "sandbox" not in shown.stderr


def test_login_is_reached_by_ssh(each: Cluster) -> None:
    for client in ("laptop", "c1"):
        done = each.run(client, ["ssh", "login", "id -un; hostname"], user="bob")
        assert done.stdout.split() == ["bob", "login"]


def test_users_are_apart(each: Cluster) -> None:
    each.run("login", ["sh", "-c", "umask 077; echo mine >secret"])
    assert each.run("c1", ["cat", "secret"]).stdout == "mine\n"
    stolen = each.run("c1", ["cat", "/shared/home/alice/secret"], user="bob", check=False)
    assert "Permission denied" in stolen.stderr


def test_nothing_outside_is_reached(cluster: Cluster) -> None:
    route = cluster.run("login", ["ip", "route", "get", "192.0.2.1"], check=False)
    assert route.returncode != 0


def test_ending_the_handle_ends_the_command(cluster: Cluster) -> None:
    handle = cluster.popen("c1", ["sleep", "4242"])
    pid = cluster.command_pid(handle)
    assert cluster.run("c1", ["pgrep", "-u", "alice", "-f", "sleep 4242"]).stdout
    handle.kill()
    handle.wait()
    eventually(lambda: not Path(f"/proc/{pid}").exists())


def test_cut_network_and_back(cluster: Cluster) -> None:
    ping = ["ping", "-c1", "-W1", "c1"]
    assert cluster.run("login", ping, check=False, user="root").returncode == 0
    cluster.cut_network("c1")
    try:
        assert cluster.run("login", ping, check=False, user="root").returncode != 0
    finally:
        cluster.restore_network("c1")
    assert cluster.run("login", ping, check=False, user="root").returncode == 0
    eventually(lambda: cluster.node_states()["c1"] == "idle")


def test_a_lower_partition_gives_way(cluster: Cluster) -> None:
    submit = ["sbatch", "--parsable", "-o", "/dev/null", "-w", "c1", "--exclusive"]
    low = cluster.run("login", [*submit, "-p", "scavenger", "--wrap", "sleep 600"]).stdout.strip()

    eventually(lambda: state(cluster, low) == "RUNNING")
    high = cluster.run("login", [*submit, "-p", "gpu", "--wrap", "sleep 600"]).stdout.strip()
    eventually(lambda: state(cluster, high) == "RUNNING" and state(cluster, low) == "PENDING")
    cluster.run("login", ["scancel", low, high])


def test_killed_host_is_seen_and_comes_back_and_down_leaves_nothing(cluster: Cluster) -> None:
    # A cluster of its own, to take down; `cluster` is asked for its conditions only.
    with Path("/proc/self/mountinfo").open() as mounts:
        before = mounts.read()
    own = Cluster.up("sid", name=f"pytest-{os.getpid()}-killed")
    try:
        job = own.run(
            "login", ["sbatch", "--parsable", "--no-requeue", "-w", "c2", "--wrap", "sleep 600"]
        ).stdout.strip()
        eventually(lambda: state(own, job) == "RUNNING")
        own.kill_host("c2")
        assert not own.hosts["c2"].alive
        eventually(lambda: own.node_states()["c2"].startswith("down"), 90)
        eventually(lambda: "NODE_FAIL" in own.run("login", ["scontrol", "show", "job", job]).stdout)
        own.restart_host("c2")
        own.wait_idle()
        assert own.run("login", ["srun", "-w", "c2", "hostname"]).stdout == "c2\n"
    finally:
        own.down()
    assert not own.folder.exists()
    assert process.marked(own.folder) == []
    with Path("/proc/self/mountinfo").open() as mounts:
        assert mounts.read() == before


def test_half_made_cluster_is_taken_down(cluster: Cluster) -> None:
    name = f"{cluster.name}-cut"
    code = f"from tests.cluster.cluster import Cluster; Cluster.up('sid', name={name!r})"
    builder = subprocess.Popen([sys.executable, "-c", code])
    folder = clusters_dir() / name
    eventually((folder / "hosts" / "c1").exists)
    builder.kill()
    builder.wait()
    assert process.marked(folder)
    remove(folder)
    assert process.marked(folder) == []
    assert not folder.exists()


def test_sessions_that_begin_at_once_take_down_what_a_killed_one_left(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # `cluster` is asked for its conditions only.
    monkeypatch.setenv("MODELTAINER_CLUSTER_RUN", str(tmp_path))
    # Its process is no more, and another has its number: init.
    left = tmp_path / "pytest-1-sid"
    for number in range(40):
        (left / "shared" / "small" / str(number)).mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", left / "shared" / "small"], check=True)
    alive = tmp_path / f"pytest-{os.getpid()}-sid"
    with fixtures.begin():
        assert not left.exists()
        left.mkdir()
        alive.mkdir()
        code = "from tests.cluster.fixtures import begin; begin()"
        sessions = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
        assert [session.wait() for session in sessions] == [0, 0, 0]
        assert not left.exists()
        assert alive.exists()


def test_a_node_that_slurm_gave_up_takes_jobs_again(cluster: Cluster) -> None:
    down = ["scontrol", "update", "nodename=c2", "state=down", "reason=missed"]
    cluster.run("login", down, "root")
    assert cluster.node_states()["c2"] == "down"
    cluster.resume_nodes()
    assert cluster.run("login", ["srun", "-w", "c2", "hostname"]).stdout == "c2\n"
