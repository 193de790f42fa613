"""``mt-submit chat``."""

from __future__ import annotations

import sys
from typing import Any

import click

from modeltainer.cli.conversation import Conversation
from modeltainer.cli.gateway_client import chosen_door
from modeltainer.cli.invocation import Invocation, pass_invocation
from modeltainer.cli.names import complete_model
from modeltainer.cli.text import note


@click.command(
    "chat",
    epilog="\b\nExample:\n"
    '  mt-submit chat qwen2.5-7b "What is a MIG slice?"\n'
    "  mt-submit chat qwen2.5-7b < question.txt\n"
    "  mt-submit chat qwen2.5-7b --url http://127.0.0.1:8000",
)
@click.argument("model", shell_complete=complete_model)
@click.argument("prompt", required=False)
@click.option("--system", metavar="TEXT", help="A system message before it.")
@click.option("--max-tokens", type=click.IntRange(1), help="Longest answer.")
@click.option("--temperature", type=click.FloatRange(0, 2))
@click.option("--no-stream", is_flag=True, help="Print the answer when it is whole.")
@click.option(
    "--url",
    envvar="MODELTAINER_URL",
    metavar="URL",
    help="Another gateway: http://host:port or unix:/path.  [env: MODELTAINER_URL]",
)
@click.option(
    "--key",
    envvar="MODELTAINER_KEY",
    metavar="KEY",
    help="A key of it; your own gateway needs none.  [env: MODELTAINER_KEY]",
)
@pass_invocation
def command(
    invocation: Invocation,
    /,
    *,
    model: str,
    prompt: str | None,
    system: str | None,
    no_stream: bool,
    url: str | None,
    key: str | None,
    **sampling: Any,
) -> None:
    """Ask MODEL through the gateway and print its answer as it comes.

    Without PROMPT the question is read from standard input; on a terminal it becomes a
    conversation, which Ctrl-D ends and where Ctrl-C breaks an answer off.
    """
    conversation = Conversation(
        door=chosen_door(invocation.layout, url, key),
        model=model,
        system=system,
        stream=not no_stream,
        sampling={name: value for name, value in sampling.items() if value is not None},
    )
    if prompt is None and sys.stdin.isatty():
        _talk(conversation)
        return
    question = sys.stdin.read() if prompt is None else prompt
    if not question.strip():
        raise click.UsageError("the prompt is empty")
    for piece in conversation.ask(question):
        click.echo(piece, nl=False)
    click.echo()


def _talk(conversation: Conversation) -> None:
    import readline  # noqa: F401 -- gives input() its line editing

    note(f"{conversation.model} at {conversation.door.name}; Ctrl-D ends")
    while True:
        try:
            question = input("> ")
        except (EOFError, KeyboardInterrupt):
            note("")
            return
        if not question.strip():
            continue
        try:
            for piece in conversation.ask(question):
                click.echo(piece, nl=False)
        except KeyboardInterrupt:
            click.echo(" …", nl=False)
        click.echo()
