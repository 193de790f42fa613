"""Where launches go on clusters of different make, and what is said when they cannot."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeltainer.hpc.gres import Gres, parse_gres
from modeltainer.hpc.placement import PlacementError, place
from modeltainer.hpc.snapshot import Node, Partition, Snapshot
from modeltainer.spec import Placement, Resources, Share

GIB = 1024
HOUR = 3600


def node(
    name: str, gres: str = "", used: str = "", *, cpus_free: int = 32, state: str = "IDLE"
) -> Node:
    return Node(
        name=name,
        state=state,
        cpus_total=32,
        cpus_free=cpus_free,
        memory_mib=256 * GIB,
        memory_free_mib=256 * GIB,
        gres=parse_gres(gres),
        gres_used=parse_gres(used),
        features=("ib", "icelake"),
    )


TYPED = Snapshot(
    nodes=(
        node("big1", "gpu:h100:4"),
        node("mid1", "gpu:a100:4,gpu:a100_1g.10gb:7", "gpu:a100:4(IDX:0-3)"),
        node("mid2", "gpu:a100:2,gpu:nvidia_a100_3g.20gb:2"),
        node("old1", "gpu:t4:2"),
        node("c1"),
    ),
    partitions=(
        Partition("cpu", default=True, max_time_s=7 * 24 * HOUR, nodes=("c1",)),
        Partition("gpu", max_time_s=24 * HOUR, nodes=("mid1", "mid2", "old1")),
        Partition("h100", max_time_s=12 * HOUR, nodes=("big1",)),
        Partition("spare", max_time_s=4 * HOUR, nodes=("mid1", "mid2", "c1"), preemptible=True),
        Partition("broken", nodes=("mid2",), up=False, state="DOWN"),
        Partition("vip", nodes=("big1",), allow_accounts=("rich",)),
    ),
)
UNTYPED = Snapshot(
    nodes=(node("n1", "gpu:2"), node("n2", "gpu:2", "gpu:2(IDX:0-1)")),
    partitions=(Partition("main", default=True, nodes=("n1", "n2")),),
)
WHOLE_ONLY = Snapshot(
    nodes=(node("n1", "gpu:a100:2"), node("n2", "gpu:v100:2")),
    partitions=(Partition("main", default=True, nodes=("n1", "n2")),),
)


SHARED = Snapshot(
    nodes=(
        node("s1", "gpu:a100:2,shard:a100:8", "gpu:a100:0(IDX:N/A),shard:a100:5(3/4,2/4)"),
        node("s2", "gpu:l4:2,shard:l4:4", "gpu:l4:1(IDX:0),shard:l4:0(-/2,0/2)"),
        node("m1", "gpu:a100_1g.5gb:7"),
        node("w1", "gpu:a100:4"),
        node("u1", "gpu:2,shard:8"),
    ),
    partitions=(
        Partition("a100", default=True, nodes=("s1",)),
        Partition("mixed", nodes=("s1", "s2")),
        Partition("slices", nodes=("s2", "m1")),
        Partition("whole", nodes=("w1",)),
        Partition("untyped", nodes=("u1",)),
    ),
)
"""GPUs divided into shards: four of an A100 with 40 GB, two of an L4 with 24."""


@pytest.mark.parametrize(
    ("snapshot", "wanted", "partition", "gres"),
    [
        # A CPU job goes to the default partition, and leaves GPU nodes alone.
        (TYPED, Resources(), "cpu", None),
        # The smallest whole GPU that holds it; a slice only when allowed.
        (TYPED, Resources(gpus=1, gpu_memory_mib=15 * GIB), "gpu", "gpu:t4:1"),
        (TYPED, Resources(gpus=1, gpu_memory_mib=30 * GIB), "gpu", "gpu:a100:1"),
        (TYPED, Resources(gpus=1, gpu_memory_mib=60 * GIB), "h100", "gpu:h100:1"),
        (TYPED, Resources(gpus=1, gpu_memory_mib=9 * GIB, mig=True), "gpu", "gpu:a100_1g.10gb:1"),
        (
            TYPED,
            Resources(gpus=1, gpu_memory_mib=18 * GIB, mig=True),
            "gpu",
            "gpu:nvidia_a100_3g.20gb:1",
        ),
        (TYPED, Resources(gpus=1, gpu_memory_mib=9 * GIB, mig=False), "gpu", "gpu:t4:1"),
        # A profile in whatever spelling.
        (TYPED, Resources(gpus=1, mig="3g.20gb"), "gpu", "gpu:nvidia_a100_3g.20gb:1"),
        (TYPED, Resources(gpus=2, mig="1g.10gb"), "gpu", "gpu:a100_1g.10gb:2"),
        # Several GPUs for one model are never slices unless demanded.
        (TYPED, Resources(gpus=2, gpu_memory_mib=9 * GIB, mig=True), "gpu", "gpu:t4:2"),
        (TYPED, Resources(gpus=4, gpu_memory_mib=30 * GIB, mig=True), "gpu", "gpu:a100:4"),
        # A named type, slice or not, in any case.
        (TYPED, Resources(gpus=1, gpu_type="A100"), "gpu", "gpu:a100:1"),
        (TYPED, Resources(gpus=1, gpu_type="a100_1g.10gb"), "gpu", "gpu:a100_1g.10gb:1"),
        (TYPED, Resources(gpus=1, gpu_type="a100", gpu_memory_mib=70 * GIB), "gpu", "gpu:a100:1"),
        # A wished partition, and the best of several.
        (TYPED, Resources(gpus=1, partition="h100"), "h100", "gpu:1"),
        (TYPED, Resources(gpus=1, partition="gpu,h100", gpu_type="h100"), "h100", "gpu:h100:1"),
        (TYPED, Resources(gpus=1, gpu_type="h100", walltime_s=20 * HOUR), "vip", "gpu:h100:1"),
        # Sites without types, and sites without slices: the count alone.
        (UNTYPED, Resources(gpus=2), "main", "gpu:2"),
        (UNTYPED, Resources(gpus=1, mig=True), "main", "gpu:1"),
        (UNTYPED, Resources(gpus=1, gpu_memory_mib=30 * GIB), "main", "gpu:1"),
        (WHOLE_ONLY, Resources(gpus=2), "main", "gpu:2"),
        (WHOLE_ONLY, Resources(gpus=1, gpu_memory_mib=20 * GIB), "main", "gpu:a100:1"),
    ],
)
def test_choices(snapshot: Snapshot, wanted: Resources, partition: str, gres: str | None) -> None:
    placed = place(snapshot, wanted)
    assert (placed.partition, placed.gres) == (partition, gres)
    assert placed.walltime_s == wanted.walltime_s
    assert placed.reasons


@pytest.mark.parametrize(
    ("wanted", "gres", "part", "says"),
    [
        # The fewest shards of one GPU that hold it; one where no memory is asked for.
        (
            {"gpu_memory_mib": 9 * GIB},
            "shard:a100:1",
            1 / 4,
            "1 of 4 shards of a GPU a100 (10 GiB)",
        ),
        (
            {"gpu_memory_mib": 11 * GIB, "partition": "a100"},
            "shard:a100:2",
            1 / 2,
            "the fewest that hold 11 GiB",
        ),
        ({}, "shard:a100:1", 1 / 4, "no memory was asked for"),
        ({"gpu_type": "A100", "gpu_memory_mib": 29 * GIB}, "shard:a100:3", 3 / 4, "30 GiB"),
        # What takes all of a GPU is not shared; neither is what no part can be measured for.
        ({"gpu_memory_mib": 31 * GIB, "partition": "a100"}, "gpu:a100:1", None, "only a whole one"),
        ({"gpu_memory_mib": 1, "partition": "untyped"}, "gpu:1", None, "memory is not known"),
        ({"partition": "untyped"}, "shard:1", 1 / 4, "of a GPU (no type)"),
        # Several kinds in one partition.
        ({"gpu_memory_mib": 11 * GIB, "partition": "mixed"}, "shard:l4:1", 1 / 2, "12 GiB"),
        ({"gpu_memory_mib": 13 * GIB, "partition": "mixed"}, "shard:a100:2", 1 / 2, "20 GiB"),
        # A slice where it is smaller and allowed.
        ({"gpu_memory_mib": 4 * GIB, "partition": "slices"}, "shard:l4:1", 1 / 2, "l4"),
        (
            {"gpu_memory_mib": 4 * GIB, "partition": "slices", "mig": True},
            "gpu:a100_1g.5gb:1",
            None,
            "this slice is smaller",
        ),
        # No shards there: a whole GPU, and it is said.
        ({"gpu_memory_mib": 9 * GIB, "partition": "whole"}, "gpu:a100:1", None, "into shards"),
    ],
)
def test_shared_gpus(wanted: dict[str, Any], gres: str, part: float | None, says: str) -> None:
    placed = place(SHARED, Resources(gpus=1, shared=True, **wanted))
    assert placed.gres == gres
    assert (placed.share and placed.share.part) == part
    assert any(says in reason for reason in placed.reasons), placed.reasons
    not_asked = place(SHARED, Resources(gpus=1, **wanted))
    assert not_asked.share is None
    assert "shard" not in str(not_asked.gres)


def test_several_gpus_are_never_shared() -> None:
    placed = place(SHARED, Resources(gpus=2, shared=True))
    assert (placed.gres, placed.share) == ("gpu:2", None)


def test_a_type_divided_in_two_ways_counts_by_the_finer() -> None:
    """``shard:a100:N`` may land on either node, so the part must hold on both."""
    coarse, fine = node("n1", "gpu:a100:1,shard:a100:2"), node("n2", "gpu:a100:1,shard:a100:4")
    snapshot = Snapshot((coarse, fine), (Partition("p", default=True, nodes=("n1", "n2")),))
    placed = place(snapshot, Resources(gpus=1, shared=True, gpu_memory_mib=15 * GIB))
    assert (placed.gres, placed.share) == ("shard:a100:2", Share(1 / 2, "a100"))
    wide = place(snapshot, Resources(gpus=1, shared=True, gpu_memory_mib=25 * GIB))
    assert (wide.gres, wide.share) == ("shard:a100:3", Share(3 / 4, "a100"))
    assert any("free now on n2" in reason for reason in wide.reasons)


def test_shards_are_free_where_one_gpu_has_them() -> None:
    """Three are free on s1, but no GPU there has more than two of them."""
    wanted = Resources(gpus=1, shared=True, partition="a100", gpu_memory_mib=15 * GIB)
    assert any("free now on s1" in reason for reason in place(SHARED, wanted).reasons)
    more = replace(wanted, gpu_memory_mib=25 * GIB)
    assert any("has to wait" in reason for reason in place(SHARED, more).reasons)


def test_a_gpu_with_a_shard_in_use_is_not_free_as_a_whole() -> None:
    """Slurm shows none of s1's GPUs as used (``gpu:a100:0(IDX:N/A)``), and gives none away."""
    wanted = Resources(gpus=1, partition="a100")
    assert any("has to wait" in reason for reason in place(SHARED, wanted).reasons)


