"""Sizes and times as people and Slurm write them."""

from __future__ import annotations

import math
import re

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", re.IGNORECASE)
_MIB = {"": 1.0, "K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0 * 1024}
_SPAN = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?:in)?)?(?:(\d+)s)?", re.IGNORECASE)
_SLURM_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d{1,2}))?(?::(\d{1,2}))?")


def parse_size_mib(value: object) -> int:
    """Memory in MiB. ``24GiB``, ``24G``, ``24 GB`` and ``24576`` are the same amount: as in Slurm,
    a bare number is MiB and units are powers of 1024 (sbatch(1), ``--mem``). Rounded up.

    Raises:
        ValueError: not a size, or not positive.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError("a memory size such as 24GiB was expected")
    match = _SIZE.fullmatch(str(value))
    if match is None:
        raise ValueError(f"{value!r} is not a memory size; write for example 24GiB or 512M")
    mib = math.ceil(float(match[1]) * _MIB[match[2].upper()])
    if mib <= 0:
        raise ValueError("a memory size must be more than zero")
    return mib


def parse_duration_s(value: object) -> int:
    """A time span in seconds. Slurm's forms (``minutes``, ``MM:SS``, ``HH:MM:SS``, ``D-HH``,
    ``D-HH:MM``, ``D-HH:MM:SS``; sbatch(1), ``--time``) and ``1d12h``, ``90m``, ``45s``. As in
    Slurm, a bare number is minutes.

    Raises:
        ValueError: not a time span, or not positive.
    """
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError("a time such as 4:00:00 or 90m was expected")
    text = str(value).strip()
    seconds = _slurm_seconds(text)
    if seconds is None:
        span = _SPAN.fullmatch(text)
        if span is None or not any(span.groups()):
            raise ValueError(
                f"{value!r} is not a time; write for example 4:00:00, 1-12:00:00 or 90m"
            )
        days, hours, minutes, rest = (int(part or 0) for part in span.groups())
        seconds = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    if seconds <= 0:
        raise ValueError("a time must be more than zero")
    return seconds


def _slurm_seconds(text: str) -> int | None:
    match = _SLURM_TIME.fullmatch(text)
    if match is None:
        return None
    days, first, second, third = match.groups()
    a, b, c = int(first), int(second or 0), int(third or 0)
    if days is not None:  # D-HH[:MM[:SS]]
        return ((int(days) * 24 + a) * 60 + b) * 60 + c
    if third is not None:  # HH:MM:SS
        return (a * 60 + b) * 60 + c
    return a * 60 + b  # minutes, or MM:SS


def format_duration(seconds: float) -> str:
    """``D-HH:MM:SS`` as Slurm prints it, days left out when there are none."""
    whole = max(0, int(seconds))
    days, rest = divmod(whole, 86400)
    clock = f"{rest // 3600:02}:{rest % 3600 // 60:02}:{rest % 60:02}"
    return f"{days}-{clock}" if days else clock


def format_mib(mib: int) -> str:
    """``24 GiB`` for whole GiB, else MiB."""
    return f"{mib // 1024} GiB" if mib % 1024 == 0 else f"{mib} MiB"
