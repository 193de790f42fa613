"""What texts an expression of the project's source can be, as far as its source says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product

from tests.docs.code_blocks import ROOT

FOLDERS = ("modeltainer", "apptainer", "bench", "compose", "gateway", "hpc", "jobs")
PROGRAMS = {"gateways", "load_generators.py", "many_endpoints.py", "reconcile_step.py"}
"""Of ``bench/``: they measure the project itself and are no part of mt-submit."""
VALUE = "…"
"""Stands for what is put in at run time."""
Function = ast.FunctionDef | ast.AsyncFunctionDef
Name = tuple[str, str]
"""A file below the package, and a name in it."""


@dataclass(frozen=True)
class Spot:
    """Where an expression stands, and which item of its tuple is meant."""

    file: str
    scope: ast.AST
    """The function, or the module."""
    item: int | None = None
    seen: frozenset[int] = frozenset()
    """Expressions that are being looked at; a name may be set from itself."""


@dataclass
class Source:
    """The project's modules."""

    modules: dict[str, ast.Module] = field(default_factory=dict)
    functions: dict[Name, Function] = field(default_factory=dict)
    imports: dict[Name, Name] = field(default_factory=dict)
    classes: dict[str, ast.ClassDef] = field(default_factory=dict)

    def defined(self, file: str, name: str) -> Name:
        """Where what has this name in a file is defined."""
        return self.imports.get((file, name), (file, name))


def read_source() -> Source:
    """Parse the package, under the names that it has when it is imported."""
    source = Source()
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            linked = any(one.is_symlink() for one in (path, *path.parents))
            if linked or PROGRAMS & set(path.parts):
                continue
            file = str(path.relative_to(ROOT)).removeprefix("modeltainer/")
            source.modules[file] = ast.parse(path.read_text())
            for node in ast.walk(source.modules[file]):
                if isinstance(node, ast.ClassDef):
                    source.classes[node.name] = node
                elif isinstance(node, Function):
                    source.functions[file, node.name] = node
                elif isinstance(node, ast.ImportFrom) and node.module is not None:
                    module = node.module.removeprefix("modeltainer.").replace(".", "/") + ".py"
                    for one in node.names:
                        source.imports[file, one.asname or one.name] = (module, one.name)
    return source


def says_something(text: str) -> bool:
    """It has a word of its own, not only values."""
    return re.search(r"[A-Za-z]{3}", text) is not None


def called(call: ast.Call) -> str:
    """The name of what is called, without what it is an attribute of."""
    if isinstance(call.func, ast.Name):
        return call.func.id
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""


def texts(source: Source, spot: Spot, node: ast.expr) -> list[str]:
    """What an expression can be, as a reader sees it; only :data:`VALUE` where nothing is known."""
    if id(node) in spot.seen:
        return [VALUE]
    below = replace(spot, seen=spot.seen | {id(node)})

    def inner(one: ast.expr) -> list[str]:
        return texts(source, below, one)

    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.Tuple) and spot.item is not None:
        return texts(source, replace(below, item=None), node.elts[spot.item])
    if isinstance(node, ast.JoinedStr):
        return [_squeezed("".join(parts)) for parts in product(*map(inner, node.values))]
    if isinstance(node, ast.FormattedValue):
        # A reader sees the quotes of a name that is shown by repr().
        return [f"'{VALUE}'"] if node.conversion == ord("r") else inner(node.value)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [_squeezed(a + b) for a in inner(node.left) for b in inner(node.right)]
    if isinstance(node, ast.IfExp):
        return [*inner(node.body), *inner(node.orelse)]
    if isinstance(node, ast.BoolOp):
        return [text for one in node.values for text in inner(one)]
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Dict):
        return [text for one in node.value.values for text in inner(one)]
    if isinstance(node, (ast.Await, ast.Starred)):
        return inner(node.value)
    if isinstance(node, ast.Name):
        found = assigned(source.modules[spot.file], spot.scope, node)
        known = [texts(source, replace(below, item=item), one) for one, item in found]
        return [text for one in known for text in one] or [VALUE]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        where = source.defined(spot.file, node.func.id)
        if where in source.functions:
            returns = returned(source, where, below)
            return returns if any(map(says_something, returns)) else [VALUE]
    return [VALUE]


def returned(source: Source, where: Name, spot: Spot | None = None) -> list[str]:
    """What a function can return; of a tuple, the item that ``spot`` asks for."""
    function = source.functions[where]
    here = replace(spot or Spot(where[0], function), file=where[0], scope=function)
    return [
        text
        for node in ast.walk(function)
        if isinstance(node, ast.Return) and node.value is not None
        for text in texts(source, here, node.value)
        if text != VALUE
    ]


def assigned(
    module: ast.Module, scope: ast.AST, name: ast.Name
) -> list[tuple[ast.expr, int | None]]:
    """What a name may hold where it stands: set in its function, or else in its module.

    Of the blocks around it, the innermost that sets it counts, and there what comes last before it;
    with what is set under conditions after that. For ``a, b = …``, which item of the value.
    """
    blocks = [body for one in ast.walk(scope) for body in _bodies(one)]
    around = [
        body for body in blocks if body[0].lineno <= name.lineno <= (body[-1].end_lineno or 0)
    ]
    for body in sorted(around, key=lambda one: -one[0].lineno):
        found: list[tuple[ast.expr, int | None]] = []
        for statement in body:
            if isinstance(statement, ast.Assign) and statement.lineno < name.lineno:
                found = [] if _targets(statement, name.id) else found
            for node in ast.walk(statement):
                if isinstance(node, ast.Assign) and node.lineno < name.lineno:
                    found += [(node.value, item) for item in _targets(node, name.id)]
        if found:
            return found
    whole = [one for one in module.body if isinstance(one, ast.Assign)]
    return [(one.value, item) for one in whole for item in _targets(one, name.id)]


def _bodies(node: ast.AST) -> Iterator[list[ast.stmt]]:
    for part in ("body", "orelse", "finalbody"):
        body = getattr(node, part, None)
        if isinstance(body, list) and body:
            yield body


def _targets(statement: ast.Assign, name: str) -> list[int | None]:
    """None if the statement sets the name; the number of the item if an item of its value does."""
    found: list[int | None] = []
    for target in statement.targets:
        if isinstance(target, ast.Name) and target.id == name:
            found.append(None)
        elif isinstance(target, ast.Tuple):
            names = [one.id if isinstance(one, ast.Name) else "" for one in target.elts]
            found += [n for n, one in enumerate(names) if one == name]
    return found


def _squeezed(text: str) -> str:
    return re.sub(rf"{VALUE}(?:[ ,]*{VALUE})+", VALUE, text)
