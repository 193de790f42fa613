"""The request's JSON body: read for what routing needs, changed in ``model`` only, and in
``stream_options`` where tokens are counted.

Re-serialising would change numbers, key order and escapes, and cost time on long prompts; so a
small scanner finds where the values of top-level members stand, and only those are replaced.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import msgspec

from modeltainer.gateway.errors import GatewayError

MAX_TOKENS = 2**31
"""No answer has more, whatever a client lets it have; numbers in JSON may have any size."""
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
LONG = 64 * 1024
"""Bytes up to which any body is looked through in no time."""
_ESCAPED = re.compile(rb"\\u00[2-7]")
"""A character of a member's name, written another way than as itself."""
_TEXT = re.compile(rb'"[^"]*"')
_OPEN = bytes.maketrans(b"{}", b"[]")
_STEP = {ord("["): 1, ord("]"): -1}.__getitem__
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


Span = tuple[int, int]
"""Offsets of a value: of its first byte, and behind its last."""


class Head(msgspec.Struct):
    """The members that the gateway looks at; their types are the client's affair."""

    model: Any = None
    stream: Any = None
    stream_options: Any = None
    max_tokens: Any = None
    max_completion_tokens: Any = None
    max_output_tokens: Any = None
    user: Any = None
    prompt_cache_key: Any = None


_decoder = msgspec.json.Decoder(Head)
_MEMBERS = {
    b'"model"': "model",
    b'"stream_options"': "stream_options",
    b'"messages"': "prompt",
    b'"prompt"': "prompt",
    b'"input"': "prompt",
}
_INCLUDE_USAGE = b'"stream_options":{"include_usage":true},'


# Where no text and no other member is spelled like the model's.
_MODEL = re.compile(rb'"model"[ \t\n\r]*:[ \t\n\r]*("[^"\\]*")')


@dataclass(slots=True)
class Body:
    """A checked request body."""

    data: bytes
    model: str
    stream: bool
    model_span: Span
    """Where the model's value stands, its quotes included."""
    encode: Callable[[str], bytes] = msgspec.json.encode
    """How a model's name is written there."""
    head: Head = Head()  # noqa: RUF009 (never changed)
    members: dict[str, Span] | None = None
    """Where the values of :data:`_MEMBERS` stand; None: not looked for yet, and then no member's
    name is written with escapes."""

    @property
    def prompt_span(self) -> Span | None:
        """Where the messages, the prompt or the input stand."""
        return self._spans().get("prompt")

    def _spans(self) -> dict[str, Span]:
        if self.members is None:
            self.members = member_spans(self.data)
        return self.members

    @property
    def asks_usage(self) -> bool:
        """The client wants the token counts of its stream."""
        options = self.head.stream_options
        return isinstance(options, dict) and options.get("include_usage") is True

    @property
    def max_tokens(self) -> int:
        """Most tokens the answer may have, 0 when the client does not say."""
        head = self.head
        for one in (head.max_completion_tokens, head.max_tokens, head.max_output_tokens):
            if isinstance(one, int) and one > 0:
                return min(one, MAX_TOKENS)
        return 0

    @property
    def prompt_bytes(self) -> int:
        """Length of the prompt as it stands in the body; of a long one it is most of it."""
        if self.members is None and len(self.data) > LONG:
            return len(self.data)
        span = self.prompt_span
        return len(self.data) if span is None else _length(span)

    def pieces(
        self, served_name: str, *, include_usage: bool = False
    ) -> tuple[bytes | memoryview, ...]:
        """The body with another model name, as parts to be written one after the other.
        ``include_usage`` has the engine end its stream with the token counts."""
        edits: list[tuple[int, int, bytes]] = []
        if served_name != self.model:
            edits.append((*self.model_span, self.encode(served_name)))
        if include_usage:
            edits.append(self._ask_usage())
        if not edits:
            return (self.data,)
        view, parts, position = memoryview(self.data), list[bytes | memoryview](), 0
        for start, end, new in sorted(edits):
            parts += [view[position:start], new]
            position = end
        return (*parts, view[position:])

    def _ask_usage(self) -> tuple[int, int, bytes]:
        options = self.head.stream_options
        absent = self.members is None and b'"stream_options"' not in self.data
        span = None if absent else self._spans().get("stream_options")
        if span is None:
            first_member = self.data.index(b"{") + 1
            return first_member, first_member, _INCLUDE_USAGE
        if isinstance(options, dict):
            return (*span, msgspec.json.encode({**options, "include_usage": True}))
        if options is None:
            return (*span, b'{"include_usage":true}')
        return (*span, self.data[slice(*span)])


