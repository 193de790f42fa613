"""Start a command that ends with its parent: ``python -m modeltainer.jobs.tether COMMAND …``.

On a bare machine nothing else would end the engine when its agent is killed outright (under Slurm,
Slurm does). The kernel's parent-death signal (prctl(2), PR_SET_PDEATHSIG) lasts through exec.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> None:
    """Become ``argv[1:]``; ``argv[0]`` is the parent's pid. Does not return."""
    parent, *command = argv
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it died before the line above
        sys.exit(1)
    try:
        os.execvp(command[0], command)  # noqa: S606
    except FileNotFoundError:
        sys.exit(f"{command[0]}: command not found")


if __name__ == "__main__":
    main(sys.argv[1:])
