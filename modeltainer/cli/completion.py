"""``mt-submit completion``."""

from __future__ import annotations

import click


@click.command(
    "completion",
    epilog="\b\nExample:\n"
    "  mt-submit completion bash >> ~/.bashrc\n"
    "  mt-submit completion zsh >> ~/.zshrc\n"
    "  mt-submit completion fish > ~/.config/fish/completions/mt-submit.fish",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the script that completes mt-submit's commands, options and model names in SHELL."""
    from click.shell_completion import get_completion_class

    from modeltainer.cli.main import cli

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "mt-submit", "_MT_SUBMIT_COMPLETE").source())
