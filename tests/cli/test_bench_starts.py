"""``mt-submit bench starts``."""

from __future__ import annotations

from pathlib import Path

from modeltainer.cli import exit_codes
from tests.cli.conftest import Shell


def test_the_parts_of_each_start(shell: Shell, tmp_path: Path) -> None:
    picture = tmp_path / "starts.png"
    none = shell.run("bench", "starts", "--output", str(picture))
    assert none.exit_code == exit_codes.NO_MATCH
    assert "no launch that has served is there" in none.output
    assert shell.run("up", "tiny", "--wait").exit_code == 0
    [row] = shell.json("ls")
    drawn = shell.run("bench", "starts", "--output", str(picture))
    assert drawn.exit_code == 0, drawn.output
    heads, cells, *_ = (line.split() for line in drawn.output.splitlines())
    assert heads == ["LAUNCH", "QUEUE", "IMAGE", "COPYING", "LOADING"]
    assert cells[0] == row["launch_id"]
    assert cells[-2:] == [f"{row['loading_s']:.1f}", "s"]
    assert picture.read_bytes().startswith(b"\x89PNG")

    other = shell.run("bench", "starts", "dies", "--output", str(picture))
    assert other.exit_code == exit_codes.NO_MATCH
    assert "no launch of dies that has served is there" in other.output
    unwritable = shell.run("bench", "starts", "tiny", "--output", str(tmp_path / "no" / "x.png"))
    assert unwritable.exit_code == 1
    assert "cannot be written: No such file or directory" in unwritable.output
