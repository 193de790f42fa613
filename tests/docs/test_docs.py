"""The docs say what is so: commands exist, generated pages are current, links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from modeltainer.cli.main import cli
from tests.docs.code_blocks import ROOT, command_lines, pages
from tools.reference.__main__ import PAGES

KEY_IN_SIGHT = re.compile(r"--(?:against-)?key[= ]+\\?[\"']?(?:\$|mt-)")
"""A real key as an option; in a notebook's JSON its quote is escaped."""
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")


def commands(
    command: click.Command = cli, path: tuple[str, ...] = ("mt-submit",)
) -> dict[tuple[str, ...], click.Command]:
    found = {path: command}
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            found |= commands(below, (*path, name))
    return found


def options(command: click.Command) -> set[str]:
    context = click.Context(command)
    return {
        name
        for parameter in command.get_params(context)
        for name in (*parameter.opts, *parameter.secondary_opts)
        if name.startswith("--") and not getattr(parameter, "hidden", False)
    }


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_in_the_docs_exists(page: Path) -> None:
    for line in command_lines(page):
        words = [word for word in shlex.split(line.replace("…", "X")) if word not in {"&&", "\\"}]
        command: click.Command = cli
        context = click.Context(cli)
        seen = options(cli)
        for word in words[1:]:
            if word.startswith("--"):
                assert word.partition("=")[0] in seen | {"--help"}, line
            elif isinstance(command, click.Group) and word not in {"COMMAND", "X"}:
                below = command.get_command(context, word)
                assert below is not None, line
                command = below
                context = click.Context(below)
                seen |= options(below)


def test_the_reference_has_every_command_and_option() -> None:
    text = (ROOT / "docs" / "reference" / "cli.md").read_text()
    sections = {
        tuple(heading.split()): body
        for heading, body in re.findall(r"^## ([^\n]+)\n\n```text\n(.*?)^```", text, re.M | re.S)
    }
    existing = commands()
    assert set(sections) == set(existing), "run: make schema"
    for path, command in existing.items():
        usage = sections[path].partition("Example")[0]
        assert options(command) <= set(OPTION.findall(usage)), f"{path}: run: make schema"


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    subprocess.run([sys.executable, "-m", "tools.reference", str(folder)], cwd=ROOT, check=True)
    return folder


@pytest.mark.parametrize("name", [name for name in PAGES if name != "reference/cli.md"])
def test_the_generated_pages_are_current(generated: Path, name: str) -> None:
    assert (generated / name).read_text() == (ROOT / "docs" / name).read_text(), "run: make schema"


def test_no_key_on_a_command_line() -> None:
    """``ps`` shows it to everybody on the machine: commands take it from the environment."""
    seen = [*pages(), *(ROOT / "notebooks").glob("*.ipynb")]
    examples = [path for path in (ROOT / "examples").rglob("*") if path.is_file()]
    seen += [path for path in examples if "node_modules" not in path.parts]
    assert len(seen) > 50
    for path in seen:
        found = KEY_IN_SIGHT.search(path.read_text(errors="replace"))
        assert found is None, f"{path}: {found}"
    for bad in ('--key "$K"', '--key \\"$K\\"', "--key=$K", "--key mt-…", '--against-key "$K"'):
        assert KEY_IN_SIGHT.search(bad)


def test_links_lead_somewhere() -> None:
    for page in pages():
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page}: {target}"


def test_the_site_builds_strictly(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "quickstart" / "cluster" / "index.html").exists()
