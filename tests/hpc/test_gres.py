"""GRES in the sites' spellings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeltainer.hpc.gres import Gres, free, mig_profile, parse_gres, type_memory_mib

GIB = 1024


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpu:4", [("gpu", None, 4)]),
        ("gpu", [("gpu", None, 1)]),
        ("gpu:a100:4", [("gpu", "a100", 4)]),
        ("gpu:a100:4(S:0-1)", [("gpu", "a100", 4)]),
        ("gpu:a100_1g.10gb:4(IDX:0-3)", [("gpu", "a100_1g.10gb", 4)]),
        (
            "gpu:a100:2(IDX:0,3),gpu:a100_3g.20gb:1(IDX:4)",
            [("gpu", "a100", 2), ("gpu", "a100_3g.20gb", 1)],
        ),
        ("gpu:a100_1g.10gb:0(IDX:N/A)", [("gpu", "a100_1g.10gb", 0)]),
        ("gpu:1g.10gb:7", [("gpu", "1g.10gb", 7)]),
        ("gpu:mig-1g.10gb", [("gpu", "mig-1g.10gb", 1)]),
        ("gpu:a100:2(S:0),gpu:a100:2(S:1)", [("gpu", "a100", 4)]),
        ("(null)", []),
        ("", []),
        ("N/A", []),
        ("gres/gpu:a100=4", [("gpu", "a100", 4)]),
        ("gres/gpu=2", [("gpu", None, 2)]),
        ("gres:gpu:a100:1", [("gpu", "a100", 1)]),
        ("cpu=8,mem=62.50G,billing=8,gres/gpu=4,gres/gpu:a100=4", [("gpu", "a100", 4)]),
        (
            "gpu:a100:2,shard:8,mps:2K",
            [("gpu", "a100", 2), ("shard", None, 8), ("mps", None, 2048)],
        ),
        ("gpu:4,shard:a100:8(S:0-1)", [("gpu", None, 4), ("shard", "a100", 8)]),
        ("shard:a100:3(2/8,1/8)", [("shard", "a100", 3)]),
        ("gres/gpu=2,gres/shard=3", [("gpu", None, 2), ("shard", None, 3)]),
        ("craynetwork:4,gpu:p100:1", [("craynetwork", None, 4), ("gpu", "p100", 1)]),
    ],
)
def test_spellings(text: str, expected: list[tuple[str, str | None, int]]) -> None:
    assert [(one.name, one.type, one.count) for one in parse_gres(text)] == expected


def test_no_consume_is_kept() -> None:
    assert parse_gres("gpu:a100:no_consume:4") == (Gres("gpu", "a100", 4, consumable=False),)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("shard:a100:3(2/8,1/8)", ((2, 8), (1, 8))),
        ("shard:a100:3(-/4,3/4)", ((None, 4), (3, 4))),
        ("shard:a100_1g.10gb:0(0/0,0/0)", ((0, 0), (0, 0))),
        ("shard:2(2/4),shard:1(1/4)", ((2, 4), (1, 4))),
        ("shard:8", ()),
        ("shard:a100:8(S:0-1)", ()),
        ("gpu:a100:2(IDX:0-1)", ()),
        ("shard:3(2/,x/8)", ()),
    ],
)
def test_parts_of_each_gpu(text: str, parts: tuple[tuple[int | None, int], ...]) -> None:
    assert parse_gres(text)[0].parts == parts


@pytest.mark.parametrize(
    ("type_", "profile", "gib"),
    [
        ("a100_1g.10gb", "1g.10gb", 10),
        ("nvidia_a100_1g.10gb", "1g.10gb", 10),
        ("nvidia_a100_80gb_pcie_3g.40gb", "3g.40gb", 40),
        ("nvidia_h100_80gb_hbm3_1g.20gb", "1g.20gb", 20),
        ("1g.5gb", "1g.5gb", 5),
        ("a100-mig-1g.10gb", "1g.10gb", 10),
        ("mig-1g.10gb", "1g.10gb", 10),
        ("a100_1g_10gb", "1g.10gb", 10),
        ("A100_1G.10GB", "1g.10gb", 10),
        ("nvidia_a100_1g.10gb+me", "1g.10gb+me", 10),
        ("nvidia_a100_1g.10gb.me", "1g.10gb+me", 10),
        ("h100_7g.80gb", "7g.80gb", 80),
        ("a100", None, 40),
        ("nvidia_a100-sxm4-80gb", None, 80),
        ("a100_80gb", None, 80),
        ("a100-40", None, 40),
        ("tesla_v100-sxm2-32gb", None, 32),
        ("v100", None, 16),
        ("t4", None, 16),
        ("tesla_t4", None, 16),
        ("a10", None, 24),
        ("a30", None, 24),
        ("a40", None, 48),
        ("l4", None, 24),
        ("l40s", None, 48),
        ("nvidia_h100_80gb_hbm3", None, 80),
        ("h100_nvl", None, 94),
        ("h200", None, 141),
        ("b200", None, 180),
        ("gh200", None, 96),
        ("nvidia_rtx_a6000", None, 48),
        ("rtx_6000_ada", None, 48),
        ("quadro_rtx_6000", None, 24),
        ("nvidia_geforce_rtx_2080_ti", None, 11),
        ("rtx4090", None, 24),
        ("mi210", None, 64),
        ("mi250x", None, 64),
        ("mi300x", None, 192),
        ("gpu0", None, None),
        (None, None, None),
    ],
)
def test_profile_and_memory(type_: str | None, profile: str | None, gib: int | None) -> None:
    assert mig_profile(type_) == profile
    assert type_memory_mib(type_) == (None if gib is None else gib * GIB)
    assert Gres("gpu", type_, 1).is_mig == (profile is not None)


NAMES = st.sampled_from(["gpu", "shard", "mps", "fpga"])
TYPES = st.none() | st.from_regex(r"[a-z][a-z0-9_.-]{0,20}[a-z]", fullmatch=True).filter(
    lambda text: text not in {"no_consume", "null"}
)
SUFFIXES = st.sampled_from(
    ["", "(S:0-1)", "(IDX:0-3)", "(IDX:0,2)", "(IDX:N/A)", "(CNT:2)", "(2/8,-/8)"]
)


@given(st.lists(st.tuples(NAMES, TYPES, st.integers(0, 10_000), SUFFIXES), max_size=6))
def test_lists_add_up(entries: list[tuple[str, str | None, int, str]]) -> None:
    text = ",".join(
        ":".join(part for part in (name, type_, str(count)) if part) + suffix
        for name, type_, count, suffix in entries
    )
    expected: dict[tuple[str, str | None], int] = {}
    for name, type_, count, _ in entries:
        expected[name, type_] = expected.get((name, type_), 0) + count
    assert {(one.name, one.type): one.count for one in parse_gres(text)} == expected


@given(st.text(alphabet="gpu:a10_.=(),/-MIGKIDXS 0123456789", max_size=60) | st.text(max_size=40))
def test_anything_is_read_without_error(text: str) -> None:
    for one in parse_gres(text):
        assert one.count >= 0
        assert one.memory_mib is None or one.memory_mib >= 0


@given(
    st.dictionaries(TYPES, st.integers(0, 8), max_size=4),
    st.dictionaries(TYPES, st.integers(0, 8), max_size=4),
)
def test_free_is_never_overstated(
    total: dict[str | None, int], used: dict[str | None, int]
) -> None:
    has = [Gres("gpu", type_, count) for type_, count in total.items()]
    left = free(has, [Gres("gpu", type_, count) for type_, count in used.items()])
    assert all(0 <= one.count <= total[one.type] for one in left)
    assert all(one.count <= max(0, total[one.type] - used.get(one.type, 0)) for one in left)
