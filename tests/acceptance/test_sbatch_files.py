"""The example files of ``scripts/slurm``, each submitted with sbatch as a user does.

Their texts are used as they lie there but for the invented user's folder. What no test can pull is
put where ``mt-submit pull`` and an earlier start leave it, in the cache of that user: the images
(llama.cpp's is real; vLLM's holds a stand-in, for want of GPUs) and, for both GGUF models, a tiny
one. Apptainer and its ``--nv`` are real. The nodes' GPUs are device files; of a driver, they have a
``nvidia-smi`` that finds none, which tells whether ``--nv`` brought it into a container.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from modeltainer.apptainer.image import cache_path
from modeltainer.spec import LaunchSpec, decode
from tests.acceptance.site import Account, account
from tests.acceptance.vllm_stand_in import STARTED
from tests.cluster.cluster import Cluster
from tests.cluster.images import image_folder
from tests.cluster.layers import Base, Layer, apt_install
from tools.sbatch_files import HOME, ROOT

pytestmark = pytest.mark.cluster

FOLDER = ROOT / "scripts" / "slurm"
STAND_IN = Path(__file__).with_name("vllm_stand_in.py").read_text()
VLLM = Layer(
    "vllm-stand-in-image",
    Layer("python-image", Base("sid"), apt_install("sid", ("python3",))),
    f"mkdir -p /.singularity.d/env\ncat >/usr/bin/vllm <<'EOF'\n{STAND_IN}EOF\n"
    "chmod 755 /usr/bin/vllm\n",
)
SMALL = "--mem=1G"
"""Less memory than the files ask for, as their heads say how: nodes here have 32 GB."""
SMI = "/usr/bin/nvidia-smi"
DRIVER = f"printf '#!/bin/sh\\necho No devices were found; exit 6\\n' >{SMI}; chmod 755 {SMI}"
"""What the real one says and returns where it finds none."""
COMMIT = "0" * 40
"""Of the GGUF models' repositories; some forty digits."""


@dataclass(frozen=True)
class Example:
    """One file of a model: what its user changes for nodes as small as ours, and what starts."""

    edits: tuple[tuple[str, str], ...] = ()
    gpus: int = 1
    engine: dict[str, object] = field(default_factory=dict)
    """The stand-in's options, where they are not vLLM's defaults."""
    says: tuple[str, ...] = ()
    """llama-server's process has these arguments."""


EXAMPLES = {
    "llamacpp-cpu": Example(gpus=0, says=("--threads 16", "--ctx-size 4096", "--parallel 4")),
    "llamacpp-gpu": Example(says=("--threads 4", "--ctx-size 8192", "--n-gpu-layers 999")),
    "vllm-gpu": Example(
        engine={"max_model_len": 16384, "max_num_seqs": 64, "enable_prefix_caching": True}
    ),
    "vllm-mig": Example(
        # Of the slice: what NVML reports there is its parent's memory.
        engine={"max_model_len": 16384, "max_num_seqs": 64, "gpu_memory_utilization": 0.92}
    ),
    "vllm-two-gpus": Example(gpus=2, engine={"tensor_parallel_size": 2}),
    "vllm-two-nodes": Example(
        # Nodes here have 16 cores and two GPUs.
        edits=(
            ("cpus-per-task=32", "cpus-per-task=4"),
            ("gpu:a100:4", "gpu:a100:2"),
            ('"gpus": 4', '"gpus": 2'),
        ),
        gpus=2,
        engine={"tensor_parallel_size": 2, "pipeline_parallel_size": 2, "nnodes": 2},
    ),
}
OTHERS = {"gateway", "gateway-chain", "bench"}


def spec_of(text: str) -> LaunchSpec:
    """The launch in a batch file."""
    document = text.partition("<<'MODELTAINER_SPEC'\n")[2].partition("\nMODELTAINER_SPEC")[0]
    return decode(document.encode())


