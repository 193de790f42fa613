"""``mt-submit bench`` on the cluster against real llama-server: from login, and as a job."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.site import Account, account
from tests.cluster.cluster import Cluster

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
SMALL = "--prompt-tokens 8 --output-tokens 8 --requests 8 --no-calibration"
SECRET = "hf_not_for_a_summary"


@pytest.fixture
def alice(cluster: Cluster) -> Iterator[Account]:
    made = account(cluster, "alice", "bench")
    yield made
    made.mt("stop --all --wait 90", check=False)
    made.mt("gateway stop", check=False)


def summary(alice: Account, folder: str) -> dict[str, object]:
    """The run's figures, after its plots were drawn (here: the cluster has no matplotlib)."""
    made = alice.here(alice.home) / folder
    draw = [sys.executable, "-m", "modeltainer.cli.main", "bench", "report", str(made)]
    subprocess.run(draw, check=True)
    assert (made / "report.html").stat().st_size > 50_000
    assert list(made.glob("*.png"))
    found: dict[str, object] = json.loads((made / "summary.json").read_text())
    return found


def assert_tells_of_the_engine(alice: Account, found: dict[str, object], gres: str | None) -> None:
    """What answered, where it ran and how it was started; nothing of it is a secret."""
    servers = found["servers"]
    assert isinstance(servers, list)
    [row] = alice.ls()
    [launch] = servers[0]["launches"]
    [job] = alice.jobs()
    expected = {
        "launch_id": row["launch_id"],
        "job_id": job,
        "node": row["node"],
        "gres": gres,
        "engine": "llamacpp",
        "runtime": "apptainer",
        "context": 2048,
        "image": "/shared/images/llama.cpp-cpu.sif",
        "engine_args": {"parallel": 4, "hf-token": "…"},
        "env": ["LLAMA_ARG_POLL"],
        "cpus": 1,
    }
    assert expected.items() <= launch.items()
    assert launch["node"] in alice.cluster.nodes
    assert launch["engine_version"]
    assert bool(launch["devices"]) == (gres is not None)
    text = json.dumps(found)
    secret = json.loads(
        (alice.registry / "launches" / row["launch_id"] / "secret.json").read_text()
    )
    assert not [one for one in (SECRET, secret["key"], secret["nonce"]) if one in text]


def test_a_sweep_through_the_gateway_and_one_next_to_the_engine(alice: Account) -> None:
    # Four users' prompts, and those that idle slots still hold: more than a context of 256.
    alice.config["models"]["tiny"] |= {
        "context": 2048,
        "engine_args": {"parallel": 4, "hf-token": SECRET},
        "env": {"LLAMA_ARG_POLL": "0"},
    }
    alice.write_config()
    alice.mt("up tiny --wait")
    alice.mt("gateway start")
    said = alice.mt(f"bench tiny --concurrency 1,4 {SMALL} --output sweep")
    assert "TTFT" in said.stdout
    found = summary(alice, "sweep")
    points = found["points"]
    assert isinstance(points, list)
    assert [point["targets"]["a"]["failed"] for point in points] == [0, 0]
    assert [point["concurrency"] for point in points] == [1, 4]
    assert_tells_of_the_engine(alice, found, None)

    job = alice.mt(
        f"bench tiny --concurrency 2 {SMALL} --on-cluster --partition cpu --time 10m --output near"
    ).stdout.strip()
    deadline = time.monotonic() + 120
    while job in alice.jobs():
        assert time.monotonic() < deadline, (alice.here(alice.home) / "near.log").read_text()
        time.sleep(0.5)
    near = summary(alice, "near")
    client, servers = near["client"], near["servers"]
    assert isinstance(client, dict)
    assert isinstance(servers, list)
    assert client["slurm"]["SLURM_JOB_ID"] == job
    [row] = alice.ls()
    assert servers[0]["url"] == row["url"]  # the engine's own address
    script = (alice.here(alice.home) / "near.sbatch").read_text()
    assert "mte-" not in script
    assert_tells_of_the_engine(alice, near, None)

    again = alice.mt(f"bench tiny {SMALL} --on-cluster --output near", check=False)
    assert again.returncode == 1
    assert "is there already" in again.stderr
    alice.mt("stop tiny")
    none = alice.mt(f"bench tiny {SMALL} --on-cluster --output none", check=False)
    assert none.returncode == 9
    assert "no engine of tiny is ready" in none.stderr
    alice.assert_nothing_left()

    # On a slice: what it has cost is known after the launch is gone.
    alice.mt("up tiny --wait --partition gpu --gpus 1 --gpu-type a100_1g.10gb")
    alice.until_answered("tiny")  # the gateway looks at the registry once a second
    alice.mt(f"bench tiny --concurrency 1 {SMALL} --direct --output slice")
    assert_tells_of_the_engine(alice, summary(alice, "slice"), "gpu:a100_1g.10gb:1")
    alice.mt("stop tiny")
    [spent] = json.loads(alice.mt("usage --by model --json").stdout)
    assert spent["model"] == "tiny"
    assert spent["jobs"] == 1
    assert 0 < spent["gpu_seconds"] < 300
    alice.mt("gateway stop")
    alice.assert_nothing_left()


