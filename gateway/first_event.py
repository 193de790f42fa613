"""The first event of a stream decides whether its endpoint has answered.

Engines send comments (``: ping``) while they still read the prompt, and some answer 200 and then
an error event, or nothing at all. So what comes is held back until the first ``data:`` line is
there; until then another endpoint may still be tried.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgspec

MAX_HELD_BYTES = 64 * 1024
"""Beyond this it is no error event: those are short."""

_STATUS = {
    "invalid_request_error": 400,
    "BadRequestError": 400,
    "context_length_exceeded": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "NotFoundError": 404,
    "rate_limit_error": 429,
    "overloaded_error": 503,
}
"""What an error's ``type`` or ``code`` comes to, in OpenAI's, Anthropic's and vLLM's words."""
UNKNOWN = 500
"""One request's failure: not to be tried elsewhere, and nothing against the engine, which lives."""


class Verdict(Enum):
    """What the stream turned out to be."""

    UNDECIDED = "undecided"
    ANSWER = "answer"
    ERROR = "error"
    EMPTY = "empty"


@dataclass(frozen=True)
class StreamedError:
    """An error that came as the first event of a stream with status 200."""

    status: int
    """The error's own HTTP status where it names one in figures or words, else :data:`UNKNOWN`."""
    message: str
    document: dict[str, Any]


class FirstEvent:
    """Holds a stream's beginning until it is clear what it is."""

    def __init__(self) -> None:
        self.held = b""
        self.error: StreamedError | None = None
        self._position = 0
        self._event = b""

    def feed(self, data: bytes) -> Verdict:
        """Take the next piece; :attr:`held` is everything so far."""
        self.held = held = self.held + data if self.held else data
        while True:
            start = self._position
            end = held.find(b"\n", start)
            if end < 0:
                full = len(held) > MAX_HELD_BYTES
                return Verdict.ANSWER if full else Verdict.UNDECIDED
            self._position = end + 1
            if held.startswith(b"data:", start):
                return self._judge(held[start + 5 : end].strip())
            if held.startswith(b"event:", start):
                self._event = held[start + 6 : end].strip()

    def _judge(self, data: bytes) -> Verdict:
        if data == b"[DONE]":
            return Verdict.EMPTY
        if self._event != b"error" and b'"error"' not in data:
            return Verdict.ANSWER
        self.error = streamed_error(_decoded(data), named=self._event == b"error")
        return Verdict.ANSWER if self.error is None else Verdict.ERROR


def error_in(answer: bytes) -> StreamedError | None:
    """The error that an answer in one piece tells of; None where it is not whole, or no JSON."""
    return streamed_error(_decoded(answer), named=False)


def _decoded(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def streamed_error(event: Any, *, named: bool) -> StreamedError | None:
    """The error in an event's JSON, None when it is none.

    Args:
        event: what ``data:`` holds; engines word errors as ``{"error": {...}}`` (vLLM, llama.cpp),
            ``{"error": "text"}`` or, for Anthropic's API, ``{"type": "error", "error": {...}}``.
        named: the event is called ``error``.
    """
    if not isinstance(event, dict):
        return StreamedError(UNKNOWN, "the engine reports an error", {}) if named else None
    error = event.get("error")
    if not error and not named:
        return None
    fields = error if isinstance(error, dict) else event if named and not error else {}
    message = error if isinstance(error, str) else fields.get("message")
    return StreamedError(
        _status(fields.get("code"), fields.get("type")),
        message if isinstance(message, str) and message else "the engine reports an error",
        event,
    )


def _status(code: Any, kind: Any) -> int:
    if isinstance(code, int) and 400 <= code <= 599:
        return code
    for word in (code, kind):
        if isinstance(word, str) and word in _STATUS:
            return _STATUS[word]
    return UNKNOWN
