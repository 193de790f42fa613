"""What a stream's first event is, however it is cut into pieces."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeltainer.gateway.first_event import MAX_HELD_BYTES, FirstEvent, Verdict, streamed_error
from tests.engine.scripted import DONE, token

PINGS = b": ping\n\n: ping\n\r\n"
CASES = [
    (token("a"), Verdict.ANSWER, None),
    (token('an "error": in the text'), Verdict.ANSWER, None),
    (b'data: {"error": null, "choices": []}\n\n', Verdict.ANSWER, None),
    (b'data: {"error": {"message": "boom", "code": 400}}\n\n', Verdict.ERROR, (400, "boom")),
    (b'data: {"error": {"message": "x", "code": "y"}}\n\n', Verdict.ERROR, (500, "x")),
    (b'data: {"error": "text"}\r\n\r\n', Verdict.ERROR, (500, "text")),
    (
        b'event: error\ndata: {"type":"error","error":{"message":"z"}}\n\n',
        Verdict.ERROR,
        (500, "z"),
    ),
    (b"event: error\ndata: oops\n\n", Verdict.ERROR, (500, "the engine reports an error")),
    (b"event: response.created\ndata: {}\n\n", Verdict.ANSWER, None),
    (DONE, Verdict.EMPTY, None),
    (b"id: 1\nretry: 5\n\n", Verdict.UNDECIDED, None),
]


WORDS = [
    ({"type": "invalid_request_error", "code": None}, 400),
    ({"type": "invalid_request_error", "code": "context_length_exceeded"}, 400),
    ({"type": "BadRequestError"}, 400),
    ({"code": "context_length_exceeded"}, 400),
    ({"type": "authentication_error"}, 401),
    ({"type": "permission_error"}, 403),
    ({"type": "not_found_error"}, 404),
    ({"type": "NotFoundError", "code": "x"}, 404),
    ({"type": "rate_limit_error"}, 429),
    ({"type": "overloaded_error"}, 503),
    ({"type": "overloaded_error", "code": 529}, 529),
    ({"type": "api_error", "code": 99}, 500),
    ({"type": ["x"], "code": {}}, 500),
]


@pytest.mark.parametrize(("fields", "status"), WORDS)
def test_status_in_words(fields: dict[str, Any], status: int) -> None:
    found = streamed_error({"error": fields}, named=False)
    assert found is not None
    assert found.status == status


@pytest.mark.parametrize(("event", "verdict", "error"), CASES)
@given(data=st.data())
def test_verdict_whatever_the_split(
    event: bytes, verdict: Verdict, error: tuple[int, str] | None, data: st.DataObject
) -> None:
    whole = PINGS + event
    cuts = sorted(data.draw(st.sets(st.integers(1, len(whole) - 1), max_size=8)))
    first, found = FirstEvent(), Verdict.UNDECIDED
    fed = 0
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        found = first.feed(whole[start:end])
        fed = end
        if found is not Verdict.UNDECIDED:
            break
    assert found is verdict
    assert first.held == whole[:fed]  # nothing is lost
    said = first.error
    assert (said and (said.status, said.message)) == error


def test_a_long_first_line_is_no_error() -> None:
    first = FirstEvent()
    assert first.feed(b"data: " + b"x" * MAX_HELD_BYTES) is Verdict.ANSWER
