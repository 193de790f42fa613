"""Every error text and every code has its entry in the docs, with what to do, and no other has.

docs/troubleshooting.md has a section for each code, with the texts it comes with;
docs/troubleshooting-messages.md has tables of the texts without one, and of the gateway's answers.
"""

from __future__ import annotations

import re

import pytest

from tests.docs import error_texts as errors
from tests.docs.code_blocks import ROOT

CODES = (ROOT / "docs" / "troubleshooting.md").read_text()
MESSAGES = (ROOT / "docs" / "troubleshooting-messages.md").read_text()
SECTION = re.compile(
    r"^### (\S+)\n\n((?:- `[^\n]+`\n)*)\n?(.+?)(?=^#|\Z)", re.MULTILINE | re.DOTALL
)
ROW = re.compile(r"^\| (?!message|code|---)(.*) \|$", re.MULTILINE)
TEXTS = errors.error_texts()


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


SECTIONS = {code: (quoted(said), remedy) for code, said, remedy in SECTION.findall(CODES)}
ROWS = [row.split(" | ") for row in ROW.findall(MESSAGES.replace("| |", "|  |"))]
ANSWERS = [row for row in ROWS if len(row) == 3]
"""Code, messages, remedy."""
SAID = {text for *_, said, _ in ROWS for text in quoted(said)}
"""Messages that have no section."""
IN_SECTIONS = {text for said, _ in SECTIONS.values() for text in said}


def test_texts_of_every_kind_are_found() -> None:
    """A constant, one with values, one of two, one that a function makes, one from a table, …"""
    found = {one.text: one.code for one in TEXTS}
    assert found["no gateway runs"] is None
    assert found["there is no partition '…' on this cluster"] == "no-such-partition"
    assert found["… has no agent log yet"] is None
    assert found["… has no engine log yet"] is None
    assert found["there is no model '…' in the configuration"] == "no-such-model"
    assert found["your group may not use this partition"] == "partition-not-allowed"
    assert found["the request body must be a JSON object"] == "invalid_json"
    assert found["… is loading its weights"] == "model_not_ready"
    assert found["is missing"] is None
    assert {"gated-model", "illegal-instruction", "cannot-launch", "stopped"} <= errors.codes()
    assert {"path_not_found", "upstream_died", "invalid_input"} <= errors.api_codes()
    assert len(found) > 450


@pytest.mark.parametrize("code", sorted(errors.codes()))
def test_each_code_has_its_section_with_something_to_do(code: str) -> None:
    assert code in SECTIONS, f"docs/troubleshooting.md has no section ### {code}"
    said, remedy = SECTIONS[code]
    assert len(remedy.split()) >= 6
    missing = {one.text for one in TEXTS if one.code == code and not errors.of_the_api(one)}
    assert missing - set(said) == set(), f"say so under ### {code}: - `TEXT`"


@pytest.mark.parametrize("code", sorted(errors.api_codes()))
def test_each_code_of_the_api_has_its_row_with_something_to_do(code: str) -> None:
    rows = [row for row in ANSWERS if code in quoted(row[0])]
    assert rows, f"docs/troubleshooting-messages.md has no answer | `{code}` |"
    said = {text for row in rows for text in quoted(row[1])}
    missing = {one.text for one in TEXTS if one.code == code and errors.of_the_api(one)}
    assert missing - said == set()


def test_each_message_without_a_code_has_its_row() -> None:
    missing = [one for one in TEXTS if one.code is None and one.text not in SAID | IN_SECTIONS]
    assert missing == [], "say in docs/troubleshooting-messages.md what to do"


def test_each_row_says_something_to_do() -> None:
    assert len(ROWS) > 100
    assert [row for row in ROWS if len(row) not in (2, 3)] == []
    assert [row for row in ROWS if len(row[-1].split()) < 4] == []


def test_nothing_is_about_what_is_gone() -> None:
    texts = {one.text for one in TEXTS}
    assert sorted((SAID | IN_SECTIONS) - texts) == []
    assert sorted(SECTIONS.keys() - errors.codes()) == []
    assert sorted({code for row in ANSWERS for code in quoted(row[0])} - errors.api_codes()) == []
    headings = re.findall(r"^### (\S+)$", CODES, re.MULTILINE)
    assert headings == list(SECTIONS), "a section twice, or without text"


@pytest.mark.parametrize("runbook", ["vllm", "llamacpp"])
def test_the_runbooks_ten_failures_are_sections(runbook: str) -> None:
    text = (ROOT / "docs" / f"runbook-{runbook}.md").read_text()
    linked = re.findall(r"\(troubleshooting\.md#([\w-]+)\)", text)
    assert len(set(linked)) == 10
    assert set(linked) <= set(SECTIONS)
