"""Shares of a GPU: how much of it a model gets, where the site has shards."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeltainer.hpc.gres import parse_gres
from modeltainer.hpc.options import srun_arguments
from modeltainer.hpc.placement import PlacementError, place
from modeltainer.hpc.shards import free_shards, smallest_share
from modeltainer.hpc.snapshot import Node, Partition, Snapshot
from modeltainer.spec import Placement, Resources
from tests.launch_spec import launch_spec

GIB = 1024


def node(name: str, gres: str, used: str = "") -> Node:
    return Node(
        name=name,
        state="IDLE",
        cpus_total=32,
        cpus_free=32,
        memory_mib=256 * GIB,
        memory_free_mib=256 * GIB,
        gres=parse_gres(gres),
        gres_used=parse_gres(used),
    )


def cluster(*nodes: Node) -> Snapshot:
    names = tuple(one.name for one in nodes)
    return Snapshot(nodes, (Partition("gpu", default=True, nodes=names),))


def share_of(gres: str, wanted_gib: int) -> tuple[str, int, int] | None:
    found = node("n", gres)
    share = smallest_share(found, found.gres[0], wanted_gib * GIB)
    return None if share is None else (share.option, share.of, share.memory_mib // GIB)


@pytest.mark.parametrize(
    ("gres", "wanted_gib", "share"),
    [
        ("gpu:a100:2,shard:8", 10, ("shard:1", 4, 10)),
        ("gpu:a100:2,shard:8", 11, ("shard:2", 4, 20)),
        ("gpu:a100:2,shard:8", 40, ("shard:4", 4, 40)),
        ("gpu:a100:2,shard:8", 41, None),
        ("gpu:a100:2", 10, None),
        ("gpu:a100:2,shard:0", 10, None),
        ("gpu:2,shard:8", 10, None),  # of which size?
        ("gpu:a100:2,gpu:t4:2,shard:8", 10, None),  # whose?
        ("gpu:a100:2,gpu:t4:2,shard:a100:80,shard:t4:8", 10, ("shard:a100:10", 40, 10)),
        ("gpu:a100:2(S:0-1),shard:a100:80(S:0-1)", 10, ("shard:a100:10", 40, 10)),
        ("gpu:a100_1g.10gb:4,shard:8", 2, None),  # a slice is not divided again
        # As Slurm 26.05 and 22.05 show it for gres.conf's Name=shard Count=4 File=/dev/nvidia0.
        (
            "gpu:a100:2,gpu:a100_1g.10gb:4,shard:a100:8,shard:a100_1g.10gb:0",
            15,
            ("shard:a100:2", 4, 20),
        ),
    ],
)
def test_the_smallest_share_that_holds_it(
    gres: str, wanted_gib: int, share: tuple[str, int, int] | None
) -> None:
    assert share_of(gres, wanted_gib) == share


@given(st.integers(1, 8), st.integers(1, 100), st.integers(0, 60 * GIB))
def test_a_share_is_large_enough_and_no_larger(gpus: int, each: int, wanted_mib: int) -> None:
    found = node("n", f"gpu:a100:{gpus},shard:{gpus * each}")
    share = smallest_share(found, found.gres[0], wanted_mib)
    if share is None:
        assert wanted_mib > 40 * GIB
        return
    assert 0 < share.fraction <= 1
    assert share.shards * 40 * GIB >= wanted_mib * each
    assert share.shards == 1 or (share.shards - 1) * 40 * GIB < wanted_mib * each


def test_what_is_used_is_read_in_both_releases_ways() -> None:
    total = "gpu:a100:2,shard:a100:8"
    assert free_shards(node("n", total, "gpu:a100:0(IDX:N/A),shard:a100:5(2/4,3/4)")) == 3
    assert free_shards(node("n", total, "shard:a100:2(IDX:0-1)")) == 6


WANTED = Resources(gpus=1, gpu_memory_mib=8 * GIB, shared=True)


def test_a_share_is_taken_before_a_whole_gpu_and_told() -> None:
    found = place(cluster(node("a", "gpu:a10:1"), node("b", "gpu:a100:2,shard:8")), WANTED)
    assert (found.gres, found.share) == ("shard:1", 0.25)
    assert any(
        "1 of 4 shards of a GPU a100 (10 GiB of 40 GiB)" in reason for reason in found.reasons
    )


@pytest.mark.parametrize(
    "wanted",
    [Resources(gpus=1, gpu_memory_mib=8 * GIB), Resources(gpus=2, gpu_memory_mib=8 * GIB)],
)
def test_who_did_not_ask_for_it_shares_with_nobody(wanted: Resources) -> None:
    found = place(cluster(node("b", "gpu:a100:2,shard:8")), wanted)
    assert (found.gres, found.share) == (f"gpu:a100:{wanted.gpus}", None)


def test_without_shards_it_is_a_whole_gpu_and_told() -> None:
    found = place(cluster(node("a", "gpu:a10:1")), WANTED)
    assert (found.gres, found.share) == ("gpu:a10:1", None)
    assert any("not shared" in reason for reason in found.reasons)


def test_a_share_that_is_free_wins_over_one_that_is_not() -> None:
    full = node("a", "gpu:a100:2,shard:8", "shard:8")
    found = place(cluster(full, node("b", "gpu:a100:2,shard:8", "shard:3")), WANTED)
    assert "free now on b" in found.reasons


@pytest.mark.parametrize("gres", ["shard:2", "shard:a100:2"])
def test_a_jobs_step_asks_without_the_type(gres: str) -> None:
    spec = launch_spec(resources=WANTED, placement=Placement("gpu", gres, 600, share=0.5))
    assert "--gres=shard:2" in srun_arguments(spec)
    whole = launch_spec(placement=Placement("gpu", "gpu:a100:1", 600))
    assert not any(one.startswith("--gres") for one in srun_arguments(whole))


def test_more_than_a_gpu_has_is_refused_as_ever() -> None:
    with pytest.raises(PlacementError, match="the largest here has 40 GiB"):
        place(
            cluster(node("b", "gpu:a100:2,shard:8")),
            Resources(gpus=1, gpu_memory_mib=50 * GIB, shared=True),
        )
