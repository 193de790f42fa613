"""The body scanner against Python's own JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeltainer.gateway.body import MAX_DEPTH, member_spans, parse
from modeltainer.gateway.errors import GatewayError

KEYS = st.text(max_size=8) | st.sampled_from(
    ["model", "stream", "mod\\el", "stream_options", '"model"', "models"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
INDENT = st.sampled_from([None, 0, 1, 3])


@settings(max_examples=400)
@given(
    before=st.dictionaries(KEYS, VALUES, max_size=4),
    after=st.dictionaries(KEYS, VALUES, max_size=4),
    model=st.text(min_size=1),
    served=st.text(min_size=1),
    ascii_only=st.booleans(),
    indent=INDENT,
)
def test_only_the_models_value_changes(
    *,
    before: dict[str, Any],
    after: dict[str, Any],
    model: str,
    served: str,
    ascii_only: bool,
    indent: int | None,
) -> None:
    before.pop("model", None)
    after.pop("model", None)
    members = {**before, "model": model, **after}
    try:
        data = json.dumps(members, ensure_ascii=ascii_only, indent=indent).encode()
        served.encode()
    except UnicodeEncodeError:
        return  # lone surrogates are no text
    try:
        body = parse(data)
    except GatewayError:
        return  # what msgspec refuses (lone surrogates in escapes) is refused
    assert body.model == model
    assert body.stream is (members.get("stream") is True)
    assert json.loads(data[slice(*body.model_span)]) == model
    changed = b"".join(body.pieces(served))
    start, end = body.model_span
    assert changed[:start] == data[:start]
    assert changed.endswith(data[end:])
    assert list(json.loads(changed).items()) == list({**members, "model": served}.items())
    asking = json.loads(b"".join(body.pieces(served, include_usage=True)))
    options = members.get("stream_options")
    if options is None or isinstance(options, dict):
        assert asking.pop("stream_options") == {**(options or {}), "include_usage": True}
        assert asking == {
            name: value
            for name, value in {**members, "model": served}.items()
            if name != "stream_options"
        }
    else:
        assert asking == {**members, "model": served}


@settings(max_examples=400)
@given(
    st.binary(max_size=80)
    | st.text(alphabet='{}[]",:\\ model1truen\n', max_size=80).map(str.encode)
)
def test_wild_bytes_are_an_error_or_right(data: bytes) -> None:
    try:
        body = parse(data)
    except GatewayError:
        return
    assert json.loads(data)["model"] == body.model
    assert json.loads(data[slice(*body.model_span)]) == body.model


@pytest.mark.parametrize("nested", ['{"model": "x"}', '[{"model": "x"}]', '"\\"model\\": \\"x\\""'])
def test_nested_and_quoted_models_are_left_alone(nested: str) -> None:
    data = f'{{"a": {nested}, "model": "y"}}'.encode()
    assert member_spans(data)["model"] == (data.index(b'"y"'), data.index(b'"y"') + 3)


@pytest.mark.parametrize(
    "body",
    [
        rb'{"a": {"model": "x"}, "mod\u0065l": "y"}',
        rb'{"mod\u0065l": "y", "role": "model"}',
        rb'{"a": ["model", "x"], "model": "y"}',
        rb'{"a": "\"model\": \"x\"", "model" : "y"}',
        rb'{"model": "\u0079", "a": 1}',
    ],
)
def test_the_models_place_however_it_is_spelled(body: bytes) -> None:
    found = parse(body)
    assert found.model == "y"
    assert json.loads(body[slice(*found.model_span)]) == "y"


@pytest.mark.parametrize(
    "body", [b'{"model": "a", "mod\\u0065l": "b"}', b'{"model":"a","model":"b"}']
)
def test_two_models_are_one_too_many(body: bytes) -> None:
    with pytest.raises(GatewayError, match="given twice"):
        parse(body)


@settings(max_examples=300)
@given(st.recursive(st.integers() | st.text(max_size=4), lambda some: st.lists(some, max_size=4)))
def test_depth_is_the_same_however_it_is_found(tree: object) -> None:
    data = json.dumps({"model": "m", "a": tree}, ensure_ascii=False).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("modeltainer.gateway.body.MAX_DEPTH", 3)
        try:
            span: object = member_spans(data)["model"]
        except GatewayError as error:
            span = error.message
        try:
            found: object = parse(data).model_span
        except GatewayError as error:
            found = error.message
        assert found == span


@pytest.mark.parametrize(("depth", "fits"), [(MAX_DEPTH, True), (MAX_DEPTH + 1, False)])
def test_depth_is_bounded(depth: int, fits: bool) -> None:
    data = b'{"model":"m","a":' + b"[" * depth + b"]" * depth + b"}"
    if fits:
        assert parse(data).model == "m"
    else:
        with pytest.raises(GatewayError, match="too deep"):
            parse(data)


def test_long_strings_with_escapes_need_no_memory() -> None:
    import tracemalloc

    data = b'{"x": "' + b"ab\\n" * 1_000_000 + b'", "model": "m"}'
    tracemalloc.start()
    assert parse(data).model == "m"
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
