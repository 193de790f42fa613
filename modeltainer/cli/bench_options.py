"""Values of ``mt-submit bench``'s options: lists of numbers, spans of time, objectives."""

from __future__ import annotations

import re

import click

_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


def count(value: str) -> int:
    """A whole number above 0.

    Raises:
        click.BadParameter: it is none.
    """
    text = value.strip()
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise click.BadParameter(f"{value!r} is not a whole number above 0")
    return int(text)


def counts(value: str) -> tuple[int, ...]:
    """Whole numbers above 0, with commas between.

    Raises:
        click.BadParameter: one is none.
    """
    return tuple(count(part) for part in value.split(","))


def rates(value: str) -> tuple[float, ...]:
    """Requests per second above 0, with commas between.

    Raises:
        click.BadParameter: one is none.
    """
    try:
        found = tuple(float(part) for part in value.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < rate < 1e6 for rate in found):
        raise click.BadParameter(f"{value!r} is not requests per second, such as 0.5,1,2")
    return found


def duration(value: str) -> float:
    """A span of time, as ``500ms``, ``30s``, ``5m`` or plain seconds; in seconds.

    Raises:
        click.BadParameter: it is none.
    """
    found = _SPAN.fullmatch(value.strip())
    seconds = float(found[1]) * _SECONDS[found[2]] if found else 0.0
    if seconds <= 0:
        raise click.BadParameter(f"{value!r} is not a span of time, such as 500ms, 30s or 5m")
    return seconds


def token_range(value: str) -> tuple[int, int]:
    """A number of tokens, or a range of which each request draws one.

    Raises:
        click.BadParameter: not numbers, or downwards.
    """
    low, _, high = value.partition("-")
    numbers = count(low), count(high or low)
    if numbers[0] > numbers[1]:
        raise click.BadParameter(f"{value!r} goes downwards")
    return numbers


def objectives(value: str) -> dict[str, float]:
    """``ttft=500ms,tpot=50ms,e2e=10s``, any of them, as fields of
    :class:`modeltainer.bench.metrics.Slo`.

    Raises:
        click.BadParameter: another name, or no span of time.
    """
    found: dict[str, float] = {}
    for part in value.split(","):
        name, _, limit = part.strip().partition("=")
        if name not in {"ttft", "tpot", "e2e"}:
            raise click.BadParameter(f"{part!r}: objectives are ttft, tpot and e2e")
        found[f"{name}_s"] = duration(limit)
    return found