def test_several_nodes_are_of_one_kind() -> None:
    """A replica on several nodes has the same GPU on each, named where there is a choice."""
    assert place(UNTYPED, Resources(gpus=2, nodes=2)).gres == "gpu:2"
    with pytest.raises(PlacementError, match="has 1 that would do with"):
        place(WHOLE_ONLY, Resources(gpus=2, nodes=2))
    pair = Snapshot(
        (*WHOLE_ONLY.nodes, node("n3", "gpu:v100:2")),
        (Partition("main", default=True, nodes=("n1", "n2", "n3")),),
    )
    placed = place(pair, Resources(gpus=2, nodes=2))
    assert placed.gres == "gpu:v100:2"
    assert "free now on n2, n3" in placed.reasons


def test_slices_are_not_taken_by_an_untyped_request() -> None:
    """``gpu:1`` where slices are could land on one."""
    assert place(TYPED, Resources(gpus=1, partition="gpu")).gres in {"gpu:a100:1", "gpu:t4:1"}


@pytest.mark.parametrize(
    ("wanted", "code", "says"),
    [
        (Resources(partition="gpus"), "no-such-partition", "did you mean 'gpu'? partitions: cpu"),
        (Resources(partition="broken"), "partition-down", "down"),
        (Resources(gpus=1, partition="cpu"), "no-gpus", "partitions with GPUs: gpu, h100"),
        (Resources(gpus=8, gpu_type="h100"), "too-many-gpus", "the largest node has 4 h100 (big1)"),
        (Resources(gpus=9), "too-many-gpus", "the largest node has 4"),
        (Resources(gpus=1, gpu_type="a1000"), "no-such-gpu-type", "did you mean 'a100'?"),
        (Resources(gpus=1, mig="1g.5gb"), "no-such-mig-profile", "profiles: 1g.10gb, 3g.20gb"),
        (Resources(gpus=1, mig="2g.20gb", partition="h100"), "no-such-mig-profile", "types: h100"),
        (Resources(gpus=1, gpu_memory_mib=200 * GIB), "gpu-too-small", "200 GiB per GPU"),
        (
            Resources(gpus=1, gpu_type="a100_1g.10gb", gpu_memory_mib=20 * GIB),
            "gpu-too-small",
            "10 GiB",
        ),
        (Resources(cpus=64), "not-enough-cpus", "has 32"),
        (Resources(memory_mib=512 * GIB), "not-enough-memory", "256 GiB"),
        (Resources(constraint="sapphire"), "no-such-feature", "ib, icelake"),
        (Resources(nodelist="nowhere"), "no-such-node", "nowhere"),
        (Resources(nodelist="mid[1-2]"), "too-many-nodes", "mid[1-2] are 2 nodes"),
        (Resources(nodes=2, nodelist="mid1"), "too-many-nodes", "has 1 that would do"),
        (
            Resources(gpus=1, gpu_type="h100", nodes=2),
            "too-many-nodes",
            "2 nodes are asked for; partition h100 has 1 that would do with h100",
        ),
        (
            Resources(gpus=1, partition="gpu", walltime_s=25 * HOUR),
            "walltime-too-long",
            "partition gpu allows at most 1-00:00:00",
        ),
        (Resources(partition="vip", account="poor"), "account-not-allowed", "allowed: rich"),
    ],
)
def test_refusals(wanted: Resources, code: str, says: str) -> None:
    with pytest.raises(PlacementError) as refused:
        place(TYPED, wanted)
    assert refused.value.code == code
    assert says in str(refused.value)


