"""Draw the README's picture of a terminal from a real session on the virtual cluster.

``python tools/terminal_picture.py docs/terminal.svg`` (from a checkout, as root). Each command is
typed as alice on the login node; what is drawn is what it printed.
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tests.acceptance.site import account
from tests.cluster.cluster import Cluster

COMMANDS = (
    "mt-submit up gemma --mig 1g.10gb --replicas 2 --wait",
    "mt-submit ls",
    "mt-submit gateway start",
    'mt-submit chat gemma "What is a supercomputer?" --max-tokens 22',
    "mt-submit up tiny --gpus 9",
    "mt-submit stop --all",
)
WIDTH = 118
TEMPLATE = """Question: Why do cats purr?
Answer: Cats purr when they are content, and also to calm themselves.

{% for message in messages %}Question: {{ message.content }}
Answer:{% endfor %}"""
"""The model is a base model: it was never taught to chat, but goes on as shown."""


def main() -> None:
    """Run the session and write the picture to the path given."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    cluster = Cluster.up("sid", name="terminal-picture")
    try:
        alice = account(cluster, "alice", "work")
        for model in alice.config["models"].values():
            model["resources"]["partition"] = "gpu"
            model["engine_args"] = {"chat-template": TEMPLATE}
        alice.write_config()
        for command in COMMANDS:
            console.print(Text("$ ", "bold green") + Text(command, "bold"))
            done = alice.sh(f"{command} 2>&1", check=False)
            for line in done.stdout.rstrip().splitlines():
                console.print(_styled(line), overflow="crop", no_wrap=True)
    finally:
        cluster.down()
    Path(sys.argv[1]).write_text(console.export_svg(title="alice@login"))


def _styled(line: str) -> Text:
    text = Text(re.sub(r"/shared/home/alice/work", "~", line))
    text.highlight_regex(r"\bready\b", "green")
    text.highlight_regex(r"^error:", "bold red")
    text.highlight_regex(r"^hint:", "cyan")
    text.highlight_regex(r"\b(?:queued|loading|pulling)\b", "cyan")
    return text


if __name__ == "__main__":
    main()
