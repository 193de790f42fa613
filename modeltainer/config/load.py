"""From files and environment to a :class:`Config`, or to every fault with its line."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from modeltainer.config.document import Document, Location, dotted, read_document
from modeltainer.config.problems import ConfigError, Problem
from modeltainer.config.schema import Config

ENVIRONMENT: Mapping[str, Location] = {
    "MODELTAINER_REGISTRY": ("site", "registry"),
    "MODELTAINER_CACHE": ("site", "cache"),
    "MODELTAINER_EXECUTOR": ("site", "executor"),
    "MODELTAINER_RUNTIME": ("site", "runtime"),
    "MODELTAINER_PORTS": ("site", "ports"),
    "MODELTAINER_PARTITION": ("site", "defaults", "partition"),
    "MODELTAINER_ACCOUNT": ("site", "defaults", "account"),
    "MODELTAINER_QOS": ("site", "defaults", "qos"),
    "MODELTAINER_WALLTIME": ("site", "defaults", "walltime"),
}
"""Environment variables over the file's and the user's site section."""


def user_folder(environ: Mapping[str, str]) -> Path:
    """``$XDG_CONFIG_HOME/modeltainer``, by default ``~/.config/modeltainer``."""
    base = environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path("~/.config").expanduser()) / "modeltainer"


def find(environ: Mapping[str, str] | None = None) -> Path:
    """The configuration file when none is named: ``$MODELTAINER_CONFIG``, ``config/models.yaml``
    or ``models.yaml`` here, then ``~/.config/modeltainer/models.yaml``.

    Raises:
        ConfigError: there is none; says where it was looked for.
    """
    environ = os.environ if environ is None else environ
    named = environ.get("MODELTAINER_CONFIG")
    if named:
        return Path(named).expanduser()
    places = [
        Path("config/models.yaml"),
        Path("models.yaml"),
        user_folder(environ) / "models.yaml",
    ]
    for place in places:
        if place.is_file():
            return place
    looked = ", ".join(str(place) for place in places)
    raise ConfigError(
        [
            Problem(
                places[-1],
                1,
                1,
                "",
                f"there is no configuration: looked for {looked}",
                "mt-submit init writes one; --config and MODELTAINER_CONFIG name another",
            )
        ]
    )


def load(file: Path | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """Read and check a configuration.

    Args:
        file: the models.yaml; None finds it (:func:`find`).
        environ: environment, by default this process's own.

    Raises:
        ConfigError: with every fault: file, line, field, what is wrong, nearest right spelling.
    """
    environ = os.environ if environ is None else environ
    document = read_document(find(environ) if file is None else file)
    if document.data is None:
        raise ConfigError(
            [Problem(document.file, 1, 1, "", "is empty; it needs a models: section")]
        )
    if not isinstance(document.data, dict):
        raise ConfigError([Problem(document.file, 1, 1, "", "must be a mapping with models:")])
    origins: dict[Location, Document | str] = {}
    data = dict(document.data)
    user_file = user_folder(environ) / "site.yaml"
    if user_file.is_file():
        user_document = read_document(user_file)
        if not isinstance(user_document.data, (dict, type(None))):
            raise ConfigError([Problem(user_file, 1, 1, "", "must be a mapping of site fields")])
        for below, value in _leaves(user_document.data or {}):
            location = ("site", *below)
            _put(data, location, value)
            origins[location] = user_document
    for variable, location in ENVIRONMENT.items():
        if environ.get(variable):
            _put(data, location, environ[variable])
            origins[location] = variable
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        problems = [_problem(fault, document, origins) for fault in faults]
        misspelt = {
            (_without_tags(tuple(fault["loc"]))[:-1], problem.suggestion)
            for fault, problem in zip(faults, problems, strict=True)
        }
        raise ConfigError(
            [
                problem
                for fault, problem in zip(faults, problems, strict=True)
                if not _is_the_other_half(fault, misspelt)
            ]
        ) from None


def _is_the_other_half(fault: Any, misspelt: set[tuple[Location, str]]) -> bool:
    """A field that is missing because it stands there misspelt is one fault, not two."""
    location = _without_tags(tuple(fault["loc"]))
    return (
        fault["type"] == "missing"
        and (location[:-1], f"did you mean {str(location[-1])!r}?") in misspelt
    )


def _leaves(data: Mapping[str, Any], at: Location = ()) -> list[tuple[Location, Any]]:
    found: list[tuple[Location, Any]] = []
    for key, value in data.items():
        if isinstance(value, dict) and value:
            found += _leaves(value, (*at, key))
        else:
            found.append(((*at, key), value))
    return found


def _put(data: dict[str, Any], location: Location, value: Any) -> None:
    """Set one nested value; sections on the way are copied, or made where missing."""
    head, *rest = location
    if not rest:
        data[str(head)] = value
        return
    below = data.get(str(head))
    if below is not None and not isinstance(below, dict):
        return  # the file's own fault at that place is the one to report
    data[str(head)] = dict(below or {})
    _put(data[str(head)], tuple(rest), value)


def _problem(fault: Any, document: Document, origins: Mapping[Location, Document | str]) -> Problem:
    location = _without_tags(tuple(fault["loc"]))
    message = _message(fault)
    suggestion = _suggestion(fault, location)
    origin = next(
        (origins[location[:n]] for n in range(len(location), 0, -1) if location[:n] in origins),
        None,
    )
    if isinstance(origin, str):
        return Problem(Path(f"${origin}"), 1, 1, dotted(location), message, suggestion)
    if isinstance(origin, Document):
        place = origin.place(location[1:])
        return Problem(origin.file, place.line, place.column, dotted(location), message, suggestion)
    place = document.place(location)
    return Problem(document.file, place.line, place.column, dotted(location), message, suggestion)


def _without_tags(location: Location) -> Location:
    """Pydantic adds the names of union members and ``[key]`` to a location; the file has no such
    fields."""
    tags = {"bool", "[key]", "str", "int"}
    return tuple(
        part
        for part in location
        if not (
            isinstance(part, str)
            and (part in tags or part.startswith(("constrained-", "function-")))
        )
    )


def _message(fault: Any) -> str:
    kind = fault["type"]
    given = fault.get("input")
    shown = f", not {given!r}" if isinstance(given, (str, int, float, bool)) else ""
    if kind == "extra_forbidden":
        return "is not a field here"
    if kind == "missing":
        return "is missing"
    if kind == "literal_error":
        return f"must be {fault['ctx']['expected']}{shown}"
    if kind == "value_error":
        return str(fault["ctx"]["error"])
    if kind in {"model_type", "dict_type", "model_attributes_type"}:
        return f"must be a mapping (indented key: value lines){shown}"
    if kind == "string_pattern_mismatch":
        return f"{given!r} does not have the right form ({fault['ctx']['pattern']})"
    text = str(fault["msg"])
    return f"{text[0].lower()}{text[1:]}{shown}"


def _suggestion(fault: Any, location: Location) -> str:
    if fault["type"] == "extra_forbidden":
        fields = _fields_at(location[:-1])
        near = difflib.get_close_matches(str(location[-1]), fields, n=1, cutoff=0.5)
        if near:
            return f"did you mean {near[0]!r}?"
        return f"fields here: {', '.join(sorted(fields))}" if fields else ""
    if fault["type"] == "literal_error" and isinstance(fault.get("input"), str):
        choices = [
            part.strip("' ") for part in fault["ctx"]["expected"].replace(" or ", ",").split(",")
        ]
        near = difflib.get_close_matches(fault["input"].lower(), choices, n=1, cutoff=0.4)
        return f"did you mean {near[0]!r}?" if near else ""
    return ""


def _fields_at(location: Location) -> list[str]:
    """Names of the fields of the section at ``location``."""
    section: type[BaseModel] | None = Config
    for part in location:
        if section is None:
            return []
        info = section.model_fields.get(str(part))
        if info is None:
            continue  # a key of a mapping such as models: the section's type was found already
        section = _section_of(info.annotation)
    return list(section.model_fields) if section is not None else []


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The section in an annotation such as ``dict[str, ModelSection]`` or ``X | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(
        (found for item in get_args(annotation) if (found := _section_of(item)) is not None), None
    )
