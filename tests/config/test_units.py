"""Sizes and times, in Slurm's spellings and people's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeltainer.config.units import (
    format_duration,
    format_mib,
    parse_duration_s,
    parse_size_mib,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *((90, 5400), ("30", 1800), ("10:30", 630), ("4:00:00", 14400), ("1-0", 86400)),
        *(("1-12", 129600), ("2-00:30", 174600), ("1-00:00:01", 86401), ("90m", 5400)),
        *(("1d12h", 129600), ("45s", 45), ("2h", 7200)),
    ],
)
def test_durations(text: object, seconds: int) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-5", 0, "1:2:3:4", True, 1.5, None, "0:00"])
def test_no_durations(text: object) -> None:
    with pytest.raises(ValueError, match="time"):
        parse_duration_s(text)


@given(st.integers(1, 10**7))
def test_what_slurm_prints_is_read_back(seconds: int) -> None:
    assert parse_duration_s(format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "mib"),
    [("24GiB", 24576), ("24G", 24576), ("24 gb", 24576), (512, 512), ("1.5G", 1536), ("1K", 1)],
)
def test_sizes(text: object, mib: int) -> None:
    assert parse_size_mib(text) == mib


@pytest.mark.parametrize("text", ["", "lots", "-1G", 0, True, None, "1X"])
def test_no_sizes(text: object) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_size_mib(text)


@given(st.integers(1, 10**8))
def test_sizes_are_read_back(mib: int) -> None:
    assert parse_size_mib(format_mib(mib)) == mib