def test_slices_only_without_leave() -> None:
    snapshot = Snapshot((node("n1", "gpu:1g.10gb:7"),), (Partition("main", nodes=("n1",)),))
    with pytest.raises(PlacementError, match="only MIG slices"):
        place(snapshot, Resources(gpus=1))
    with pytest.raises(PlacementError, match="several slices cannot"):
        place(snapshot, Resources(gpus=2, mig=True))


def test_the_sites_order_comes_first_and_the_rest_is_the_fall_back() -> None:
    wanted = Resources(gpus=1, gpu_memory_mib=20 * GIB)
    assert place(TYPED, wanted, partitions_preferred=("h100",)).partition == "h100"
    assert place(TYPED, wanted, partitions_preferred=("gone", "spare", "gpu")).partition == "spare"
    fallen = place(TYPED, Resources(gpus=1, gpu_type="t4"), partitions_preferred=("h100",))
    assert fallen.partition == "gpu"
    assert "none of the site's preferred ones fits" in fallen.reasons[0]


def test_what_is_free_now_goes_before_the_order() -> None:
    busy, idle = node("a1", "gpu:a100:2", "gpu:a100:2(IDX:0-1)"), node("b1", "gpu:a100:2")
    snapshot = Snapshot(
        (busy, idle), (Partition("a", nodes=("a1",)), Partition("b", nodes=("b1",)))
    )
    placed = place(snapshot, Resources(gpus=1, gpu_memory_mib=1), partitions_preferred=("a", "b"))
    assert placed.partition == "b"
    assert any("free now on b1" in reason for reason in placed.reasons)


