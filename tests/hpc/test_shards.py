"""GPUs that are divided into shards, as nodes show them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeltainer.hpc.gres import Gres, parse_gres
from modeltainer.hpc.shards import shared_gpus, without_shared

VIRTUAL = "gpu:a100:2,gpu:a100_1g.10gb:4,shard:a100:8,shard:a100_1g.10gb:0"


@pytest.mark.parametrize(
    ("gres", "used", "found"),
    [
        # As Slurm 26.05 prints them; slices have none.
        (VIRTUAL, "shard:a100:0(0/4,0/4),shard:a100_1g.10gb:0(0/0,0/0)", [("a100", 4, 4)]),
        (VIRTUAL, "shard:a100:5(3/4,2/4)", [("a100", 4, 2)]),
        (VIRTUAL, "gpu:a100:1(IDX:0),shard:a100:3(-/4,3/4)", [("a100", 4, 1)]),
        (VIRTUAL, "gpu:a100:2(IDX:0-1),shard:a100:0(-/4,-/4)", [("a100", 4, 0)]),
        # Only the first of two GPUs is divided.
        ("gpu:a100:2,shard:a100:4", "shard:a100:1(1/4,0/0)", [("a100", 4, 3)]),
        # 22.05 tells of which GPUs shards are in use, accounting how many: only a GPU that is idle
        # for certain has free ones. A node that has not registered tells its total.
        ("gpu:a100:2,shard:a100:8", "gpu:a100:0(IDX:N/A),shard:a100:1(IDX:1)", [("a100", 4, 4)]),
        ("gpu:a100:2,shard:a100:8", "gpu:a100:1(IDX:0),shard:a100:1(IDX:1)", [("a100", 4, 0)]),
        ("gpu:a100:2,shard:a100:8", "gpu:a100:0(IDX:N/A),shard:a100:0(IDX:N/A)", [("a100", 4, 4)]),
        ("gpu:a100:2,shard:8", "", [("a100", 4, 4)]),
        ("gpu:4,shard:16", "gres/gpu=1,gres/shard=2", [(None, 4, 4)]),
        ("gpu:4,shard:16", "gres/gpu=1,gres/shard=14", [(None, 4, 0)]),
        (
            "gpu:gp100:2(S:0),gpu:p6000:2(S:1),shard:32(S:0-1)",
            "",
            [("gp100", 8, 8), ("p6000", 8, 8)],
        ),
        ("gpu:4,shard:2", "", [(None, 1, 1)]),
        ("gpu:a100:2,gpu:l4:2,shard:a100:8,shard:l4:4", "", [("a100", 4, 4), ("l4", 2, 2)]),
        ("gpu:a100:2", "", []),
        ("shard:8", "", []),
        ("gpu:a100:2,mps:200", "", []),
    ],
)
def test_how_nodes_divide_gpus(
    gres: str, used: str, found: list[tuple[str | None, int, int]]
) -> None:
    kinds = shared_gpus(parse_gres(gres), parse_gres(used))
    assert [(one.gpu.type, one.per_gpu, one.free) for one in kinds] == found


@given(st.integers(1, 128), st.integers(1, 200 * 1024), st.sampled_from(["a100", "l4", "h200"]))
def test_shards_hold_what_is_asked_for_and_no_fewer_would(
    per_gpu: int, memory_mib: int, type_: str
) -> None:
    (kind,) = shared_gpus(parse_gres(f"gpu:{type_}:1,shard:{type_}:{per_gpu}"), ())
    whole = kind.gpu.memory_mib
    assert whole is not None
    shards = kind.shards_for(memory_mib)
    if shards is None:
        assert memory_mib > whole * (per_gpu - 1) / per_gpu
    else:
        assert 1 <= shards < per_gpu
        assert shards * whole >= memory_mib * per_gpu
        assert shards == 1 or (shards - 1) * whole < memory_mib * per_gpu


@given(
    st.integers(0, 8),
    st.lists(st.tuples(st.none() | st.integers(0, 4), st.just(4)), max_size=8),
)
def test_whole_gpus_that_are_free_are_never_overstated(
    left: int, parts: list[tuple[int | None, int]]
) -> None:
    used = Gres("shard", "a100", sum(busy or 0 for busy, _ in parts), parts=tuple(parts))
    (gpu,) = without_shared([Gres("gpu", "a100", left)], [used])
    assert gpu.count == max(0, left - sum(1 for busy, _ in parts if busy))
    (rough,) = without_shared([Gres("gpu", "a100", left)], [replace(used, parts=())])
    assert rough.count <= gpu.count
