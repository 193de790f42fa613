"""Every error text of the project, read from its source: what a user can see and search for.

A text is the message of a call that makes one of the project's errors (or click's), with ``…``
where a value comes in, as a reader sees it. Where the message is a variable or comes from a
function, what is assigned or returned there is taken. A message that is another error's text in
other words, such as ``str(error)``, is counted where that one is made.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from tests.docs.source_texts import (
    VALUE,
    Function,
    Name,
    Source,
    Spot,
    called,
    read_source,
    returned,
    says_something,
    texts,
)

CODE = re.compile(r"[a-z]+([-_][a-z]+)*")
UNSEEN = {
    "ClientGoneError": "nobody is there any more to read it",
    "NotYetError": "an engine that still loads; asked again",
    "_EndedError": "ends the agent's loop",
    "CancelledError": "a copy that a stop has ended",
    "LaunchFailedError": "submitit's log; the cause is in the registry",
}
"""Errors within the project that no user reads."""
VALIDATORS = ("config/", "gateway/settings.py", "batch/results.py", "batch/rows.py")
"""Where a ValueError's text becomes that of a fault in a file, or of a command."""
MESSAGES = (("config/load.py", "_message"),)
"""Functions whose results are the texts of faults."""
TABLES = ("hpc/submit.py", "jobs/diagnose.py")
"""Where tuples end with a code, a message and a hint."""
LISTS = ("compose/plan.py", "compose/machine.py")
"""Where reasons are collected in lists of texts."""


@dataclass(frozen=True)
class ErrorText:
    """One text, and the stable code that goes with it, if it has one in the source."""

    file: str
    line: int
    text: str
    code: str | None = None


@dataclass(frozen=True)
class _Place:
    """Where the message is among the arguments of a call, and the code; or the code itself."""

    message: int
    code: int | None = None
    fixed: str | None = None


CALLS = {
    **dict.fromkeys(["UsageError", "BadParameter", "ClickException", "SystemExit"], _Place(0)),
    "Problem": _Place(4),
    "Cause": _Place(1, 0),
    "_sign": _Place(2, 0),
    "error_frame": _Place(1, 2),
    "fail": _Place(2, 3),
}
"""What takes a message and is no error of the project."""


def error_texts() -> tuple[ErrorText, ...]:
    """All of them, by file and line."""
    return tuple(one for one in _found() if says_something(one.text))


def codes() -> frozenset[str]:
    """Stable codes of the ends of launches and of refusals to launch; not those of the API."""
    return frozenset(one.code for one in _found() if one.code is not None and not of_the_api(one))


def api_codes() -> frozenset[str]:
    """The ``code`` of the gateway's errors."""
    return frozenset(one.code for one in _found() if one.code is not None and of_the_api(one))


def of_the_api(one: ErrorText) -> bool:
    """It is, or may be, an answer of the gateway."""
    return one.file.startswith(("gateway/", "batch/"))


@cache
def _found() -> tuple[ErrorText, ...]:
    source = read_source()
    classes = {
        name: place
        for name in source.classes
        if name not in UNSEEN and (place := _error_class(source, name)) is not None
    }
    makers: dict[Name, _Place] = {}
    for where, function in source.functions.items():
        place = _passes_on(source, classes, where[0], function)
        if place is not None:
            makers[where] = place
    found: list[ErrorText] = []
    for file, module in source.modules.items():
        for scope, call in _calls(module):
            made = _place(source, classes, file, call) or makers.get(
                source.defined(file, called(call))
            )
            if made is not None:
                found += _of_call(source, Spot(file, scope), call, made)
        found += _of_tables(file, module) if file in TABLES else ()
        found += _of_lists(source, file, module) if file in LISTS else ()
    for where in MESSAGES:
        line = source.functions[where].lineno
        found += [ErrorText(where[0], line, one) for one in _shortest(returned(source, where))]
    found += _of_classes(source, classes)
    return tuple(sorted(set(found), key=lambda one: (one.file, one.line, one.text)))


def _error_class(source: Source, name: str) -> _Place | None:
    """None for a class that is no error."""
    if name not in source.classes:
        return _Place(0) if name.endswith(("Error", "Exception")) else None
    node = source.classes[name]
    inherited = _error_class(source, ast.unparse(node.bases[0])) if node.bases else None
    if inherited is None:
        return None
    fixed = _class_text(node, "code") or inherited.fixed
    maker = _maker(node)
    if maker is None:
        return _Place(inherited.message, inherited.code, fixed)
    names = [one.arg for one in maker.args.args[1:]]
    for one, default in zip(maker.args.kwonlyargs, maker.args.kw_defaults, strict=True):
        if one.arg == "code" and isinstance(default, ast.Constant) and default.value:
            fixed = str(default.value)
    if "message" not in names:
        return _Place(len(names), None, fixed)  # it makes its own text, or passes others' on
    return _Place(names.index("message"), names.index("code") if "code" in names else None, fixed)


def _maker(node: ast.ClassDef) -> ast.FunctionDef | None:
    found = (one for one in node.body if isinstance(one, ast.FunctionDef))
    return next((one for one in found if one.name == "__init__"), None)


