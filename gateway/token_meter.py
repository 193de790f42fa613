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
"""Most are far shorter; longer ones (the last of the Responses API, which has the whole answer)
are not held back, and searched as they pass."""
_NAME = b'"usage"'
_FLAT = re.compile(rb'"usage"[ \t\n\r]*:[ \t\n\r]*(\{[^{}]*\})')
"""Counts without objects in them."""
_WINDOW = 8 * 1024
"""Longest stretch in which token counts may stand."""
_BEGINNINGS = frozenset({"message_start", "response.created", "response.in_progress"})
"""Events that may say how many tokens there are, but not how many there will have been."""
_decoder = json.JSONDecoder()


@dataclass(slots=True)
class Tokens:
    """Token counts of one answer; None while the engine has not named them."""

    prompt: int | None = None
    completion: int | None = None

    def take(self, usage: Any, *, begun: bool = False) -> None:
        """Take over what a ``usage`` object says, in OpenAI's or Anthropic's words; later ones
        count (they are totals). ``begun``: the answer has only begun, so what is said of it is no
        count yet."""
        if not isinstance(usage, dict):
            return
        prompt = _count(usage, "prompt_tokens", "input_tokens", begun)
        if prompt is not None:
            self.prompt = prompt
        if begun:
            return
        completion = _count(usage, "completion_tokens", "output_tokens", 0)
        if completion is not None:
            self.completion = completion
        elif self.completion is None and isinstance(usage.get("total_tokens"), int):
            self.completion = 0  # embeddings name no completion


def _count(usage: dict[str, Any], openai: str, anthropic: str, least: int) -> int | None:
    """``least`` 1: 0 comes from a server that does not know yet."""
    for name in (anthropic, openai):
        value = usage.get(name)
        if isinstance(value, int) and value >= least:
            return value
    return None


class _Search:
    """Finds the token counts in JSON of any length while it passes, wherever they stand in it and
    however it is cut."""

    __slots__ = ("_held", "_tokens")

    def __init__(self, tokens: Tokens) -> None:
        """``tokens``: where they go; of several counts the last ones stay."""
        self._tokens = tokens
        self._held = b""

    def feed(self, piece: bytes) -> None:
        """Look at the next piece; less than :data:`_WINDOW` of it is kept."""
        data = self._held + piece if self._held else piece
        position = 0
        # Quotes within strings are escaped, so these bytes can only be a member's name.
        while (at := data.find(_NAME, position)) >= 0:
            window = data[at : at + _WINDOW]
            if not self._decided(window) and len(window) < _WINDOW:
                self._held = data[at:]
                return
            position = at + len(_NAME)
        self._held = data[max(position, len(data) - len(_NAME) + 1) :]

    def _decided(self, window: bytes) -> bool:
        """Whether what begins here is whole, or is no object; a whole one is taken."""
        value = window[len(_NAME) :].lstrip()
        if not value.startswith(b":"):
            return bool(value)
        value = value[1:].lstrip()
        if not value.startswith(b"{"):
            return bool(value)
        if b"}" not in value:
            return False
        try:
            self._tokens.take(_decoder.raw_decode(value.decode("utf-8", "replace"))[0])
        except (ValueError, RecursionError):
            return False
        return True


class JsonMeter:
    """Looks for the counts in an answer in one piece."""

    __slots__ = ("_search", "tokens")
    events = 0

    def __init__(self) -> None:
        self.tokens = Tokens()
        self._search: _Search | None = None

    def feed(self, piece: bytes) -> bytes:
        """Take note of a piece, and give it back."""
        if self._search is None:
            self._search = _Search(self.tokens)
        self._search.feed(piece)
        return piece

    def whole(self, answer: bytes) -> bytes:
        """As :meth:`feed`, of all of it."""
        at = answer.find(_NAME)
        found = _FLAT.match(answer, at) if at >= 0 else None
        if found is None or answer.find(_NAME, found.end()) >= 0:
            return self.feed(answer)
        try:
            self.tokens.take(msgspec.json.decode(found[1]))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self.feed(answer)
        return answer

    def skip(self, events: bytes) -> bool:
        """It has no events."""
        return False

    def finish(self) -> bytes:
        """The answer has ended; nothing was held back."""
        return b""


class StreamMeter:
    """Looks at the events of a stream; with ``strip`` the one that only has the token counts is
    taken out. Then, and only then, a part of an event is held back until it is whole."""

    __slots__ = ("_long", "_part", "_strip", "events", "tokens")

    def __init__(self, *, strip: bool) -> None:
        self.tokens = Tokens()
        self.events = 0
        """How many have passed: about as many as tokens, where the engine could not finish."""
        self._strip = strip
        self._part = b""
        self._long: _Search | None = None
        """In the midst of a long event."""

    def feed(self, piece: bytes) -> bytes:
        """Take the next piece; what is to be sent now."""
        whole = piece.endswith(b"\n\n") and not (self._part or self._long)
        if whole and _NAME not in piece:
            self.events += piece.count(b"\n\n")
            return piece
        return self._look(piece)

    def skip(self, events: bytes) -> bool:
        """Count whole events that name no counts; False: there is the beginning of one already, so
        they have to be fed."""
        if self._part or self._long is not None:
            return False
        self.events += events.count(b"\n\n")
        return True

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
            self.events += 1
            if self._long is not None or len(event) > _MAX_EVENT:
                self._pass(event)
                self._long = None
                kept.append(event)
            elif not (_NAME in event and self._is_counts_only(event)):
                kept.append(event)
        rest = data[position:]
        if self._long is not None or len(rest) > _MAX_EVENT:
            # What may be the first bytes of the blank line that ends it is looked at again.
            end = len(rest) - (2 if rest.endswith(b"\n\r") else rest.endswith(b"\n"))
            self._pass(rest[:end])
            kept.append(rest[:end])
            rest = rest[end:]
        self._part = rest
        return b"".join(kept) if self._strip else piece

    def _pass(self, part: bytes) -> None:
        if self._long is None:
            self._long = _Search(self.tokens)
        self._long.feed(part)

    def _is_counts_only(self, event: bytes) -> bool:
        found = _event_data(event)
        if not isinstance(found, dict):
            return False
        usage = found.get("usage")
        self.tokens.take(usage)
        begun = found.get("type") in _BEGINNINGS
        for name in ("response", "message"):
            inner = found.get(name)
            if isinstance(inner, dict):
                self.tokens.take(inner.get("usage"), begun=begun)
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
