"""What the code says of itself where Python's runtime has forgotten it: read from the source."""

from __future__ import annotations

import ast
import inspect
from dataclasses import dataclass


@dataclass(frozen=True)
class Field:
    """One field of a class, or one constant of a module."""

    name: str
    kind: str
    default: str
    text: str


def fields(of: object) -> list[Field]:
    """The annotated fields of a class, or of a module, each with the string that follows it."""
    tree = ast.parse(inspect.getsource(of))  # type: ignore[arg-type]
    first = tree.body[0]
    body = first.body if isinstance(first, ast.ClassDef) and isinstance(of, type) else tree.body
    found = []
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name, kind, value = node.target.id, ast.unparse(node.annotation), node.value
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name, kind, value = node.targets[0].id, "", node.value
        else:
            continue
        if not name.startswith("_"):
            default = "" if value is None else ast.unparse(value)
            found.append(Field(name, kind, default, _string(after)))
    return found


def _string(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return str(node.value.value)
    return ""
