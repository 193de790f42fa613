"""docs/reference/log.md against the code and against a real line."""

from __future__ import annotations

import ast
import re

from tests.docs.code_blocks import ROOT
from tests.gateway.conftest import world  # noqa: F401 (a fixture)
from tests.gateway.setup import World

PAGE = (ROOT / "docs" / "reference" / "log.md").read_text()


def written() -> dict[str, set[str]]:
    """All events in the gateway's code, each with its fields."""
    found: dict[str, set[str]] = {}
    for file in (ROOT / "gateway").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if "log" not in ast.unparse(node.func.value).lower():
                continue
            place = {"event": 1, "info": 0, "warning": 0}.get(node.func.attr)
            if place is None or len(node.args) <= place:
                continue
            name = node.args[place]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                fields = {one.arg for one in node.keywords if one.arg is not None}
                found.setdefault(name.value, set()).update(fields)
    return found


def test_every_event_is_documented_and_no_other() -> None:
    row = re.compile(r"^\| ((?:`\w+`(?:, )?)+) \| ((?:`\w+`(?:, )?)+) \|", re.M)
    listed: dict[str, set[str]] = {}
    for names, fields in row.findall(PAGE.partition("## Other events")[2]):
        for name in re.findall(r"`(\w+)`", names):
            listed[name] = set(re.findall(r"`(\w+)`", fields))
    found = written()
    assert listed.keys() | {"request"} == found.keys()
    for name, fields in listed.items():
        assert found[name] <= fields, name


def test_a_requests_line_has_the_documented_fields(world: World) -> None:  # noqa: F811
    table = PAGE.partition("## request")[2].partition("## Other")[0]
    listed = {
        name for row in re.findall(r"^\| (`[^|]+) \|", table, re.M) for name in row.split("`")[1::2]
    }
    world.launch()
    with world.serving():
        assert world.chat(stream=True).status_code == 200
        assert world.chat(model="nobody").status_code == 404
        world.until(lambda: len(world.log("request")) == 2)
    requests = world.log("request")
    seen = {name for line in requests for name in line} - {"time", "level", "event"}
    assert len(requests) == 2
    assert seen <= listed
    assert listed - seen <= {"split"}
