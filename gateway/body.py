"""The request's JSON body: read for its ``model`` and ``stream``, changed in ``model`` only.

Re-serialising would change numbers, key order and escapes, and cost time on long prompts; so a
small scanner finds where the value of the top-level ``model`` stands, and only that is replaced.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from modeltainer.gateway.errors import GatewayError

MAX_DEPTH = 200
"""Nesting that no request needs; engines' own parsers fail at about a thousand."""

# A string without escapes, the opening quote of another, or a character of structure; inside
# nested values commas and colons are of no interest.
_TOP = re.compile(rb'"(?:[^"\\]*")?|[{}\[\]:,]')
_NESTED = re.compile(rb'"(?:[^"\\]*")?|[{}\[\]]')
# A stretch of a string with escapes. The bound keeps re's stack small: without it a prompt of a
# million line breaks takes a hundred megabytes to match.
_STRETCH = re.compile(rb'[^"\\]*(?:\\.[^"\\]*){0,1000}', re.DOTALL)
_WHITE = b" \t\n\r"


class _Head(msgspec.Struct):
    model: Any = None
    stream: Any = None


_decoder = msgspec.json.Decoder(_Head)


@dataclass(frozen=True)
class Body:
    """A checked request body."""

    data: bytes
    model: str
    stream: bool
    start: int
    """Offset of the model's value, its opening quote included."""
    end: int
    """Offset behind the value's closing quote."""

    def pieces(self, served_name: str) -> tuple[bytes | memoryview, ...]:
        """The body with another model name, as parts to be written one after the other."""
        if served_name == self.model:
            return (self.data,)
        view = memoryview(self.data)
        return view[: self.start], msgspec.json.encode(served_name), view[self.end :]


def parse(data: bytes) -> Body:
    """Check a body and find its model.

    Raises:
        GatewayError: 400: not UTF-8, not JSON, not an object, nested too deep, ``model`` missing,
            not a string or given twice.
    """
    try:
        if not data.isascii():
            data.decode("utf-8")
        head = _decoder.decode(data)
    except UnicodeDecodeError:
        raise _bad("the request body is not UTF-8", "invalid_encoding") from None
    except RecursionError:
        raise _bad("the request body is nested too deep", "invalid_json") from None
    except msgspec.ValidationError:
        raise _bad("the request body must be a JSON object", "invalid_json") from None
    except msgspec.DecodeError as error:
        raise _bad(f"the request body is not valid JSON: {error}", "invalid_json") from None
    span = model_span(data)
    if span is None:
        raise _bad("you must provide a model parameter", "missing_model", "model")
    if not isinstance(head.model, str) or not head.model:
        raise _bad("model must be a non-empty string", "invalid_model", "model")
    return Body(data, head.model, head.stream is True, *span)


def model_span(data: bytes) -> tuple[int, int] | None:
    """Where the value of the top-level ``model`` stands in a valid JSON object; None without one.

    Raises:
        GatewayError: 400: nested too deep, or ``model`` given twice (parsers differ in which of
            the two they take, so the one checked here need not be the one that is served).
    """
    found: tuple[int, int] | None = None
    position = data.index(b"{") + 1
    is_model = False  # the member being read is "model"
    expect_key = True
    value_start = 0
    while True:
        token = _TOP.search(data, position)
        if token is None:  # cannot be in valid JSON
            raise _bad("the request body is not valid JSON", "invalid_json")
        start, position = token.span()
        first = data[start]
        if first == 0x22:  # a string
            if position == start + 1:
                position = _string_end(data, position)
            if expect_key:
                is_model = _is_model(data[start:position])
                expect_key = False
        elif first == 0x3A:  # ':'
            value_start = position
        elif first in b"{[":
            position = _skip(data, position)
        else:  # ',' or '}': the member is complete
            if is_model:
                if found is not None:
                    raise _bad("model is given twice", "invalid_model", "model")
                found = _trim(data, value_start, start)
            if first == 0x7D:
                return found
            is_model, expect_key = False, True


def _is_model(token: bytes) -> bool:
    if b"\\" not in token:
        return token == b'"model"'
    try:
        return bool(msgspec.json.decode(token) == "model")
    except msgspec.DecodeError:
        return False


def _skip(data: bytes, position: int) -> int:
    """Offset behind the object or array whose opening bracket ends at ``position``."""
    depth = 1
    search = _NESTED.search
    while (token := search(data, position)) is not None:
        start, position = token.span()
        first = data[start]
        if first == 0x22:
            if position == start + 1:
                position = _string_end(data, position)
        elif first in b"{[":
            depth += 1
            if depth > MAX_DEPTH:
                raise _bad("the request body is nested too deep", "invalid_json")
        else:
            depth -= 1
            if depth == 0:
                return position
    raise _bad("the request body is not valid JSON", "invalid_json")


def _string_end(data: bytes, position: int) -> int:
    """Offset behind the closing quote of the string whose content starts at ``position``."""
    while (stretch := _STRETCH.match(data, position)) is not None:
        end = stretch.end()
        if data[end : end + 1] == b'"':
            return end + 1
        if end == position:
            break
        position = end
    raise _bad("the request body is not valid JSON", "invalid_json")


def _trim(data: bytes, start: int, end: int) -> tuple[int, int]:
    while data[start] in _WHITE:
        start += 1
    while data[end - 1] in _WHITE:
        end -= 1
    return start, end


def _bad(message: str, code: str, param: str | None = None) -> GatewayError:
    return GatewayError(400, message, code, param=param)
