"""What one answer of the chat or completions API says: text or none, tokens, its end, errors."""

from __future__ import annotations

from typing import Any

import msgspec

from modeltainer.bench.sse import EventScanner


class _Delta(msgspec.Struct, gc=False):
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: Any = None
    refusal: Any = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    message: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _PromptDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _PromptDetails | None = None


class _Event(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Event).decode


class Answer:
    """One answer as it comes; times are those of the bytes' arrival, in seconds."""

    def __init__(self) -> None:
        self.chunk_times: list[float] = []
        """Arrivals of events that carry something generated: text, reasoning, a tool call."""
        self.first_chunk_tokens: int | None = None
        """Tokens in the first of them, where the server counts in each event."""
        self.prompt_tokens: int | None = None
        self.output_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.counts_each_event = False
        self.finish_reason: str | None = None
        self.done = False
        """``[DONE]`` has come."""
        self.error: str | None = None
        self._scanner = EventScanner()

    def feed(self, now: float, piece: bytes) -> None:
        """The next bytes of an event stream."""
        for data in self._scanner.feed(piece):
            if data == b"[DONE]":
                self.done = True
            else:
                self._take(now, data, streamed=True)

    def whole(self, now: float, body: bytes) -> None:
        """An answer that was not streamed."""
        self._take(now, body, streamed=False)

    def _take(self, now: float, data: bytes, *, streamed: bool) -> None:
        try:
            event = _decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            self.error = self.error or f"not an answer of the API: {error}"
            return
        if event.error is not None:
            self.error = self.error or _message(event.error)
        carries = False
        for choice in event.choices or ():
            said = choice.delta if streamed else choice.message
            if choice.text or (
                said is not None
                and (
                    said.content
                    or said.reasoning_content
                    or said.reasoning
                    or said.tool_calls
                    or said.refusal
                )
            ):
                carries = True
            if choice.finish_reason is not None:
                self.finish_reason = choice.finish_reason
        usage = event.usage
        if usage is not None:
            self.prompt_tokens, self.output_tokens = usage.prompt_tokens, usage.completion_tokens
            if usage.prompt_tokens_details is not None:
                self.cached_tokens = usage.prompt_tokens_details.cached_tokens
        if carries:
            if not self.chunk_times and usage is not None and streamed:
                self.first_chunk_tokens = usage.completion_tokens
                self.counts_each_event = True
            self.chunk_times.append(now)


def _message(error: Any) -> str:
    message = error.get("message") if isinstance(error, dict) else error
    return str(message)[:300]
