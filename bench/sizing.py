"""How many tokens words make, found by asking: ``usage`` counts what the server itself counts,
template and all."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from modeltainer.bench.words import WORDS
from modeltainer.bench.workload import Sizer

_ENOUGH = 64
"""Words of one token each that are needed for exact prompts."""
_MAX_QUESTIONS = 80
_LEAST = 0.1
"""Tokens of a word; no tokenizer has so few."""


def measure_sizer(count: Callable[[str], int], words: Sequence[str] = WORDS) -> Sizer:
    """Find the words that are one token each, by halving groups of them.

    Args:
        count: tokens of a prompt with this text.
        words: candidates; the first is every prompt's first word.
    """
    first = words[0]
    one, two = count(first), count(f"{first} {first}")
    questions = 2
    if two - one == 1:
        overhead = one - 1
        good = [first]
        groups = [list(words[1:])]
        while groups and len(good) < _ENOUGH and questions < _MAX_QUESTIONS:
            group = groups.pop()
            questions += 1
            if count(" ".join([first, *group])) == one + len(group):
                good += group
            elif len(group) > 1:
                middle = len(group) // 2
                groups += [group[:middle], group[middle:]]
        if len(good) >= _ENOUGH:
            return Sizer(tuple(good), 1.0, overhead, exact=True)
    sample = list(words[:24])  # few, for a context may be small
    per_word = (count(" ".join(sample)) - one) / (len(sample) - 1)
    if per_word < _LEAST:
        return Sizer()  # counts that hardly grow would make prompts of millions of words
    return Sizer(tuple(words), per_word, max(0, round(one - per_word)), exact=False)
