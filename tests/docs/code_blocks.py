"""The code blocks of the docs, for tests that run or check them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def pages() -> list[Path]:
    """README and every page of docs/ that people have written."""
    written = [path for path in (ROOT / "docs").rglob("*.md") if path.parent.name != "reference"]
    return [ROOT / "README.md", *sorted(written)]


def fenced(page: Path, language: str) -> list[str]:
    """Contents of the fenced blocks of one language, in order."""
    return [match[2] for match in _FENCE.finditer(page.read_text()) if match[1] == language]


def typed(page: Path) -> str:
    """All that a reader types, in order, as a shell script: a block of YAML is the models.yaml of
    the folder where they are by then."""
    parts = []
    for language, text in _FENCE.findall(page.read_text()):
        if language == "sh":
            parts.append(text)
        elif language == "yaml":
            parts.append(f"cat >models.yaml <<'END'\n{text}END\n")
    return "".join(parts)


def command_lines(page: Path) -> list[str]:
    """Every line of a code block, fenced or indented, that calls mt-submit."""
    found, in_fence = [], False
    for line in page.read_text().replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            in_fence = not in_fence
        elif (in_fence or line.startswith("    ")) and "mt-submit " in line:
            found += re.findall(r"(?:^|[\s(])(mt-submit [^#)|]*)", line)
    return found
