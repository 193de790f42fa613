"""The table of tested cases names tests that are there."""

from __future__ import annotations

import ast
import re

from tests.docs.code_blocks import ROOT

PAGE = ROOT / "docs" / "gateway-cases.md"
ROW = re.compile(r"^\| (\d+[a-c]?) \| (.+?) \| (.*?) \| (.+) \|$", re.MULTILINE)
CASES = [*map(str, range(1, 26)), "25a", "25b", "25c", *map(str, range(26, 53))]


def test_each_case_is_there_once_and_its_tests_exist() -> None:
    rows = ROW.findall(PAGE.read_text())
    assert [number for number, *_ in rows] == CASES
    for number, _, _, named in rows:
        tests = re.findall(r"`(?:(\w+)/)?(test_\w+)::(test_\w+)`", named)
        assert tests, number
        assert len(tests) == named.count("::"), number
        for folder, module, test in tests:
            source = (ROOT / "tests" / (folder or "gateway") / f"{module}.py").read_text()
            defined = {one.name for one in ast.parse(source).body if hasattr(one, "name")}
            assert test in defined, f"{number}: {module}::{test}"