def test_nodes_that_are_down_are_the_last_choice_and_it_is_said() -> None:
    down, busy = node("a1", "gpu:a100:2", state="DOWN*"), node("b1", "gpu:a100:2", cpus_free=0)
    partitions = (Partition("a", default=True, nodes=("a1",)), Partition("b", nodes=("b1",)))
    assert place(Snapshot((down, busy), partitions), Resources(gpus=1)).partition == "b"
    only = place(Snapshot((down,), partitions[:1]), Resources(gpus=1))
    assert any("down or drained" in reason for reason in only.reasons)


def test_several_slices_come_with_a_warning() -> None:
    placed = place(TYPED, Resources(gpus=2, mig="1g.10gb"))
    assert any("does not cross MIG slices" in reason for reason in placed.reasons)


GRES_TYPES = st.sampled_from([None, "a100", "h100", "t4", "a100_1g.10gb", "1g.5gb", "odd"])
NODES = st.lists(
    st.tuples(st.lists(st.tuples(GRES_TYPES, st.integers(1, 8)), max_size=3), st.integers(1, 64)),
    min_size=1,
    max_size=4,
)


@given(
    NODES,
    st.lists(st.tuples(st.booleans(), st.none() | st.integers(1, 100), st.booleans()), max_size=3),
    st.builds(
        Resources,
        gpus=st.integers(0, 9),
        gpu_memory_mib=st.none() | st.integers(1, 100 * GIB),
        gpu_type=GRES_TYPES,
        mig=st.sampled_from([True, False, "1g.10gb"]),
        cpus=st.integers(1, 80),
        walltime_s=st.integers(60, 100 * HOUR),
        partition=st.sampled_from([None, "p0", "p1", "nope"]),
    ),
)
def test_a_placement_always_fits_a_node(
    nodes: list[tuple[list[tuple[str | None, int]], int]],
    partitions: list[tuple[bool, int | None, bool]],
    wanted: Resources,
) -> None:
    made = tuple(
        Node(
            name=f"n{at}",
            state="IDLE",
            cpus_total=cpus,
            cpus_free=cpus,
            memory_mib=GIB,
            memory_free_mib=GIB,
            gres=tuple({kind: Gres("gpu", kind, count) for kind, count in gres}.values()),
        )
        for at, (gres, cpus) in enumerate(nodes)
    )
    snapshot = Snapshot(
        made,
        tuple(
            Partition(
                f"p{at}",
                up=up,
                max_time_s=None if hours is None else hours * HOUR,
                nodes=tuple(one.name for one in (made if every else made[:1])),
            )
            for at, (up, hours, every) in enumerate(partitions)
        ),
    )
    try:
        placed: Placement = place(snapshot, wanted)
    except PlacementError:
        return
    partition = snapshot.partition(placed.partition or "")
    assert partition is not None
    assert partition.up
    assert wanted.partition in {None, partition.name}
    assert partition.max_time_s is None or placed.walltime_s <= partition.max_time_s
    there = [one for one in snapshot.nodes_of(partition) if one.cpus_total >= wanted.cpus]
    assert there
    if not wanted.gpus:
        assert placed.gres is None
        return
    (asked,) = parse_gres(placed.gres)
    assert asked.count == wanted.gpus
    assert any(
        one.count >= asked.count and one.type == asked.type
        for fit in there
        for one in fit.gres
        if asked.type is not None
    ) or (asked.type is None and any(one.count >= asked.count for fit in there for one in fit.gres))
    if wanted.gpu_type is None and not wanted.mig:
        assert not asked.is_mig
    if isinstance(wanted.mig, str):
        assert asked.profile == wanted.mig