def parse(data: bytes) -> Body:
    """Check a body and find its model.

    Raises:
        GatewayError: 400: not UTF-8, not JSON, not an object, nested too deep, ``model`` missing,
            not a string or given twice.
    """
    return _parse(data, _one_model(data), _many_brackets(data))


def parse_at_once(data: bytes) -> Body | None:
    """As :func:`parse`; None where it may take so long that other requests would have to wait."""
    one_model, many_brackets = _one_model(data), _many_brackets(data)
    if len(data) > LONG and (many_brackets or not one_model):
        return None
    return _parse(data, one_model, many_brackets)


def _parse(data: bytes, one_model: bool, many_brackets: bool) -> Body:
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
    members = None
    span = None
    if one_model and isinstance(head.model, str):
        span = _plain_model(data, many_brackets)
    if span is None:
        members = member_spans(data)
        span = members.get("model")
    if span is None:
        raise _bad("you must provide a model parameter", "missing_model", "model")
    if not isinstance(head.model, str) or not head.model:
        raise _bad("model must be a non-empty string", "invalid_model", "model")
    return Body(data, head.model, head.stream is True, span, head=head, members=members)


def _one_model(data: bytes) -> bool:
    """Only one place is spelled like the model's, and no name can be spelled another way."""
    return data.count(b'"model"') == 1 and _ESCAPED.search(data) is None


def _many_brackets(data: bytes) -> bool:
    """So many that something may be nested too deep."""
    return data.count(b"{") + data.count(b"[") > MAX_DEPTH


def _plain_model(data: bytes, many_brackets: bool) -> Span | None:
    """Where the model's name stands in a valid object that has one of that spelling, if that can be
    said without looking at all members, one by one."""
    if many_brackets:
        if b'"stream_options"' in data:
            return None
        if _too_deep(data):
            raise _bad("the request body is nested too deep", "invalid_json")
    found = _MODEL.search(data)
    return None if found is None else found.span(1)


def _too_deep(data: bytes) -> bool:
    """Whether valid JSON is nested deeper than :data:`MAX_DEPTH`."""
    bare = _TEXT.sub(b"", data.replace(b"\\\\", b"").replace(b'\\"', b""))
    brackets = bare.translate(_OPEN, _NO_BRACKETS)
    depth = 0
    for at in range(0, len(brackets), LONG):
        depths = list(accumulate(map(_STEP, brackets[at : at + LONG]), initial=depth))
        if max(depths) > MAX_DEPTH + 1:  # the object itself is no nesting
            return True
        depth = depths[-1]
    return False


def member_spans(data: bytes) -> dict[str, Span]:
    """Where the values of the members we look at stand in a valid JSON object.

    Raises:
        GatewayError: 400: nested too deep, or ``model`` given twice (parsers differ in which of
            the two they take, so the one checked here need not be the one that is served).
    """
    found: dict[str, Span] = {}
    position = data.index(b"{") + 1
    member: str | None = None
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
                member = _member(data[start:position])
                expect_key = False
        elif first == 0x3A:  # ':'
            value_start = position
        elif first in b"{[":
            position = _skip(data, position)
        else:  # ',' or '}': the member is complete
            if member is not None:
                if member == "model" and member in found:
                    raise _bad("model is given twice", "invalid_model", "model")
                found[member] = _trim(data, value_start, start)
            if first == 0x7D:
                return found
            member, expect_key = None, True


def _member(token: bytes) -> str | None:
    if b"\\" in token:
        try:
            token = msgspec.json.encode(msgspec.json.decode(token))
        except msgspec.DecodeError:
            return None
    return _MEMBERS.get(token)


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


def _length(span: Span) -> int:
    return span[1] - span[0]


def _bad(message: str, code: str, param: str | None = None) -> GatewayError:
    return GatewayError(400, message, code, param=param)
