"""SECURITY.md's table names tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "SECURITY.md").read_text())


@pytest.mark.parametrize(("file", "test"), NAMED, ids=str)
def test_each_attack_of_the_table_has_its_test(file: str, test: str) -> None:
    assert f"def {test}(" in (ROOT / file).read_text()


def test_each_attack_test_is_in_the_table() -> None:
    written = {
        (str(file.relative_to(ROOT)), name)
        for file in (ROOT / "tests" / "security").glob("test_*s.py")
        for name in re.findall(r"^def (test_\w+)\(", file.read_text(), re.MULTILINE)
    }
    assert written - set(NAMED) == {
        (
            "tests/security/test_gateway_attacks.py",
            "test_a_client_that_keeps_its_connection_is_not_hurried",
        ),
        ("tests/security/test_engine_tls.py", "test_bench_and_chat_straight_at_an_engine"),
    }