def _class_text(node: ast.ClassDef, name: str) -> str | None:
    for one in node.body:
        if isinstance(one, ast.Assign) and ast.unparse(one.targets[0]) == name:
            return str(ast.literal_eval(one.value))
    return None


def _of_classes(source: Source, classes: dict[str, _Place]) -> Iterator[ErrorText]:
    """Errors whose text stands in their class."""
    for name in classes:
        node = source.classes[name]
        file = next(file for file, one in source.modules.items() if node in ast.walk(one))
        text = _class_text(node, "message")
        if text is not None:
            yield ErrorText(file, node.lineno, text)
        maker = _maker(node)
        for default in maker.args.defaults if maker is not None else ():
            if isinstance(default, ast.Constant) and isinstance(default.value, str):
                yield ErrorText(file, default.lineno, default.value)
        for scope, call in _calls(node):
            if called(call) == "__init__" and call.args:
                for one in texts(source, Spot(file, scope), call.args[0]):
                    yield ErrorText(file, call.lineno, one)


def _place(source: Source, classes: dict[str, _Place], file: str, call: ast.Call) -> _Place | None:
    name = called(call)
    if name == "ValueError" and file.startswith(VALIDATORS):
        return _Place(0)
    return classes.get(name) or CALLS.get(name)


def _passes_on(
    source: Source, classes: dict[str, _Place], file: str, function: Function
) -> _Place | None:
    """Where a function's message and code are among its arguments, if an error of it has them."""
    names = [one.arg for one in function.args.args if one.arg != "self"]
    for node in ast.walk(function):
        place = _place(source, classes, file, node) if isinstance(node, ast.Call) else None
        if place is None or not isinstance(node, ast.Call):
            continue
        message, code = _arguments(node, place)
        word = ast.unparse(code) if code is not None else ""
        if message is not None and ast.unparse(message) in names:
            fixed = str(code.value) if isinstance(code, ast.Constant) else None
            at = names.index(word) if word in names else None
            return _Place(names.index(ast.unparse(message)), at, fixed)
    return None


def _arguments(call: ast.Call, place: _Place) -> tuple[ast.expr | None, ast.expr | None]:
    """A call's message and code."""
    given = {one.arg: one.value for one in call.keywords}
    by_place = [
        call.args[at] if at is not None and at < len(call.args) else None
        for at in (place.message, place.code)
    ]
    return given.get("message") or by_place[0], given.get("code") or by_place[1]


def _calls(tree: ast.AST) -> Iterator[tuple[ast.AST, ast.Call]]:
    """Every call, with the function that it stands in."""

    def below(node: ast.AST, scope: ast.AST) -> Iterator[tuple[ast.AST, ast.Call]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Call):
                yield scope, child
            yield from below(child, child if isinstance(child, Function) else scope)

    yield from below(tree, tree)


def _of_call(source: Source, spot: Spot, call: ast.Call, place: _Place) -> Iterator[ErrorText]:
    message, code = _arguments(call, place)
    first = next((n for n, one in enumerate(call.args) if isinstance(one, ast.Starred)), None)
    if first is not None and first <= place.message:  # Error("code", *message_and_hint())
        message = call.args[first]
        spot = Spot(spot.file, spot.scope, item=place.message - first)
    if isinstance(code, ast.Name):
        for one in texts(source, spot, code):
            if CODE.fullmatch(one):
                yield ErrorText(spot.file, call.lineno, VALUE, one)
    if message is None:
        return
    if isinstance(code, ast.Call) and called(code) == "getattr":
        code = code.args[-1]
    word = code.value if isinstance(code, ast.Constant) else place.fixed
    for text in _shortest(texts(source, spot, message)):
        yield ErrorText(spot.file, call.lineno, text, str(word) if word else None)


def _of_tables(file: str, module: ast.Module) -> Iterator[ErrorText]:
    for node in ast.walk(module):
        if isinstance(node, ast.Tuple) and len(node.elts) in (3, 4):
            words = [one.value for one in node.elts if isinstance(one, ast.Constant)]
            if len(words) == len(node.elts) and " " in str(words[-1]):
                code, message, _ = map(str, words[-3:])
                yield ErrorText(file, node.lineno, message, code)


def _of_lists(source: Source, file: str, module: ast.Module) -> Iterator[ErrorText]:
    for scope in module.body:
        for node in ast.walk(scope) if isinstance(scope, ast.FunctionDef) else ():
            reasons: list[ast.expr] = []
            if isinstance(node, ast.Call) and called(node) == "append":
                reasons = node.args
            elif isinstance(node, ast.ListComp):
                reasons = [node.elt]
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
                reasons = [node.value]
            for one in reasons:
                if isinstance(one, (ast.Constant, ast.JoinedStr)):
                    for text in texts(source, Spot(file, scope), one):
                        yield ErrorText(file, one.lineno, text)


def _shortest(found: Sequence[str]) -> list[str]:
    """On one line, and without those that another begins, such as the same with a suggestion."""
    lines = [" ".join(text.split()) for text in found]
    return [
        one
        for one in dict.fromkeys(lines)
        if not any(
            other != one and says_something(other) and one.startswith(other) for other in lines
        )
    ]
