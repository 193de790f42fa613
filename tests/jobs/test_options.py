"""Engine arguments reach the engine as they stand in the file."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeltainer.jobs.engines.options import BadOptionError, to_arguments

names = st.from_regex(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", fullmatch=True)
words = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


def test_each_kind_of_value() -> None:
    options = {
        "max_num_seqs": 64,
        "enforce-eager": True,
        "cont-batching": False,
        "dtype": None,
        "rope": {"type": "yarn", "factor": 4.0},
        "chat-template": "a b 'c' $(d)",
        "seed": -1,
    }
    assert to_arguments(options, lists="repeat") == [
        *("--max-num-seqs", "64"),
        "--enforce-eager",
        "--no-cont-batching",
        *("--rope", '{"type":"yarn","factor":4.0}'),
        *("--chat-template", "a b 'c' $(d)"),
        "--seed=-1",
    ]


def test_lists_as_each_engine_takes_them() -> None:
    assert to_arguments({"lora": ["a", "b"]}, lists="repeat") == ["--lora", "a", "--lora", "b"]
    assert to_arguments({"lora-modules": [{"name": "a"}, "b"]}, lists="spread") == [
        "--lora-modules",
        '{"name":"a"}',
        "b",
    ]


@pytest.mark.parametrize("value", [[], [["a"]], "nul\0"])
def test_what_no_command_line_can_carry(value: object) -> None:
    with pytest.raises(BadOptionError, match="lora"):
        to_arguments({"lora": value}, lists="repeat")


@given(st.dictionaries(names, words, max_size=5))
def test_text_is_never_split(options: dict[str, str]) -> None:
    arguments = to_arguments(options, lists="repeat")
    for name, value in options.items():
        if value.startswith("-"):
            assert f"--{name}={value}" in arguments
        else:
            at = arguments.index(f"--{name}")
            assert arguments[at + 1] == value


@given(st.dictionaries(names, st.recursive(st.integers() | words, st.lists), max_size=3))
def test_mappings_survive_as_json(value: dict[str, object]) -> None:
    arguments = to_arguments({"x": value}, lists="spread")
    assert json.loads(arguments[1]) == value
