"""What is wrong with a configuration: file, line, field, what, and the nearest right spelling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Problem:
    """One fault in one file."""

    file: Path
    line: int
    column: int
    field: str
    """Dotted, as in ``models.qwen.resources.gpus``; empty for the file as a whole."""
    message: str
    suggestion: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}"
        what = f"{self.field}: {self.message}" if self.field else self.message
        return f"{where}: {what}" + (f" ({self.suggestion})" if self.suggestion else "")


class ConfigError(ValueError):
    """The configuration cannot be used; :attr:`problems` has every fault found, in file order."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = sorted(problems, key=lambda p: (str(p.file), p.line, p.column))
        super().__init__("\n".join(str(problem) for problem in self.problems))
