"""What the virtual cluster's Slurm printed, by release (`python -m tests.cluster record`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from modeltainer.hpc.gres import Gres
from modeltainer.hpc.placement import PlacementError, place
from modeltainer.hpc.snapshot import Snapshot, parse_nodes, parse_partitions
from modeltainer.hpc.submit import refusal
from modeltainer.spec import Resources

FOLDERS = sorted((Path(__file__).parents[1] / "fixtures" / "slurm").iterdir())


def answer(folder: Path, name: str) -> str:
    """What the command printed, without the line that tells which it was."""
    return (folder / f"{name}.txt").read_text().partition("\n")[2]


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


@pytest.fixture
def snapshot(folder: Path) -> Snapshot:
    major, minor = folder.name.split(".")[:2]
    return Snapshot(
        nodes=parse_nodes(answer(folder, "scontrol_nodes_detail")),
        partitions=parse_partitions(answer(folder, "scontrol_partitions")),
        version=(int(major), int(minor)),
    )


def test_nodes_and_partitions(snapshot: Snapshot) -> None:
    assert [node.name for node in snapshot.nodes] == ["c1", "c2"]
    for node in snapshot.nodes:
        assert {(gres.type, gres.count) for gres in node.gres} == {
            ("a100", 2),
            ("a100_1g.10gb", 4),
            ("a100_3g.40gb", 1),
        }
    c1, _ = snapshot.nodes
    assert Gres("gpu", "a100", 0) in c1.gres_free  # another user's job has both
    limits = {partition.name: partition.max_time_s for partition in snapshot.partitions}
    assert limits["short"] == 600
    assert limits["gpu"] == 86400


def test_placement_on_what_was_recorded(snapshot: Snapshot) -> None:
    slice_ = place(snapshot, Resources(gpus=1, mig=True, gpu_memory_mib=8 * 1024, cpus=1))
    assert slice_.gres == "gpu:a100_1g.10gb:1"
    larger = place(snapshot, Resources(gpus=1, mig=True, gpu_memory_mib=20 * 1024, cpus=1))
    assert larger.gres == "gpu:a100_3g.40gb:1"
    with pytest.raises(PlacementError) as caught:
        place(snapshot, Resources(gpus=9, cpus=1))
    assert caught.value.code == "too-many-gpus"


def test_refusals_in_words(folder: Path) -> None:
    assert refusal(answer(folder, "sbatch_bad_partition")).code == "no-such-partition"
    for name in ("sbatch_bad_gres", "sbatch_too_big"):
        assert refusal(answer(folder, name)).code == "not-available"
