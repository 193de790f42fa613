"""A click group that imports a command's module when the command is used, and not before."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

from modeltainer.cli.failures import Failure, Interrupted, explain


class LazyGroup(click.Group):
    """Commands by name; each is the attribute ``command`` of its own module."""

    def __init__(
        self,
        *args: Any,
        lazy: Mapping[str, tuple[str, str]],
        aliases: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            lazy: name to (module, one line for the group's help).
            aliases: other names of commands; they work, and are not listed.
        """
        super().__init__(*args, **kwargs)
        self._lazy, self._aliases = lazy, aliases or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the table: as a user meets them."""
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        name = self._aliases.get(cmd_name, cmd_name)
        if name not in self._lazy:
            return None
        command: click.Command = import_module(self._lazy[name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self._lazy.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; whatever goes wrong becomes a message and an exit code."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise  # click's own, which it shows itself
        except BrokenPipeError:
            raise  # click ends quietly: who read our output has seen enough
        except KeyboardInterrupt:
            failure: Failure = Interrupted()
        except Failure as error:
            failure = error
        except Exception as error:
            if ctx.params.get("verbose"):
                import traceback

                traceback.print_exc()
            failure = explain(error)
        failure.show()
        raise click.exceptions.Exit(failure.exit_code)