def text_of(name: str, alice: Account, edits: tuple[tuple[str, str], ...] = ()) -> str:
    """A file for alice instead of the invented user, with her changes, each of which must bite."""
    text = (FOLDER / f"{name}.sbatch").read_text().replace(str(HOME), alice.home)
    for before, after in edits:
        assert before in text
        text = text.replace(before, after)
    return text


def submit(alice: Account, name: str, text: str, words: str = "") -> str:
    """Submit it as alice; returns the job's id."""
    (alice.here(alice.home) / f"{name}.sbatch").write_text(text)
    return alice.sh(f"sbatch --parsable {SMALL} {name}.sbatch {words}").stdout.strip()


def stand_in(log: str) -> dict[str, Any]:
    """What vLLM's stand-in says of its start."""
    [line] = [one for one in log.splitlines() if one.startswith(STARTED)]
    found: dict[str, Any] = json.loads(line.removeprefix(STARTED))
    return found


def wait_until(true: Callable[[], object], otherwise: Callable[[], object]) -> None:
    """Wait until it is so, for 90 s; ``otherwise`` then tells what is."""
    deadline = time.monotonic() + 90
    while not true():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.5)


def wait_for(alice: Account, job: str, state: str) -> None:
    """Wait until Slurm calls the job so; an empty word means that it is gone."""

    def shown() -> str:
        return alice.sh(f"squeue -h -j {job} -o %T", check=False).stdout.strip()

    wait_until(lambda: shown() == state, lambda: alice.sh("squeue; tail -n 20 *.log").stdout)


def wait_ready(alice: Account, job: str) -> dict[str, Any]:
    """Wait until the launch in the job is ready; returns its row."""

    def ready() -> list[dict[str, Any]]:
        return [row for row in alice.ls() if row["job_id"] == job and row["state"] == "ready"]

    wait_until(ready, lambda: alice.mt("ls --all; tail -n 20 *.log").stdout)
    return ready()[0]


def engine(alice: Account, node: str, program: str) -> tuple[str, bool]:
    """Arguments of the engine's process on the node, and whether it sees the driver's tool."""
    cluster = alice.cluster
    find = ["pgrep", "--newest", "-u", "alice", "-x", program]
    pid = cluster.run(node, find, user="root").stdout.strip()
    arguments = cluster.run(node, ["ps", "-o", "args=", "-p", pid], user="root").stdout.strip()
    seen = cluster.run(node, ["test", "-e", f"/proc/{pid}/root{SMI}"], user="root", check=False)
    return arguments, seen.returncode == 0


@pytest.fixture(scope="module")
def alice(cluster: Cluster) -> Iterator[Account]:
    """A user with ModelTainer, configuration, images and weights where the files expect them."""
    made = account(cluster, "alice", "sbatch-files")
    config = yaml.safe_load((ROOT / "config" / "models.yaml").read_text())
    config["site"].update(made.config["site"])
    made.config = config
    made.write_config()
    made.sh("ln -s /opt/modeltainer modeltainer && mkdir -p .config/modeltainer cache/images")
    made.sh("ln -s ../../models.yaml .config/modeltainer/models.yaml")
    cache = Path(made.home, "cache")
    vllm = image_folder("vllm-stand-in-sif", VLLM, "vllm.sif") / "vllm.sif"
    for name in EXAMPLES:
        spec = spec_of(text_of(name, made))
        assert spec.image is not None
        sif = cache_path(spec.image, cache)
        if spec.engine == "vllm":
            shutil.copyfile(vllm, made.here(str(sif)))
        else:
            made.sh(f"ln -sf /shared/images/llama.cpp-cpu.sif {sif}")
            # As llama.cpp keeps what it has downloaded: the layout of huggingface_hub's cache.
            model = f"cache/llama.cpp/models--{spec.source.value.replace('/', '--')}"
            made.sh(f"mkdir -p {model}/refs {model}/snapshots/{COMMIT}")
            made.sh(f"printf {COMMIT} >{model}/refs/main")
            made.sh(f"cp /shared/models/tiny.gguf {model}/snapshots/{COMMIT}/{spec.source.file}")
    for node in cluster.nodes:
        cluster.hosts[node].script(DRIVER)
    yield made
    made.sh("scancel --me --name=mt-gateway")
    made.mt("stop --all --wait 60", check=False)
    for node in cluster.nodes:
        cluster.hosts[node].script(f"rm {SMI}")
    wait_until(lambda: not made.jobs(), made.jobs)
    made.assert_nothing_left()


