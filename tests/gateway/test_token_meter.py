"""Token counts are read from any answer, and the event that only has them can be taken out."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeltainer.gateway.token_meter import JsonMeter, Meter, StreamMeter, Tokens
from tests.engine.scripted import DONE, token

COUNTS = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields, ensure_ascii=False).encode() + b"\n\n"


ONLY = event(choices=[], usage=COUNTS)
TEXT = token('says "usage": {"prompt_tokens": 99} ü')


def fed(meter: Meter, data: bytes, cuts: list[int]) -> bytes:
    out = b""
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        out += meter.feed(data[start:end])
    return out + meter.finish()


def cuts_of(data: st.DataObject, whole: bytes) -> list[int]:
    return sorted(data.draw(st.sets(st.integers(1, len(whole) - 1), max_size=12)))


@given(st.data(), st.booleans(), st.booleans())
def test_a_stream_whatever_the_split(data: st.DataObject, strip: bool, crlf: bool) -> None:
    parts = [b": ping\n\n", TEXT, event(choices=[{"delta": {}}], usage=None), ONLY, DONE]
    if crlf:
        parts = [part.replace(b"\n", b"\r\n") for part in parts]
    whole = b"".join(parts)
    meter = StreamMeter(strip=strip)
    out = fed(meter, whole, cuts_of(data, whole))
    assert out == (whole.replace(parts[3], b"") if strip else whole)
    assert meter.tokens == Tokens(7, 3)
    assert meter.events == 5


@given(st.binary(max_size=300), st.data())
def test_wild_streams_pass_unchanged(wild: bytes, data: st.DataObject) -> None:
    whole = TEXT + wild + b'"usage"' + wild
    assert fed(StreamMeter(strip=False), whole, cuts_of(data, whole)) == whole
    if b'"choices"' not in wild:
        assert fed(StreamMeter(strip=True), whole, cuts_of(data, whole)) == whole


@pytest.mark.parametrize(
    ("events", "counts"),
    [
        ([event(choices=[{"delta": {}}], usage=COUNTS)], (7, 3)),
        (
            [
                event(choices=[{}], usage={"prompt_tokens": 7, "completion_tokens": n})
                for n in (1, 2)
            ],
            (7, 2),
        ),
        (
            [
                event(
                    type="message_start", message={"usage": {"input_tokens": 5, "output_tokens": 1}}
                ),
                event(type="message_delta", usage={"output_tokens": 9}),
            ],
            (5, 9),
        ),
        (
            [
                event(
                    type="response.completed",
                    response={"usage": {"input_tokens": 1, "output_tokens": 2}},
                )
            ],
            (1, 2),
        ),
        (
            [event(choices=[], usage=None), event(choices=[], usage="x"), b'data: "usage"\n\n'],
            (None, None),
        ),
        (
            [b'data: {"usage": {"prompt_tokens": \n\n', b"data: " + b"[" * 5000 + b'"usage"\n\n'],
            (None, None),
        ),
    ],
)
def test_every_apis_words(events: list[bytes], counts: tuple[int | None, int | None]) -> None:
    meter = StreamMeter(strip=False)
    assert fed(meter, b"".join(events), []) == b"".join(events)
    assert (meter.tokens.prompt, meter.tokens.completion) == counts


START = event(type="message_start", message={"usage": {"input_tokens": 5, "output_tokens": 1}})
UNSURE = event(type="message_start", message={"usage": {"input_tokens": 0, "output_tokens": 0}})
DELTA = event(type="content_block_delta", delta={"text": "a"})
CREATED = event(type="response.created", response={"usage": None})
BEGUN = event(
    type="response.in_progress", response={"usage": {"input_tokens": 6, "output_tokens": 0}}
)


@pytest.mark.parametrize(
    ("events", "prompt"),
    [
        ([START, DELTA, DELTA], 5),
        ([UNSURE, DELTA, DELTA], None),
        ([CREATED, BEGUN, event(type="response.output_text.delta", delta="a")], 6),
        ([TEXT, TEXT, TEXT], None),
    ],
)
def test_what_a_beginning_says_is_no_count_of_the_answer(
    events: list[bytes], prompt: int | None
) -> None:
    meter = StreamMeter(strip=False)
    fed(meter, b"".join(events), [])
    assert meter.tokens == Tokens(prompt, None)  # so the events are charged if it breaks off here
    assert meter.events == 3


def test_events_with_choices_are_never_taken_out() -> None:
    whole = event(choices=[{"delta": {"content": "a"}}], usage=COUNTS) + event(usage=COUNTS)
    assert fed(StreamMeter(strip=True), whole, []) == whole


def test_a_long_event_is_not_held_back_nor_kept() -> None:
    meter = StreamMeter(strip=True)
    tracemalloc.start()
    out = 0
    for _ in range(100):
        out += len(meter.feed(b"x" * 60_000))
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    assert out + len(meter.feed(b"\n\n")) == 100 * 60_000 + 2
    assert meter.feed(ONLY) == b""


@given(st.data())
def test_json_answers(data: st.DataObject) -> None:
    answer: dict[str, Any] = {
        "choices": [{"message": {"content": 'x "usage": {"prompt_tokens": 1} ü' * 400}}],
        "usage": COUNTS,
        "timings": {"x": 1},
    }
    whole = json.dumps(answer, ensure_ascii=False).encode()
    meter = JsonMeter()
    assert fed(meter, whole, cuts_of(data, whole)) == whole
    assert meter.tokens == Tokens(7, 3)


def completed(before: int, after: int) -> bytes:
    """The Responses API's last event, with so much text before and after the counts."""
    whole = {
        "text": 'ü "usage": {"input_tokens": 99} \n' * (before // 32),
        "tools": [{"usage": {"type": "string"}}, {"usage": "x"}],
        "usage": {"input_tokens": 4, "details": {"ä": 1}, "output_tokens": 5},
        "metadata": "y" * after,
    }
    return event(type="response.completed", response=whole)


def cuts_near(data: st.DataObject, whole: bytes, *places: int) -> list[int]:
    """Some cuts, most of them where it matters."""
    last = len(whole) - 1
    near = [st.integers(one - 9, one + 9) for one in places]
    drawn = data.draw(st.sets(st.integers(1, last) | st.one_of(near), max_size=12))
    return sorted(one for one in drawn if 0 < one <= last)


LENGTHS = st.sampled_from([0, 9_000, 30_000, 70_000])


@settings(deadline=None)
@given(st.data(), st.tuples(LENGTHS, LENGTHS), st.booleans(), st.booleans(), st.booleans())
def test_counts_in_long_events_whatever_the_split(
    data: st.DataObject, lengths: tuple[int, int], strip: bool, crlf: bool, more: bool
) -> None:
    parts = [TEXT, completed(*lengths), *([ONLY, DONE] if more else [])]
    if crlf:
        parts = [part.replace(b"\n", b"\r\n") for part in parts]
    whole, end = b"".join(parts), len(parts[0]) + len(parts[1])
    at = whole.rindex(b'"usage"', 0, end)
    cuts = cuts_near(data, whole, at, end, len(parts[0]) + 64 * 1024)
    meter = StreamMeter(strip=strip)
    assert fed(meter, whole, cuts) == (b"".join(parts[:2] + parts[3:]) if strip else whole)
    assert meter.tokens == (Tokens(7, 3) if more else Tokens(4, 5))
    assert meter.events == len(parts)


@settings(deadline=None)
@given(st.data(), LENGTHS)
def test_counts_anywhere_in_a_json_answer(data: st.DataObject, after: int) -> None:
    whole = completed(20_000, after)[6:]
    at = whole.rindex(b'"usage"')
    meter = JsonMeter()
    assert fed(meter, whole, cuts_near(data, whole, at, at + 60)) == whole
    assert meter.tokens == Tokens(4, 5)


WORDS = b'"usage"|"usa|ge"|:| |{|}|{"input_tokens":|3|,|\xff|[[['.split(b"|")


@given(st.lists(st.sampled_from(WORDS), max_size=40), st.data())
def test_wild_json_whatever_the_split(words: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(words) + b"{}"
    one, many, at_once = JsonMeter(), JsonMeter(), JsonMeter()
    fed(one, whole, [])
    assert fed(many, whole, cuts_of(data, whole)) == whole
    assert at_once.whole(whole) == whole
    assert one.tokens == many.tokens == at_once.tokens


def test_counts_that_never_end_are_not_kept() -> None:
    meter = JsonMeter()
    meter.feed(b'{"usage": {"x": "')
    tracemalloc.start()
    for _ in range(2000):
        meter.feed(b"x" * 1000)
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()
    meter.feed(b'"}, "usage": {"input_tokens": 2}}')
    assert meter.tokens == Tokens(2, None)


@pytest.mark.parametrize(
    ("answer", "counts"),
    [
        (b'{"data": [], "usage": {"prompt_tokens": 4, "total_tokens": 4}}', (4, 0)),
        (b'{"usage": {"input_tokens": 4, "output_tokens": 5}}', (4, 5)),
        (b'{"usage": null, "x": {"prompt_tokens": 4}}', (None, None)),
        (b'{"x": 1}', (None, None)),
        (b'{"usage": {"prompt_tokens": 4', (None, None)),
        (b"", (None, None)),
    ],
)
def test_json_edges(answer: bytes, counts: tuple[int | None, int | None]) -> None:
    for look in (JsonMeter.feed, JsonMeter.whole):
        meter = JsonMeter()
        look(meter, answer)
        meter.finish()
        assert (meter.tokens.prompt, meter.tokens.completion) == counts
