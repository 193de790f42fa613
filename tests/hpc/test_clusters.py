"""From a model's config.json to partition and GPUs, on clusters of twelve different makes.

What their controllers said was recorded (``python -m tests.cluster record-sites``).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modeltainer.hpc.placement import PlacementError, place
from modeltainer.hpc.snapshot import Snapshot, parse_nodes, parse_partitions
from modeltainer.sizing.fit import CannotFitError
from modeltainer.sizing.launch import Given, check_parallelism, size_launch
from modeltainer.spec import Placement, Resources, Source
from modeltainer.weights.inspect import read_path
from tests.cluster.sites import SITES, Site
from tests.launch_spec import launch_spec
from tests.weights.published import CONFIGS

CLUSTERS = Path(__file__).parents[1] / "fixtures" / "clusters"
HOUR = 3600


def cluster(name: str) -> Snapshot:
    text = (CLUSTERS / f"{name}.txt").read_text()
    return Snapshot(parse_nodes(text), parse_partitions(text), (24, 11))


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.name)
def test_the_recording_is_of_the_site_as_it_is_described(site: Site) -> None:
    """Who changes ``sites.py`` has to record anew."""
    head = (CLUSTERS / f"{site.name}.txt").read_text().partition("\n")[0]
    assert head.startswith(f"# {site.about} Recorded from slurmctld ")
    recorded = cluster(site.name)
    assert {node.name: node.state.rstrip("*") for node in recorded.nodes} == site.state_of
    assert [one.name for one in recorded.partitions] == list(site.partitions)
    assert {name for one in recorded.partitions for name in one.nodes} == set(site.nodes)


def test_every_recording_has_its_site() -> None:
    assert {path.stem for path in CLUSTERS.iterdir()} == {site.name for site in SITES}


@pytest.mark.parametrize(
    ("name", "node", "usable", "free"),
    [
        ("untyped", "n1", True, {None: 0}),
        ("untyped", "n2", True, {None: 4}),
        ("v100-and-a100", "a1", True, {"a100": 1}),
        ("v100-and-a100", "a2", True, {"a100": 0}),
        ("mig-mix", "m1", True, {"a100_1g.5gb": 5, "a100_2g.10gb": 3}),
        ("scavenger", "x1", True, {"h200": 0}),
        ("drained", "h1", False, {"h100": 4}),
        ("drained", "h2", False, {"h100": 3}),
        ("drained", "a1", True, {"a100": 2}),
        ("drained", "a2", False, {"a100": 4}),
        # Of the four, two are in shards and one is a job's own.
        ("shards", "s1", True, {"a100": 1}),
        ("shards", "s2", False, {"a100": 4}),
        ("shards", "x1", True, {"l40s": 1, "a30": 2}),
        ("untyped-shards", "u1", True, {None: 2}),
    ],
)
def test_what_jobs_have_left(
    name: str, node: str, usable: bool, free: dict[str | None, int]
) -> None:
    [found] = [one for one in cluster(name).nodes if one.name == node]
    assert found.usable is usable
    assert {one.type: one.count for one in found.gres_free if one.is_gpu} == free


@pytest.mark.parametrize(
    ("node", "type_", "per_gpu", "left"), [("s1", "a100", 8, 8), ("x1", "l40s", 4, 4)]
)
def test_shards_that_jobs_have_left_on_one_gpu(
    node: str, type_: str, per_gpu: int, left: int
) -> None:
    [found] = [one for one in cluster("shards").nodes if one.name == node]
    [shared] = [one for one in found.shared if one.type == type_]
    assert (shared.per_gpu, shared.free) == (per_gpu, left)


def planned(
    name: str,
    model: str,
    *,
    given: Given | None = None,
    args: dict[str, Any] | None = None,
    **to: Any,
) -> tuple[Placement, tuple[str, ...]]:
    """Where ``up`` would put the model at 8192 tokens for four hours, and what sizing said."""
    spec = launch_spec(
        launch_id="x-r0-aaaaaa",
        model="x",
        engine="vllm",
        runtime="apptainer",
        source=Source("path", "/m"),
        resources=replace(Resources(gpus=1, walltime_s=4 * HOUR), **to),
        context=8192,
        engine_args=args or {},
    )
    check_parallelism(spec)
    snapshot = cluster(name)
    sized = size_launch(spec, read_path(CONFIGS / f"{model}.json"), snapshot, given or Given())
    return place(snapshot, sized.resources), sized.reasons


@pytest.mark.parametrize(
    ("name", "model", "to", "partition", "gres"),
    [
        # No types: nothing tells the memory, so the number asked for stands.
        ("untyped", "qwen2.5-7b", {}, "gpu", "gpu:1"),
        ("untyped", "llama-3.1-70b", {"gpus": 4}, "gpu", "gpu:4"),
        # The older GPU where it will do; AWQ has no kernels for it.
        ("v100-and-a100", "gpt-oss-20b", {}, "gpu-a100", "gpu:a100:1"),
        ("v100-and-a100", "phi-3-mini-4k", {}, "gpu-v100", "gpu:v100:1"),
        ("v100-and-a100", "qwen2.5-7b-awq", {}, "gpu-a100", "gpu:a100:1"),
        ("v100-and-a100", "qwen2.5-7b", {}, "gpu-a100", "gpu:a100:1"),
        ("v100-and-a100", "llama-3.1-70b", {}, "gpu-a100", "gpu:a100:4"),
        # 28 heads cannot be shared out over 3 GPUs; the layers can (pipeline parallelism).
        ("v100-and-a100", "qwen2.5-7b", {"gpus": 3}, "gpu-v100", "gpu:v100:3"),
        # The smallest slice that holds it; never several slices for one model.
        ("mig-mix", "qwen2.5-7b-awq", {}, "mig", "gpu:a100_2g.10gb:1"),
        ("mig-mix", "qwen2.5-7b-awq", {"walltime_s": HOUR}, "interactive", "gpu:a100_2g.10gb:1"),
        ("mig-mix", "llama-3.1-8b", {}, "mig", "gpu:a100_3g.20gb:1"),
        ("mig-mix", "qwen3-30b-a3b", {}, "full", "gpu:a100:2"),
        # NVML's own names.
        ("nvml-names", "qwen2.5-7b-awq", {}, "gpu", "gpu:nvidia_h100_80gb_hbm3_1g.10gb:1"),
        ("nvml-names", "qwen2.5-7b", {}, "gpu", "gpu:nvidia_h100_80gb_hbm3_3g.40gb:1"),
        # Of two kinds with as much memory, the first in Slurm's order of nodes: by name.
        ("nvml-names", "llama-3.1-70b", {}, "gpu", "gpu:nvidia_h100_80gb_hbm3:2"),
        (
            "nvml-names",
            "llama-3.1-70b",
            {"gpu_type": "nvidia_a100_80gb_pcie"},
            "gpu",
            "gpu:nvidia_a100_80gb_pcie:2",
        ),
        # AMD, by the same rules.
        ("amd", "qwen2.5-7b", {}, "rocm", "gpu:mi210:1"),
        ("amd", "llama-3.1-70b", {}, "big", "gpu:mi300x:1"),
        ("amd", "deepseek-v3", {}, "big", "gpu:mi300x:4"),
        # Partitions that are not for everybody.
        ("accounts-and-qos", "qwen2.5-7b", {}, "standard", "gpu:a100:1"),
        ("accounts-and-qos", "llama-3.1-70b", {"account": "bio"}, "priority", "gpu:a100:4"),
        # What only a drained node has comes last, even when it would need fewer GPUs.
        ("drained", "qwen3-30b-a3b", {}, "gpu", "gpu:a100:2"),
        # Preemptible GPUs for what nothing else holds.
        ("scavenger", "qwen2.5-7b", {}, "general", "gpu:rtx_a6000:1"),
        ("scavenger", "deepseek-v3", {}, "scavenge", "gpu:h200:8"),
        ("scavenger", "deepseek-v3", {"account": "lab7"}, "owner", "gpu:h200:8"),
        ("gh200", "llama-3.1-70b", {}, "normal", "gpu:gh200:2"),
        # A part of a GPU only for who may share one, and only where one is enough.
        ("shards", "qwen2.5-7b-awq", {}, "various", "gpu:a30:1"),
        ("shards", "qwen2.5-7b-awq", {"shared": True}, "shared", "shard:a100:2"),
        (
            "shards",
            "qwen2.5-7b-awq",
            {"shared": True, "partition": "various"},
            "various",
            "shard:l40s:1",
        ),
        ("shards", "qwen2.5-7b", {"shared": True, "partition": "shared"}, "shared", "shard:a100:4"),
        ("shards", "qwen2.5-7b", {"shared": True, "partition": "full"}, "full", "gpu:a100:1"),
        ("shards", "llama-3.1-70b", {"shared": True}, "full", "gpu:a100:4"),
        ("shards", "qwen2.5-7b", {"shared": True, "gpu_type": "l40s"}, "various", "shard:l40s:2"),
        # Slurm 22.05, without types: the memory of a shard is not known.
        ("untyped-shards", "qwen2.5-7b", {"shared": True}, "old", "shard:1"),
    ],
)
def test_where_it_goes(
    name: str, model: str, to: dict[str, Any], partition: str, gres: str
) -> None:
    given = Given(gpus="gpus" in to)
    placed, reasons = planned(name, model, given=given, **to)
    assert (placed.partition, placed.gres) == (partition, gres)
    assert reasons


@pytest.mark.parametrize(
    ("name", "model", "to", "says"),
    [
        ("cpu-only", "qwen2.5-7b", {}, "resources.gpus: 0 makes it a CPU job"),
        ("drained", "deepseek-v3", {}, "nothing here holds it (a100, h100)"),
        ("mig-mix", "llama-3.1-70b", {"partition": "mig"}, "nothing here holds it"),
        ("mig-mix", "llama-3.1-8b", {"gpus": 2, "mig": "1g.5gb"}, "does not cross MIG slices"),
        ("v100-and-a100", "qwen2.5-7b-awq", {"partition": "gpu-v100"}, "compute capability 7.5"),
        ("v100-and-a100", "qwen2.5-7b", {"walltime_s": 9 * HOUR}, "at most 08:00:00"),
        (
            "accounts-and-qos",
            "qwen2.5-7b",
            {"partition": "priority", "account": "x"},
            "allowed: hep, bio",
        ),
        (
            "accounts-and-qos",
            "qwen2.5-7b",
            {"partition": "standard", "qos": "gold"},
            "normal, long",
        ),
        ("gh200", "deepseek-v3", {}, "nothing here holds it (gh200)"),
    ],
)
def test_what_is_refused(name: str, model: str, to: dict[str, Any], says: str) -> None:
    given = Given(gpus="gpus" in to, mig="mig" in to)
    with pytest.raises((PlacementError, CannotFitError)) as refused:
        planned(name, model, given=given, **to)
    assert says in str(refused.value)


def test_a_split_that_cannot_be_is_named_with_those_that_can() -> None:
    with pytest.raises(CannotFitError, match=r"sizes that go: 1, 2, 4\)"):
        planned("v100-and-a100", "qwen2.5-7b", args={"tensor-parallel-size": 3})


def test_what_the_user_gives_is_not_changed() -> None:
    placed, reasons = planned(
        "nvml-names",
        "qwen2.5-7b",
        given=Given(gpus=True, gpu_memory=True),
        gpu_memory_mib=70 * 1024,
    )
    assert placed.gres == "gpu:nvidia_h100_80gb_hbm3:1"
    assert reasons[-1] == "not sized: resources.gpu_memory is given"
