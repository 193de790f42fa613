"""The page of mt-submit's commands."""

from __future__ import annotations

import click

from modeltainer.cli.main import cli
from tools.reference.markdown import HEAD


def page() -> str:
    """Every command with its help, as ``mt-submit … --help`` prints it at 90 columns."""
    parts = ["# mt-submit\n", HEAD]
    parts += _command(cli, ("mt-submit",), None)
    return "\n".join(parts)


def _command(
    command: click.Command, path: tuple[str, ...], parent: click.Context | None
) -> list[str]:
    context = click.Context(command, info_name=path[-1], parent=parent, terminal_width=90)
    with context:
        text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    parts = [f"## {' '.join(path)}\n", f"```text\n{text}\n```\n"]
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None:
                parts += _command(found, (*path, name), context)
    return parts
