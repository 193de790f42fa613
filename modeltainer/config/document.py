"""A YAML file with the place of every value, so that an error can point at its line.

YAML 1.2's rules for plain scalars, and numbers only in their usual spelling: ``no``, ``on``,
``012`` and ``4:00:00`` stay text (YAML 1.1, and so PyYAML's default, would read two booleans, the
number 10 and the number 14400). Duplicate keys are errors, and so are
alias bombs: the expanded document has a size limit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from modeltainer.config.problems import ConfigError, Problem

MAX_FILE_BYTES = 1024 * 1024
MAX_NODES = 50_000
MAX_DEPTH = 50

Location = tuple["str | int", ...]


@dataclass(frozen=True)
class Place:
    """Where a value stands, counted from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class Document:
    """One parsed file: its data and the place of each value (and of each mapping's keys)."""

    file: Path
    data: Any
    places: dict[Location, Place]

    def place(self, location: Location) -> Place:
        """The place of ``location``, or of its nearest enclosing value that the file has."""
        for length in range(len(location), -1, -1):
            found = self.places.get(location[:length])
            if found is not None:
                return found
        return Place(1, 1)


class _CoreLoader(yaml.SafeLoader):
    """SafeLoader with the scalar rules of YAML 1.2's core schema."""


_CoreLoader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
):
    _CoreLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), [*_first, ""]
    )


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    return int(text, 0) if text.lstrip("+-")[:2] in {"0x", "0o"} else int(text)


_CoreLoader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def read_document(file: Path) -> Document:
    """Parse one YAML file.

    Raises:
        ConfigError: missing, unreadable, too large, not UTF-8, not YAML, a duplicate key, or an
            alias bomb; with file, line and what to do.
    """
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _single(file, 1, 1, f"cannot be read: {error.strerror or error}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise _single(file, 1, 1, f"is larger than {MAX_FILE_BYTES // 1024} KiB")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise _single(file, line, 1, "is not UTF-8 text") from error
    return parse_document(text, file)


def parse_document(text: str, file: Path) -> Document:
    """Parse YAML text; ``file`` is only named in errors. Raises as :func:`read_document`."""
    try:
        loader = _CoreLoader(text)
    except yaml.YAMLError as error:
        raise _single(file, 1, 1, f"not valid YAML: {error}") from error
    try:
        node = loader.get_single_node()
        if node is None:
            return Document(file, None, {})
        places: dict[Location, Place] = {}
        problems: list[Problem] = []
        _walk(node, (), places=places, problems=problems, file=file, budget=[MAX_NODES])
        if problems:
            raise ConfigError(problems)
        return Document(file, loader.construct_document(node), places)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        detail = " ".join(part for part in (error.context, error.problem) if part)
        raise _single(file, line, column, f"not valid YAML: {detail}") from error
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _single(file, 1, 1, f"not valid YAML: {error}") from error
    except (KeyError, AttributeError) as error:
        # So do PyYAML's constructors say it.
        why = "a value is not what its tag (!!bool, !!timestamp) says"
        raise _single(file, 1, 1, f"not valid YAML: {why}") from error
    finally:
        loader.dispose()


def _walk(
    node: yaml.Node,
    location: Location,
    *,
    places: dict[Location, Place],
    problems: list[Problem],
    file: Path,
    budget: list[int],
) -> None:
    """Note every place; aliases are walked each time they appear, so that a bomb runs into the
    budget before anything is built from it."""
    budget[0] -= 1
    if budget[0] < 0 or len(location) > MAX_DEPTH:
        raise _single(file, 1, 1, "expands to too many values (an alias bomb?)")
    places.setdefault(location, Place(node.start_mark.line + 1, node.start_mark.column + 1))
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            place = Place(key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if not isinstance(key_node, yaml.ScalarNode):
                problems.append(Problem(file, place.line, place.column, "", "a key must be text"))
                continue
            key = str(key_node.value)
            if key in seen and key != "<<":
                problems.append(
                    Problem(
                        file,
                        place.line,
                        place.column,
                        dotted((*location, key)),
                        f"is given twice (first in line {seen[key]})",
                    )
                )
            seen[key] = place.line
            below = (*location, key)
            places[below] = place
            _walk(value_node, below, places=places, problems=problems, file=file, budget=budget)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _walk(
                item, (*location, index), places=places, problems=problems, file=file, budget=budget
            )


def dotted(location: Location) -> str:
    """``models.qwen.resources.gpus``, ``site.binds[2]``."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{part}"
    return text


def _single(file: Path, line: int, column: int, message: str) -> ConfigError:
    return ConfigError([Problem(file, line, column, "", message)])
