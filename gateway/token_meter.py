"""Counts an answer's tokens from what its engine says, while the answer passes.

A stream names them only if it is asked to (``stream_options.include_usage``). The gateway asks on
its own behalf, and takes the event with the counts out again for a client that did not.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import msgspec

_BOUNDARY = re.compile(rb"\n\r?\n")
_MAX_EVENT = 64 * 1024
"""Events with token counts are far shorter; longer ones pass without being looked at."""
_TAIL = 8 * 1024
"""Of a JSON answer: its token counts stand near the end."""
_decoder = json.JSONDecoder()


@dataclass
class Tokens:
    """Token counts of one answer; None while the engine has not named them."""

    prompt: int | None = None
    completion: int | None = None

    def take(self, usage: Any) -> None:
        """Take over what a ``usage`` object says, in OpenAI's or Anthropic's words; later ones
        count (they are totals)."""
        if not isinstance(usage, dict):
            return
        for names, field in (
            (("prompt_tokens", "input_tokens"), "prompt"),
            (("completion_tokens", "output_tokens"), "completion"),
        ):
            for name in names:
                value = usage.get(name)
                if isinstance(value, int) and value >= 0:
                    setattr(self, field, value)
        if self.completion is None and isinstance(usage.get("total_tokens"), int):
            self.completion = 0  # embeddings name no completion


class JsonMeter:
    """Looks at the end of an answer in one piece."""

    events = 0

    def __init__(self) -> None:
        self.tokens = Tokens()
        self._tail = b""

    def feed(self, piece: bytes) -> bytes:
        """Take note of a piece, and give it back."""
        if len(piece) >= _TAIL:
            self._tail = piece[-_TAIL:]
        else:
            self._tail = (self._tail + piece)[-_TAIL:] if self._tail else piece
        return piece

    def finish(self) -> bytes:
        """The answer has ended; nothing was held back."""
        # Quotes within strings are escaped, so these bytes can only be the member's name.
        at = self._tail.rfind(b'"usage"')
        start = self._tail.find(b"{", at)
        if at >= 0 and start >= 0 and self._tail[at + 7 : start].strip() == b":":
            try:
                text = self._tail[start:].decode("utf-8", "replace")
                self.tokens.take(_decoder.raw_decode(text)[0])
            except (ValueError, RecursionError):
                pass
        return b""


class StreamMeter:
    """Looks at the events of a stream; with ``strip`` the one that only has the token counts is
    taken out. Then, and only then, a part of an event is held back until it is whole."""

    def __init__(self, *, strip: bool) -> None:
        self.tokens = Tokens()
        self.events = 0
        """How many have passed: about as many as tokens, where the engine could not finish."""
        self._strip = strip
        self._part = b""
        self._skipping = False

    def feed(self, piece: bytes) -> bytes:
        """Take the next piece; what is to be sent now."""
        whole = piece.endswith(b"\n\n") and not (self._part or self._skipping)
        if whole and b'"usage"' not in piece:
            self.events += piece.count(b"\n\n")
            return piece
        return self._look(piece)

    def finish(self) -> bytes:
        """The stream has ended, or broken off: what was held back."""
        held, self._part = self._part, b""
        return held if self._strip else b""

    def _look(self, piece: bytes) -> bytes:
        data, self._part = self._part + piece, b""
        kept: list[bytes] = []
        position = 0
        for boundary in _BOUNDARY.finditer(data):
            event = data[position : boundary.end()]
            position = boundary.end()
            skipped, self._skipping = self._skipping, False
            self.events += 1
            if skipped or not (b'"usage"' in event and self._is_counts_only(event)):
                kept.append(event)
        rest = data[position:]
        if self._skipping or len(rest) > _MAX_EVENT:
            self._skipping = True
            kept.append(rest)
        else:
            self._part = rest
        return b"".join(kept) if self._strip else piece

    def _is_counts_only(self, event: bytes) -> bool:
        found = _event_data(event)
        if not isinstance(found, dict):
            return False
        usage = found.get("usage")
        self.tokens.take(usage)
        for name in ("response", "message"):
            inner = found.get(name)
            if isinstance(inner, dict):
                self.tokens.take(inner.get("usage"))
        return found.get("choices") == [] and isinstance(usage, dict)


def _event_data(event: bytes) -> Any:
    for line in event.splitlines():
        if line.startswith(b"data:"):
            try:
                return msgspec.json.decode(line[5:])
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                return None
    return None


Meter = JsonMeter | StreamMeter
