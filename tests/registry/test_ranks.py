"""What a launch's other nodes say, and when the head takes one for lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from modeltainer.registry import ranks
from modeltainer.registry.endpoints import LEASE_PERIODS
from modeltainer.registry.layout import Layout
from modeltainer.registry.records import Cause, RankRecord, Rendezvous

ID = "wide-r0-abcdef"
PERIOD_S = 5.0
SILENT_S = LEASE_PERIODS * PERIOD_S


def test_files_there_and_back(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.create()
    layout.launch(ID).mkdir()
    assert ranks.read_rendezvous(layout, ID) is None
    met = Rendezvous("10.0.0.1", 29500, "/cache/vllm.sif")
    ranks.write_rendezvous(layout, ID, met)
    assert ranks.read_rendezvous(layout, ID) == met
    record = RankRecord(2, "n3", 7)
    ranks.write_rank(layout, ID, record)
    layout.rank(ID, 1).write_text("{")  # half a file is no word
    assert ranks.read_ranks(layout, ID, 4) == {2: record}


def test_a_rank_that_ended_takes_all_with_it_and_says_where() -> None:
    died = RankRecord(1, "n2", 3, cause=Cause("out-of-memory", "the GPU's memory is full"))
    found = ranks.lost(ranks.listen({}, {1: died}, 0.0), 0.0)
    assert found is not None
    assert (found.code, found.message) == (
        "out-of-memory",
        "rank 1 on n2: the GPU's memory is full",
    )


@given(st.lists(st.tuples(st.floats(0.1, 60), st.booleans()), min_size=1, max_size=30))
def test_a_rank_is_lost_exactly_when_its_counter_stood_still_too_long(
    looks: list[tuple[float, bool]],
) -> None:
    """Each look comes some seconds after the last, and the counter has moved since or not."""
    record, now, moved = RankRecord(1, "n2", 1, PERIOD_S), 0.0, 0.0
    heard = ranks.listen({}, {1: record}, now)
    for seconds, moves in looks:
        now += seconds
        if moves:
            record, moved = replace(record, counter=record.counter + 1), now
        heard = ranks.listen(heard, {1: record}, now)
        found = ranks.lost(heard, now)
        assert (found is not None) == (now - moved >= SILENT_S)
        if found is not None:
            assert found.code == "rank-lost"


def test_a_file_that_cannot_be_read_any_more_is_silence_not_absence() -> None:
    heard = ranks.listen({}, {1: RankRecord(1, "n2", 1)}, 0.0)
    heard = ranks.listen(heard, {}, 10.0)
    assert ranks.lost(heard, 10.0) is None
    assert ranks.lost(ranks.listen(heard, {}, SILENT_S), SILENT_S) is not None


def test_a_rank_that_never_spoke_is_the_load_time_outs_concern() -> None:
    assert ranks.lost(ranks.listen({}, {}, 0.0), 1e6) is None
