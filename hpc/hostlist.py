"""Slurm's node lists: ``c[1-2,5]``, ``gpu[01-04]-ib,login``."""

from __future__ import annotations

import re

from modeltainer.hpc.gres import split_outside_parentheses

MAX_NODES = 100_000
"""More than any cluster has; a damaged list must not fill the memory."""


def expand(text: str) -> tuple[str, ...]:
    """The single names of a node list (scontrol(1), ``show hostnames``), in their order.

    Empty for nothing (``(null)``, ``None assigned``); a list that cannot be read is one name.
    """
    text = text.strip()
    if text in {"", "(null)", "None", "None assigned", "n/a"}:
        return ()
    names: list[str] = []
    for part in split_outside_parentheses(text):
        names += _expand_one(part)
        if len(names) > MAX_NODES:
            return (text,)
    return tuple(names)


def _expand_one(part: str) -> list[str]:
    found = re.fullmatch(r"([^\[\]]*)\[([^\[\]]*)\](.*)", part)
    if not found:
        return [part]
    head, ranges, tail = found[1], found[2], found[3]
    numbers: list[str] = []
    for piece in ranges.split(","):
        span = re.fullmatch(r"(\d+)(?:-(\d+))?", piece.strip())
        if not span:
            return [part]
        first, last = int(span[1]), int(span[2] or span[1])
        if last - first > MAX_NODES:
            return [part]
        numbers += [f"{number:0{len(span[1])}d}" for number in range(first, last + 1)]
    tails = _expand_one(tail)
    if len(numbers) * len(tails) > MAX_NODES:
        return [part]
    return [f"{head}{number}{end}" for number in numbers for end in tails]
