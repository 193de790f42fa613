"""What is asked: request bodies, the same for the same seed and index.

By default each prompt begins with words of its own, so that no prefix cache answers for the model;
a shared prefix, where wanted, stands before them. The two sides of an A/B run get these words in
another order each, for both may be one engine, and the first of a pair would fill its cache for the
second; a prompt is as long for one side as for the other.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from modeltainer.bench.words import WORDS

NONCE_WORDS = 8
"""Words of its own at a prompt's start: 200 ** 8 is more prompts than anybody sends."""

Api = Literal["chat", "completions"]
PATHS: dict[str, str] = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}


class WorkloadError(ValueError):
    """A file of prompts cannot be used; the message says why."""


@dataclass(frozen=True)
class Sizer:
    """How many tokens words make, as measured of one model."""

    words: tuple[str, ...] = WORDS
    tokens_per_word: float = 1.0
    overhead: int = 0
    """Tokens of a prompt without words: template, begin of sequence."""
    exact: bool = False
    """Each word is one token: prompts have exactly the tokens asked for."""

    def words_for(self, tokens: int) -> int:
        """Words of a prompt of this many tokens."""
        return max(1, round((tokens - self.overhead) / self.tokens_per_word))


@dataclass(frozen=True)
class Length:
    """A number of tokens, or a range of which each request draws one."""

    low: int
    high: int

    def draw(self, random_: random.Random) -> int:
        """One of them."""
        return self.low if self.low == self.high else random_.randint(self.low, self.high)


@dataclass(frozen=True)
class Workload:
    """All that makes a request's body but its index."""

    api: Api = "chat"
    stream: bool = True
    seed: int = 0
    salt: str = ""
    """Differs from run to run and point to point, so that no prompt is ever repeated; with
    ``nonce`` off it is not used."""
    nonce: bool = True
    prompt: Length = field(default_factory=lambda: Length(256, 256))
    output: Length = field(default_factory=lambda: Length(128, 128))
    prompt_tokens_of: tuple[int | None, ...] = ()
    """From a trace: tokens by index, in place of ``prompt``."""
    output_tokens_of: tuple[int | None, ...] = ()
    shared_prefix: int = 0
    """Tokens that all prompts begin with."""
    sizer: Sizer = field(default_factory=Sizer)
    texts: tuple[str, ...] = ()
    """Prompts from a file, in place of synthetic ones; taken in turn."""
    ignore_eos: bool = True
    """Have the server go on to the length asked for."""
    ignore_eos_refused: bool = False
    """It was wanted, but the server does not take it."""
    continuous_usage: bool = True
    extra: dict[str, Any] = field(default_factory=dict)
    """More fields of the request, as they are."""

    def prompt_text(self, index: int, side: int = 0) -> str:
        """The prompt of one request.

        Args:
            side: of an A/B run: 0 or 1.
        """
        own = random.Random(f"{self.seed}/{index}/{self.salt if self.nonce else ''}")  # noqa: S311
        if self.texts:
            text = self.texts[index % len(self.texts)]
            if not self.nonce:
                return text
            # The first word stays: it has no space before it, which may change its tokens.
            first, *more = self._words(own, NONCE_WORDS)
            return f"{' '.join([first, *self._of_side(more, side)])}\n{text}"
        wanted = self.prompt_tokens_of[index] if index < len(self.prompt_tokens_of) else None
        count = self.sizer.words_for(self.prompt.draw(own) if wanted is None else wanted)
        shared = min(count, round(self.shared_prefix / self.sizer.tokens_per_word))
        # The first word has no space before it and may be cut otherwise; it is always the same.
        parts = [self.sizer.words[0]]
        if shared > 1:
            parts += self._words(random.Random(self.seed), shared - 1)  # noqa: S311
        if (rest := count - max(1, shared)) > 0:
            parts += self._of_side(self._words(own, rest), side)
        return " ".join(parts)

    def _words(self, random_: random.Random, count: int) -> list[str]:
        return random_.choices(self.sizer.words, k=count)

    def _of_side(self, words: list[str], side: int) -> list[str]:
        """The same words, so that they are as many tokens, but from the middle on for the second;
        equal where a cache is to know the prompts."""
        if not side or not self.nonce or self.shared_prefix:
            return words
        half = len(words) // 2
        return words[half:] + words[:half]

    def output_tokens(self, index: int) -> int:
        """How long one request's answer is to be."""
        own = random.Random(f"{self.seed}/{index}/output")  # noqa: S311
        wanted = self.output_tokens_of[index] if index < len(self.output_tokens_of) else None
        return max(1, self.output.draw(own) if wanted is None else wanted)

    def body(self, index: int, model: str, side: int = 0) -> bytes:
        """The JSON of one request; ``side`` as for :meth:`prompt_text`."""
        text = self.prompt_text(index, side)
        fields: dict[str, Any] = {"model": model}
        if self.api == "chat":
            fields["messages"] = [{"role": "user", "content": text}]
        else:
            fields["prompt"] = text
        fields["max_tokens"] = self.output_tokens(index)
        fields["temperature"] = 0
        if self.ignore_eos:
            fields["ignore_eos"] = True
        if self.stream:
            fields["stream"] = True
            options = {"include_usage": True}
            if self.continuous_usage:
                options["continuous_usage_stats"] = True
            fields["stream_options"] = options
        return msgspec.json.encode({**fields, **self.extra})


def read_prompts(path: Path) -> tuple[str, ...]:
    """Prompts from a file: ShareGPT's JSON (the first human turn of each conversation), JSON lines
    with ``prompt`` or ``messages`` (the last user message), else a prompt a line.

    Raises:
        WorkloadError: no prompts in it, or a line of another form.
        OSError: it cannot be read.
    """
    text = path.read_text()
    if path.suffix == ".json" or text.lstrip().startswith("["):
        prompts = _sharegpt(path, text)
    elif path.suffix == ".jsonl" or text.lstrip().startswith("{"):
        prompts = [_line(path, n, line) for n, line in enumerate(text.splitlines(), 1) if line]
    else:
        prompts = [line for line in text.splitlines() if line.strip()]
    if not prompts:
        raise WorkloadError(f"{path} has no prompts")
    return tuple(prompts)


def _sharegpt(path: Path, text: str) -> list[str]:
    try:
        prompts = []
        for conversation in json.loads(text):
            turns = conversation.get("conversations") or conversation.get("conversation") or []
            first = next((turn for turn in turns if turn["from"] in {"human", "user"}), None)
            if first is not None and first["value"].strip():
                prompts.append(str(first["value"]))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WorkloadError(f"{path}: not ShareGPT's form: {error}") from None
    return prompts


def _line(path: Path, number: int, line: str) -> str:
    try:
        fields = json.loads(line)
        if "prompt" in fields:
            return str(fields["prompt"])
        users = [one["content"] for one in fields["messages"] if one["role"] == "user"]
        return str(users[-1])
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise WorkloadError(
            f"{path}, line {number}: neither prompt nor messages in it: {error}"
        ) from None
