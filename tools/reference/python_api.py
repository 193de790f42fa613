"""The page of the Python API: what ``from modeltainer import …`` gives, and what it raises."""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import Any

import modeltainer
from modeltainer.config.problems import ConfigError
from modeltainer.config.resolve import CannotLaunchError
from modeltainer.service import LaunchError, StopReport, WaitTimeoutError
from tools.reference.markdown import HEAD, code, one_line, table
from tools.reference.source import fields

_EXAMPLE = """\
```python
from modeltainer import Overrides, launch, list_launches, stop, wait

rows = launch("qwen2.5-7b", replicas=2, overrides=Overrides(partition="gpu"))
rows = wait([row.launch_id for row in rows], timeout_s=1800)
print([row.url for row in rows if not row.failed])
stop(["qwen2.5-7b"])
```
"""


def page() -> str:
    """Functions, then classes, then exceptions."""
    public = [getattr(modeltainer, name) for name in modeltainer.__all__ if name != "__version__"]
    functions = [one for one in public if inspect.isfunction(one)]
    classes = [one for one in public if inspect.isclass(one)]
    parts = ["# The Python API\n", HEAD]
    parts.append("All of it is imported from `modeltainer`; other modules may change.\n")
    parts.append(_EXAMPLE)
    for one in functions:
        parts += [f"## {_public_name(one)}\n", _function(one)]
    for each in (*classes, StopReport):
        parts += [f"## {each.__name__}\n", *_class(each)]
    parts += ["## Exceptions\n"]
    for error in (LaunchError, WaitTimeoutError, CannotLaunchError, ConfigError):
        parts.append(
            f"`{error.__module__}.{error.__name__}`: {_plain(inspect.getdoc(error) or '')}\n"
        )
    return "\n".join(parts)


def _public_name(function: Any) -> str:
    return next(name for name in modeltainer.__all__ if getattr(modeltainer, name) is function)


def _function(function: Any) -> str:
    shown = inspect.signature(function)
    arguments = ",\n    ".join(_arguments(shown))
    name = _public_name(function)
    text, _, rest = (inspect.getdoc(function) or "").partition("\nArgs:\n")
    if not rest:
        text, _, raises = text.partition("\nRaises:\n")
        arguments_text = ""
    else:
        arguments_text, _, raises = rest.partition("\nRaises:\n")
    parts = [f"```text\n{name}(\n    {arguments},\n) -> {shown.return_annotation}\n```\n"]
    parts.append(_plain(text).strip() + "\n")
    parts += [f"{_items(arguments_text)}\n"] if arguments_text else []
    parts += [f"Raises\n\n{_items(raises)}\n"] if raises else []
    return "\n".join(parts)


def _arguments(signature: inspect.Signature) -> list[str]:
    found = []
    for one in signature.parameters.values():
        if one.kind is one.KEYWORD_ONLY and "*" not in found:
            found.append("*")
        default = "" if one.default is one.empty else f" = {one.default!r}"
        found.append(f"{one.name}: {one.annotation}{default}")
    return found


def _items(block: str) -> str:
    """``name: text`` with hanging lines, as a list."""
    whole = re.sub(r"\n\s+", " ", re.sub(r"\n {4,}", " ", textwrap.dedent(block).strip()))
    lines = [line.partition(": ") for line in whole.splitlines()]
    return "\n".join(f"- `{name}`: {one_line(_plain(text))}" for name, _, text in lines)


def _class(each: type) -> list[str]:
    rows = [
        (
            code(one.name),
            code(one.kind),
            code("" if "factory" in one.default else one.default),
            one_line(_plain(one.text)),
        )
        for one in fields(each)
    ]
    return [
        _plain(inspect.getdoc(each) or "") + "\n",
        table(
            ("field", "type", "default", "meaning"),
            [(a, b.replace("|", "or"), c, d) for a, b, c, d in rows],
        ),
    ]


def _plain(text: str) -> str:
    return re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text).replace("``", "`")