def test_notebooks_on_the_login_node_against_a_real_model(alice: Account, tmp_path: Path) -> None:
    """Jupyter is this machine's, on login's network: the cluster has none. ``usage``, which asks
    Slurm, has the login node's own mt-submit, as alice."""
    gemma = alice.config["models"]["gemma"]
    gemma |= {"context": 4096, "engine_args": {"parallel": 4}}
    alice.config["models"]["one-by-one"] = gemma | {"engine_args": {"parallel": 1}}
    alice.write_config(gateway={"listen": "tcp", "port": 0})
    alice.mt("gateway start")
    alice.mt("up gemma one-by-one --wait")
    for model in ("gemma", "one-by-one"):
        alice.until_answered(model)
    environ = {
        **os.environ,
        "OPENAI_BASE_URL": json.loads(alice.mt("gateway status --json").stdout)["url"],
        "OPENAI_API_KEY": alice.mt("key create notebook").stdout.strip(),
        "MODEL": "gemma",
        "AGAINST": "one-by-one",
        # Prompts longer than the chat template, which a prefix cache rightly knows.
        "BENCH": "--concurrency 1,2 --requests 10 --prompt-tokens 64 --output-tokens 8 "
        "--slo ttft=60s --no-calibration",
    }

    told = notebook(alice, "quickstart", environ, tmp_path)
    assert "gemma: ready, 1 up" in told
    assert "computer" in told.partition("completion_tokens")[2]  # of a model that can speak
    assert "concurrency=2" in notebook(alice, "benchmark", environ, tmp_path)
    told = notebook(alice, "comparison", environ, tmp_path)
    assert "one-by-one" in told
    assert "e2e_s: " in told
    assert "200 users: " in notebook(alice, "capacity", environ, tmp_path)
    environ["IPYTHONDIR"] = str(logged_in(alice, tmp_path / "ipython"))
    told = notebook(alice, "usage", environ, tmp_path)
    for row in alice.ls():
        assert row["launch_id"] in told
    spent = {row["model"]: row for row in json.loads(alice.mt("usage --by model --json").stdout)}
    assert spent["gemma"]["requests"] > 40
    assert spent["one-by-one"]["requests"] >= 10
    drawn = {name: len(list((tmp_path / name).glob("*.png"))) for name in PICTURES}
    assert drawn == PICTURES
    alice.mt("stop --all")
    alice.mt("gateway stop")
    alice.assert_nothing_left()


PICTURES = {"quickstart": 0, "benchmark": 4, "comparison": 2, "capacity": 2, "usage": 4}


def notebook(alice: Account, name: str, environ: dict[str, str], folder: Path) -> str:
    """Run one on login's network; returns its page."""
    network = f"--net=/proc/{alice.cluster.hosts['login'].init}/ns/net"
    made = [sys.executable, str(ROOT / "tools" / "notebooks.py"), "--output", str(folder), name]
    for _ in range(3):  # on a busy machine, a measurement may rightly be called not valid
        done = subprocess.run(
            ["nsenter", network, *made], env=environ, capture_output=True, text=True, check=False
        )
        if "the lightest load is not valid" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr
    return (folder / f"{name}.md").read_text()


def logged_in(alice: Account, folder: Path) -> Path:
    """IPython's folder, of kernels whose mt-submit is that of alice on the login node."""
    command = shlex.join(alice.cluster.hosts["login"].command(["mt-submit"], alice.user))
    startup = folder / "profile_default" / "startup"
    startup.mkdir(parents=True)
    program = folder / "bin" / "mt-submit"
    program.parent.mkdir()
    config = shlex.quote(f"{alice.home}/models.yaml")
    program.write_text(f'#!/bin/sh\nexec {command} --config {config} "$@"\n')
    program.chmod(0o755)
    path = f"{program.parent}:"
    (startup / "mt-submit.py").write_text(
        f"import os\nos.environ['PATH'] = {path!r} + os.environ['PATH']\n"
    )
    return folder
