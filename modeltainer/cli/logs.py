"""``mt-submit logs``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from modeltainer.cli import exit_codes
from modeltainer.cli.failures import Failure
from modeltainer.cli.invocation import Invocation, pass_invocation
from modeltainer.cli.names import complete_launch
from modeltainer.cli.selection import launches_named

if TYPE_CHECKING:
    from modeltainer.registry.layout import Layout
    from modeltainer.service import Observer

LIVENESS_S = 3.0
"""How often ``--follow`` looks whether the launch still is there."""


@click.command(
    "logs",
    epilog="\b\nExample:\n"
    "  mt-submit logs qwen2.5-7b\n"
    "  mt-submit logs qwen2.5-7b-r0-k3m9xa --follow\n"
    "  mt-submit logs 4711 --agent -n 50",
)
@click.argument("launch", metavar="MODEL|LAUNCH|JOB", shell_complete=complete_launch)
@click.option("--follow", "-f", is_flag=True, help="Go on as the log grows, until the launch ends.")
@click.option("--agent", is_flag=True, help="The agent's and the job's own log, not the engine's.")
@click.option(
    "--rank",
    type=click.IntRange(0),
    default=0,
    help="Of a model over several nodes: which one's, the first being 0.",
)
@click.option("--lines", "-n", type=click.IntRange(0), default=200, show_default=True)
@pass_invocation
def command(
    invocation: Invocation, /, *, launch: str, follow: bool, agent: bool, rank: int, lines: int
) -> None:
    """Show what the engine of a launch says; of a model with several launches, the newest.

    Logs lie on the shared filesystem: they can be read while the job runs and after its end, until
    mt-submit stop.
    """
    layout = invocation.layout()
    launch_id = launches_named(invocation, launch)[-1].spec.launch_id
    opened: dict[Path, IO[bytes]] = {}
    try:
        for path in _files(layout, launch_id, agent, rank):
            opened[path] = path.open("rb")
            click.echo(last_lines(opened[path], lines), nl=False)
        if follow:
            _follow(invocation, launch_id, agent, rank, opened)
        elif not opened:
            raise Failure(
                f"{launch_id} has no {'agent' if agent else 'engine'} log yet",
                "mt-submit ls --all shows its state"
                + ("" if agent else f"; mt-submit logs {launch_id} --agent shows what came before"),
                exit_codes.NO_MATCH,
            )
    except KeyboardInterrupt:
        return  # the way to end --follow
    finally:
        for file in opened.values():
            file.close()


def _files(layout: Layout, launch_id: str, agent: bool, rank: int) -> list[Path]:
    folder = layout.log(launch_id)
    which = f"-{rank}" if rank else ""
    if not agent:
        return [path for path in [folder / f"engine{which}.log"] if path.is_file()]
    # submitit's files: the job's own output, which has what came before the agent's first word.
    output = "*log*" if not rank else f"*_{rank}_log*"
    found = [folder / f"agent{which}.log", *sorted((folder / "submitit").glob(output))]
    return [path for path in found if path.is_file()]


def _follow(
    invocation: Invocation, launch_id: str, agent: bool, rank: int, opened: dict[Path, IO[bytes]]
) -> None:
    from modeltainer.service import Observer

    layout, observer = invocation.layout(), Observer(invocation.config())
    looked = float("-inf")
    while True:
        for path in _files(layout, launch_id, agent, rank):
            if path not in opened:
                opened[path] = path.open("rb")
        # Asked before reading, so that the last words of a launch that has ended are read too.
        ended = False
        if time.monotonic() - looked >= LIVENESS_S:
            looked, ended = time.monotonic(), _ended(observer, launch_id)
        for file in opened.values():
            while chunk := file.read(65536):
                click.echo(chunk.decode(errors="replace"), nl=False)
        if ended:
            return
        time.sleep(0.25)


def _ended(observer: Observer, launch_id: str) -> bool:
    """It has ended, as its agent, the scheduler or the missing folder tells."""
    from modeltainer.registry.records import State

    states = [row.state for row in observer.rows() if row.launch_id == launch_id]
    return states in ([], [State.ENDED])


def last_lines(file: IO[bytes], count: int) -> str:
    """The last lines of a file, which is left at its end. Reads from the end, in blocks: a log may
    have grown for days."""
    end = file.seek(0, 2)
    if count == 0:
        return ""
    start, tail = end, b""
    while start > 0 and tail.count(b"\n") <= count:
        start = max(0, start - 65536)
        file.seek(start)
        tail = file.read(end - start)
    file.seek(end)
    return b"".join(tail.splitlines(keepends=True)[-count:]).decode(errors="replace")
