"""Token counts are read from any answer, and the event that only has them can be taken out."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
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
    meter = JsonMeter()
    meter.feed(answer)
    meter.finish()
    assert (meter.tokens.prompt, meter.tokens.completion) == counts