@pytest.fixture
def gateway(alice: Account) -> None:
    """The gateway of gateway-chain.sbatch, begun by the first test and once more after a failed
    one, which ends all jobs."""
    if not alice.sh("squeue --me -h --name=mt-gateway --states=RUNNING").stdout:
        job = submit(alice, "gateway-chain", text_of("gateway-chain", alice))
        wait_for(alice, job, "RUNNING")


def test_every_file_is_submitted_here() -> None:
    assert {path.stem for path in FOLDER.glob("*.sbatch")} == {*EXAMPLES, *OTHERS}


@pytest.mark.usefixtures("gateway")
def test_the_chain_has_submitted_its_successor(alice: Account) -> None:
    def reasons() -> list[str]:
        return sorted(alice.sh("squeue --me -h --name=mt-gateway -o %r").stdout.split())

    wait_until(lambda: reasons() == ["Dependency", "None"], reasons)


@pytest.mark.usefixtures("gateway")
@pytest.mark.parametrize("name", EXAMPLES)
def test_a_model_serves(alice: Account, name: str) -> None:
    example = EXAMPLES[name]
    text = text_of(name, alice, example.edits)
    spec = spec_of(text)
    job = submit(alice, name, text)
    row = wait_ready(alice, job)
    answer = alice.until_answered(spec.model)
    log = (alice.registry / "launches" / row["launch_id"] / "log" / "engine.log").read_text()
    program = {"vllm": "vllm", "llamacpp": "llama-server"}[spec.engine]
    nodes = alice.cluster.nodes if spec.resources.nodes > 1 else [row["node"]]
    for node in nodes:
        arguments, sees_driver = engine(alice, node, program)
        assert sees_driver is (example.gpus > 0)
    if spec.engine == "vllm":
        assert answer == "stands"
        started = stand_in(log)
        assert started["model"] == spec.source.value
        assert {**started, **example.engine} == started
        assert len(started["devices"]) == example.gpus
    else:
        assert answer
        for argument in (f"--hf-repo {spec.source.value}", *example.says):
            assert f"{argument} " in f"{arguments} "
        assert ("no usable GPU found" in log) is (example.gpus > 0), log
    if spec.resources.nodes > 1:
        second = stand_in(alice.mt(f"logs {spec.model} --rank 1").stdout)
        assert second["headless"]
        assert second["master_addr"] == started["master_addr"]
        assert len(second["devices"]) == example.gpus
    alice.mt(f"stop {job}")
    wait_for(alice, job, "")


def test_the_gateway_and_a_measurement_through_it(alice: Account) -> None:
    alice.sh("scancel --me --name=mt-gateway")  # the chain's
    wait_until(lambda: not alice.jobs(), alice.jobs)
    submit(alice, "gateway", text_of("gateway", alice))
    name = "llamacpp-gpu"
    model = submit(alice, name, text_of(name, alice))
    served = wait_ready(alice, model)["model"]
    alice.until_answered(served)
    words = "--concurrency 2 --requests 4 --prompt-tokens 8 --output-tokens 4 --no-calibration"
    bench = submit(alice, "bench", text_of("bench", alice), f"{served} {words}")
    wait_for(alice, bench, "")
    log = (alice.here(alice.home) / f"mt-bench.{bench}.log").read_text()
    summary = alice.here(alice.home) / f"bench-{bench}" / "summary.json"
    assert summary.exists(), log
    [point] = json.loads(summary.read_text())["points"]
    assert point["targets"]["a"]["failed"] == 0
    alice.mt(f"stop {model}")
    wait_for(alice, model, "")
