"""What scontrol says of nodes and partitions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeltainer.hpc.gres import Gres
from modeltainer.hpc.hostlist import expand
from modeltainer.hpc.snapshot import (
    Node,
    parse_nodes,
    parse_partitions,
    parse_record,
    parse_time_s,
)
from tests.hpc.recordings import VERSIONS, recorded


@pytest.mark.parametrize("version", VERSIONS)
def test_real_nodes(version: str) -> None:
    c1, c2 = parse_nodes(recorded(version, "nodes"))
    assert c1 == Node(
        name="c1",
        state="MIXED",
        cpus_total=8,
        cpus_free=7,
        memory_mib=32000,
        memory_free_mib=31900,
        gres=(Gres("gpu", "a100", 2), Gres("gpu", "a100_1g.10gb", 3)),
        gres_used=(Gres("gpu", "a100", 1), Gres("gpu", "a100_1g.10gb", 0)),
        features=("a100", "ib"),
        partitions=("main", "closed", "vip"),
    )
    assert c1.usable
    assert c1.gres_free == (Gres("gpu", "a100", 1), Gres("gpu", "a100_1g.10gb", 3))
    assert not c2.usable, "it drains, and its free-text reason must not say otherwise"
    assert c2.gres == (Gres("gpu", "a100_1g.10gb", 2),)
    assert c2.gres_free == (Gres("gpu", "a100_1g.10gb", 0),)


@pytest.mark.parametrize("version", VERSIONS)
def test_real_partitions(version: str) -> None:
    main, short, closed, vip = parse_partitions(recorded(version, "partitions"))
    assert (main.default, main.max_time_s, main.default_time_s) == (True, 86400, 3600)
    assert main.nodes == ("c1", "c2")
    assert main.up
    assert (short.max_time_s, short.default_time_s, short.priority_tier) == (1800, None, 10)
    assert not closed.up
    assert closed.state == "DOWN"
    assert vip.allow_accounts == ("special",)
    assert vip.max_time_s is None
    assert not any(one.preemptible for one in (main, short, closed, vip))


def test_states_with_marks() -> None:
    def node(state: str) -> Node:
        return Node("n", state, 1, 1, 1, 1)

    for usable in (
        "IDLE",
        "MIXED",
        "ALLOCATED",
        "IDLE+CLOUD",
        "IDLE+PLANNED",
        "ALLOCATED+COMPLETING",
    ):
        assert node(usable).usable
    for bad in ("DOWN*", "IDLE*", "IDLE+DRAIN", "DOWN+NOT_RESPONDING", "IDLE+MAINT"):
        assert not node(bad).usable


@given(st.integers(0, 400), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_times(days: int, hours: int, minutes: int, seconds: int) -> None:
    whole = days * 86400 + hours * 3600 + minutes * 60 + seconds
    assert parse_time_s(f"{days}-{hours:02d}:{minutes:02d}:{seconds:02d}") == whole
    assert parse_time_s(f"{hours:02d}:{minutes:02d}:{seconds:02d}") == whole - days * 86400
    assert parse_time_s(f"{minutes}:{seconds:02d}") == minutes * 60 + seconds
    assert parse_time_s(f"{minutes}") == minutes * 60
    assert parse_time_s(f"{days}-{hours}") == days * 86400 + hours * 3600


def test_no_time() -> None:
    for text in ("UNLIMITED", "INFINITE", "NONE", "(null)", "", "1:2:3:4", None):
        assert parse_time_s(text) is None


@given(st.text(max_size=30))
def test_any_time_is_read_without_error(text: str) -> None:
    seconds = parse_time_s(text)
    assert seconds is None or seconds >= 0


KEYS = st.from_regex(r"[A-Z][A-Za-z]{1,12}", fullmatch=True)
VALUES = st.lists(
    st.from_regex(r"[A-Za-z0-9#@:./(),+*-]{1,10}", fullmatch=True), min_size=1, max_size=4
)


@given(st.dictionaries(KEYS, VALUES.map(" ".join), min_size=1, max_size=8))
def test_values_may_hold_spaces(record: dict[str, str]) -> None:
    line = " ".join(f"{key}={value}" for key, value in record.items())
    assert parse_record(line) == record


@given(st.text(max_size=100))
def test_any_record_is_read_without_error(text: str) -> None:
    parse_nodes("NodeName=" + text)
    parse_partitions("PartitionName=" + text)
    parse_nodes(recorded(VERSIONS[0], "nodes")[: len(text) * 20])


@given(st.integers(1, 999), st.integers(0, 50), st.sampled_from(["", "-ib"]), st.booleans())
def test_node_lists(first: int, more: int, tail: str, padded: bool) -> None:
    width = 4 if padded else 1
    names = tuple(f"gpu{number:0{width}d}{tail}" for number in range(first, first + more + 1))
    assert expand(f"gpu[{first:0{width}d}-{first + more:0{width}d}]{tail}") == names
    assert expand(f"login,gpu[{first:0{width}d}-{first + more:0{width}d}]{tail},x1") == (
        "login",
        *names,
        "x1",
    )


def test_node_lists_of_two_dimensions_and_none() -> None:
    assert expand("r[1-2]n[01,03]") == ("r1n01", "r1n03", "r2n01", "r2n03")
    assert expand("") == expand("(null)") == expand("None assigned") == ()


@given(st.text(alphabet="abc[]-,0123456789 ", max_size=40))
def test_any_node_list_is_read_without_error(text: str) -> None:
    assert len(expand(text)) <= 100_001
