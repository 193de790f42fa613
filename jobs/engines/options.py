"""Engine arguments from YAML values to a command line, without any string-splitting."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

ListStyle = Literal["repeat", "spread"]
"""``repeat``: ``--lora a --lora b`` (llama.cpp); ``spread``: ``--lora-modules a b`` (argparse's
``nargs='+'``, vLLM)."""


class BadOptionError(ValueError):
    """An engine argument has a value that no command line can carry."""


def to_arguments(options: Mapping[str, Any], lists: ListStyle) -> list[str]:
    """Command line arguments in the order of the file.

    ``true`` is the bare option, ``false`` its ``--no-`` form, null leaves it out, a mapping becomes
    JSON, text and numbers go as they are, each as one argument.

    Raises:
        BadOptionError: a list is empty or nested, or text has a NUL byte.
    """
    arguments: list[str] = []
    for name, value in options.items():
        option = "--" + name.replace("_", "-")
        if value is None:
            continue
        if isinstance(value, bool):
            arguments.append(option if value else f"--no-{option[2:]}")
        elif isinstance(value, (list, tuple)):
            items = [_item(name, item) for item in value]
            if not items:
                raise BadOptionError(f"{name}: the list is empty; leave the option out instead")
            if lists == "spread":
                arguments += [option, *items]
            else:
                arguments += [part for item in items for part in (option, item)]
        else:
            arguments += _joined(option, _item(name, value))
    return arguments


def _joined(option: str, value: str) -> list[str]:
    # A value that starts with a dash would be read as the next option.
    return [f"{option}={value}"] if value.startswith("-") else [option, value]


def _item(name: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if isinstance(value, (list, tuple)):
        raise BadOptionError(f"{name}: a list within a list has no form on a command line")
    text = json.dumps(value) if isinstance(value, (bool, float)) else str(value)
    if "\0" in text:
        raise BadOptionError(f"{name}: the value has a NUL byte")
    return text
