"""Schedules, prompts, windows, the search and the scanner: no server needed."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeltainer.bench import schedule, sweep
from modeltainer.bench.client import target
from modeltainer.bench.metrics import (
    Slo,
    distribution,
    median_interval,
    median_of,
    paired,
    percentile,
    summarise,
)
from modeltainer.bench.record import Record, jsonl, read_jsonl
from modeltainer.bench.report.frames import knee
from modeltainer.bench.search import RateSearch
from modeltainer.bench.sizing import measure_sizer
from modeltainer.bench.sse import EventScanner
from modeltainer.bench.window import steady_window
from modeltainer.bench.workload import Length, Sizer, Workload, WorkloadError, read_prompts


def record(start: float, took: float, **fields: object) -> Record:
    plain = Record(
        point="p",
        index=0,
        target="a",
        model="m",
        worker=0,
        intended_s=start,
        sent_s=start,
        ended_s=start + took,
        first_token_s=start + took / 2,
        last_token_s=start + took,
        status=200,
        failure="",
        detail="",
        finish_reason="stop",
        prompt_tokens=10,
        output_tokens=11,
        cached_tokens=None,
        first_chunk_tokens=None,
        token_source="usage",
        streamed=True,
        chunks=11,
        connects=0,
    )
    return replace(plain, **fields)  # type: ignore[arg-type]


class TestSchedule:
    def test_poisson_has_the_rate_and_repeats(self) -> None:
        made = schedule.poisson(5.0, 4000, seed=1)
        assert made.rate == pytest.approx(5.0, rel=0.05)
        assert made == schedule.poisson(5.0, 4000, seed=1)
        assert made != schedule.poisson(5.0, 4000, seed=2)
        gaps = [b - a for a, b in pairwise(made.starts_s)]
        mean = sum(gaps) / len(gaps)
        spread = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
        assert spread == pytest.approx(mean, rel=0.1)  # exponential

    @given(st.integers(1, 40), st.integers(1, 7))
    def test_shares_make_up_the_whole(self, size: int, workers: int) -> None:
        users = [schedule.share(schedule.ClosedLoop(size), n, workers) for n in range(workers)]
        assert sum(one.concurrency for one in users if isinstance(one, schedule.ClosedLoop)) == size
        whole = schedule.constant(3.0, size)
        parts = [schedule.share(whole, n, workers) for n in range(workers)]
        starts = [s for one in parts if isinstance(one, schedule.OpenLoop) for s in one.starts_s]
        assert sorted(starts) == list(whole.starts_s)

    def test_trace_begins_at_zero_and_can_be_sped_up(self, tmp_path: Path) -> None:
        file = tmp_path / "trace.jsonl"
        file.write_text('{"timestamp": 7000, "input_length": 5}\n\n{"timestamp": 3000}\n')
        rows = schedule.read_trace(file)
        assert [(row.start_s, row.prompt_tokens) for row in rows] == [(0.0, None), (4.0, 5)]
        assert schedule.replay(rows, speed=2.0).starts_s == (0.0, 2.0)

    @pytest.mark.parametrize("line", ["[]", '{"time": 1}', "{", '{"timestamp": "x"}', ""])
    def test_bad_trace_is_named(self, tmp_path: Path, line: str) -> None:
        file = tmp_path / "trace.jsonl"
        file.write_text(line)
        with pytest.raises(schedule.ScheduleError, match=r"trace\.jsonl"):
            schedule.read_trace(file)


@given(
    st.lists(st.sampled_from(["a", "b c", "é", '{"x": 1}']), max_size=6),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.lists(st.integers(0, 60), max_size=8),
)
def test_events_survive_any_cut(texts: list[str], end: str, cuts: list[int]) -> None:
    events = [f": ping{end}{end}event: x{end}data: {text}{end}{end}" for text in texts]
    data = "".join(events).encode()
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    scanner = EventScanner()
    found = [event for a, b in pairwise(places) for event in scanner.feed(data[a:b])]
    found += scanner.feed(b"\n")  # a lone CR at the very end waits for its LF
    assert found == [text.encode() for text in texts]


class TestSizes:
    @staticmethod
    def count(text: str) -> int:
        """Two tokens for words with two o; a template of 7."""
        return 7 + sum(2 if "oo" in word else 1 for word in text.split())

    def test_finds_the_words_of_one_token(self) -> None:
        sizer = measure_sizer(self.count)
        assert sizer.exact
        assert sizer.overhead == 7
        for tokens in (20, 256, 1001):
            made = Workload(prompt=Length(tokens, tokens), sizer=sizer, salt="x")
            assert self.count(made.prompt_text(3)) == tokens

    def test_a_vocabulary_of_bytes_is_met_on_average(self) -> None:
        sizer = measure_sizer(lambda text: len(text) + 1)
        assert not sizer.exact
        text = Workload(prompt=Length(400, 400), sizer=sizer).prompt_text(0)
        assert len(text) == pytest.approx(400, rel=0.15)

    def test_a_server_that_counts_every_prompt_alike_is_not_believed(self) -> None:
        assert measure_sizer(lambda _: 9) == Sizer()

    def test_shared_prefix_then_words_of_its_own(self) -> None:
        made = Workload(prompt=Length(60, 60), shared_prefix=40, sizer=Sizer(), salt="x")
        one, two = (made.prompt_text(n).split() for n in (1, 2))
        assert one[:40] == two[:40]
        assert one[40:] != two[40:]
        assert len(one) == len(two) == 60

    @pytest.mark.parametrize("texts", [(), ("Why?",)])
    def test_sides_of_a_pair_differ_in_the_order_of_their_own_words(
        self, texts: tuple[str, ...]
    ) -> None:
        made = Workload(prompt=Length(20, 200), salt="x", texts=texts)
        for index in range(50):
            one, two = (made.prompt_text(index, side) for side in (0, 1))
            assert len(one) == len(two)
            assert sorted(one.split()) == sorted(two.split())
            assert one.split()[:4] != two.split()[:4]
            assert one.split()[0] == two.split()[0]

    @pytest.mark.parametrize("known", [{"nonce": False}, {"shared_prefix": 40}])
    def test_sides_of_a_pair_are_equal_where_a_cache_is_to_know_them(
        self, known: dict[str, Any]
    ) -> None:
        made = Workload(prompt=Length(60, 60), salt="x", **known)
        assert made.body(3, "m", 0) == made.body(3, "m", 1)


class TestPromptFiles:
    def test_three_forms(self, tmp_path: Path) -> None:
        turns = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]
        forms = {
            "share.json": json.dumps([{"conversations": turns}]),
            "lines.jsonl": '{"prompt": "Why?"}\n',
            "chat.jsonl": json.dumps({"messages": [{"role": "user", "content": "Why?"}]}),
            "plain.txt": "Why?\n\n",
        }
        for name, text in forms.items():
            (tmp_path / name).write_text(text)
            assert read_prompts(tmp_path / name) == ("Why?",)

    @pytest.mark.parametrize(("name", "text"), [("a.json", "[1]"), ("b.jsonl", "{}"), ("c", "\n")])
    def test_other_forms_are_refused(self, tmp_path: Path, name: str, text: str) -> None:
        (tmp_path / name).write_text(text)
        with pytest.raises(WorkloadError, match=name):
            read_prompts(tmp_path / name)


class TestWindow:
    def test_cuts_ramp_and_tail(self) -> None:
        """Ten users who come one a second, stay, and leave one a second."""
        rows = [record(user + n, 1.0) for user in range(10) for n in range(30)]
        window = steady_window(rows)
        assert window.steady
        assert 8.0 <= window.start_s <= 9.0
        assert 30.0 <= window.end_s <= 31.0

    def test_too_short_to_be_steady(self) -> None:
        rows = [record(0.0, 1.0), record(0.0, 1.0)]
        window = steady_window(rows)
        assert (window.start_s, window.end_s, window.steady) == (0.0, 1.0, False)

    @given(st.lists(st.tuples(st.floats(0, 50), st.floats(0.001, 9)), max_size=30))
    def test_any_run_has_a_window_within_it(self, spans: list[tuple[float, float]]) -> None:
        rows = [record(start, took) for start, took in spans]
        window = steady_window(rows)
        assert window.start_s <= window.end_s
        assert summarise(rows, Slo())["requests"] <= len(rows)


class TestStatistics:
    def test_no_p99_from_too_few(self) -> None:
        few, many = distribution([1.0] * 499), distribution([1.0] * 500)
        assert (few["p99"], many["p99"]) == (None, 1.0)
        assert distribution([1.0] * 99)["p95"] is None
        assert distribution([])["count"] == 0

    @given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0, 100))
    def test_percentile_is_numpys(self, values: list[float], percent: float) -> None:
        numpy = pytest.importorskip("numpy")
        ordered = sorted(values)
        assert percentile(ordered, percent) == pytest.approx(numpy.percentile(ordered, percent))

    @pytest.mark.parametrize("count", [5, 30, 501])
    def test_interval_of_the_median_is_that_of_resamples(self, count: int) -> None:
        draw = random.Random(count)
        values = [draw.lognormvariate(0, 1) for _ in range(count)]
        medians = sorted(median_of(draw.choices(values, k=count)) for _ in range(4000))
        interval = median_interval(values)
        assert interval is not None
        # Both ends, as the share of resamples below them.
        shares = [sum(median <= end for median in medians) / 4000 for end in interval]
        near = [sum(median < end for median in medians) / 4000 for end in interval]
        assert near[0] - 0.02 <= 0.025 <= shares[0] + 0.02
        assert near[1] - 0.02 <= 0.975 <= shares[1] + 0.02

    def test_no_interval_from_too_few(self) -> None:
        assert median_interval([1.0] * 4) is None
        assert median_interval([1.0] * 5) == (1.0, 1.0)

    def test_pairs_see_what_two_medians_would_not(self) -> None:
        """Requests differ by seconds, the sides by 10 ms."""
        rows = []
        for index in range(40):
            rows.append(record(0.0, 1.0 + index, index=index, target="a"))
            rows.append(record(0.0, 1.01 + index, index=index, target="b"))
        found = paired(rows)
        assert found["pairs"] == 40
        assert found["e2e_s"]["median"] == pytest.approx(0.01)
        low, high = found["e2e_s"]["interval"]
        assert low == pytest.approx(0.01)
        assert high == pytest.approx(0.01)

    def test_knee(self) -> None:
        assert knee([1, 2, 4, 5, 5.1], [10, 10, 11, 12, 50]) == 3
        assert knee([1, 2, 3, 4], [10, 10, 10, 10.1]) is None


class TestSearch:
    @given(st.floats(0.05, 500))
    def test_finds_the_limit(self, limit: float) -> None:
        search = RateSearch(max_points=40)
        while (rate := search.next_rate()) is not None:
            search.take(rate, rate <= limit)
        assert search.passed is not None
        assert search.passed <= limit <= search.passed * 1.1

    def test_gives_up_on_a_server_that_carries_nothing(self) -> None:
        search = RateSearch()
        while (rate := search.next_rate()) is not None:
            search.take(rate, met=False)
        assert search.passed is None
        assert len(search.tried) <= 12
        assert "no rate was carried" in search.outcome()

    def test_a_pile_is_not_carried_though_every_request_was_in_time(self) -> None:
        def figures(goodput: float, growing: bool) -> dict[str, Any]:
            side = {"goodput": {"fraction": goodput}, "in_flight": {"growing": growing}}
            return {"targets": {"a": side}}

        assert sweep.carried(figures(0.99, growing=False))
        assert not sweep.carried(figures(1.0, growing=True))
        assert not sweep.carried(figures(0.98, growing=False))

    def test_a_rate_at_which_the_client_was_the_bottleneck_is_tried_once_more(self) -> None:
        search = RateSearch()
        search.take(1.0, met=True, client_bound=True)
        assert (search.next_rate(), search.passed, search.failed) == (1.0, None, None)
        search.take(1.0, met=True)
        assert (search.next_rate(), search.passed) == (2.0, 1.0)
        for _ in range(2):
            search.take(2.0, met=True, client_bound=True)
        assert (search.passed, search.failed) == (1.0, 2.0)
        assert search.next_rate() == pytest.approx(2**0.5)
        assert "at 2 the client was the bottleneck" in search.outcome()

    @pytest.mark.parametrize(
        ("limit", "points", "says"),
        [
            (1e9, 4, "at least 8 requests/s are carried within the objectives; the search ended"),
            (5.0, 4, "at least 4 requests/s are carried within the objectives, 8 are not; the"),
            (5.0, 12, "highest rate within the objectives: 4.75683 requests/s"),
        ],
    )
    def test_a_search_that_ended_before_the_limit_says_so(
        self, limit: float, points: int, says: str
    ) -> None:
        search = RateSearch(max_points=points)
        while (rate := search.next_rate()) is not None:
            search.take(rate, rate <= limit)
        assert search.outcome().startswith(says)


def test_rows_survive_a_line_that_was_cut_off(tmp_path: Path) -> None:
    rows = [record(0.0, 1.0), record(1.0, 1.0, failure="timeout")]
    file = tmp_path / "rows.jsonl"
    file.write_bytes(jsonl(rows) + jsonl(rows)[:40])
    assert read_jsonl(file) == rows


@pytest.mark.parametrize(
    ("requests", "duration_s", "count"),
    [(None, None, 60), (5, None, 5), (None, 4.0, 8), (5, 1.0, 2)],
)
def test_requests_of_a_rate_end_with_whichever_limit_comes_first(
    requests: int | None, duration_s: float | None, count: int
) -> None:
    plan = sweep.RunPlan(
        (target("http://x", "m"),),
        Workload(),
        rates=(2.0,),
        requests=requests,
        duration_s=duration_s,
    )
    [(label, made)] = sweep._schedules(plan, RateSearch())
    assert isinstance(made, schedule.OpenLoop)
    assert (label, len(made.starts_s)) == ("rate=2", count)
