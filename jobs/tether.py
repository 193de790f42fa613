"""A command that ends with its agent: ``python -m modeltainer.jobs.tether AGENT_PID COMMAND …``.

Nothing else would end the engine when its agent is killed outright: not on a bare machine, nor
under a Slurm that finds a step's processes by their parents (slurm.conf(5), proctrack/linuxproc;
one with cgroups does). This process stays between the two, for the kernel's parent-death signal
(prctl(2), PR_SET_PDEATHSIG) does not last through what Apptainer does to become a container.

It leads a process group of its own. Whoever signals the group reaches the engine; this process then
waits for it, and ends as it has ended.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from types import FrameType

_PR_SET_PDEATHSIG = 1
GRACE_S = 10
"""From SIGTERM to SIGKILL."""


def main(argv: list[str]) -> None:
    """Run ``argv[1:]``; ``argv[0]`` is the agent's pid. Does not return."""
    agent, *command = argv
    # A handler, not SIG_IGN, which the engine would inherit.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    signal.signal(signal.SIGHUP, _agent_is_gone)
    signal.signal(signal.SIGALRM, lambda number, frame: os.killpg(0, signal.SIGKILL))
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGHUP)
    if os.getppid() != int(agent):  # it died before the line above
        sys.exit(1)
    try:
        engine = subprocess.Popen(command)
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")
    status = engine.wait()
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


def _agent_is_gone(number: int, frame: FrameType | None) -> None:
    signal.alarm(GRACE_S)
    os.killpg(0, signal.SIGTERM)


if __name__ == "__main__":
    main(sys.argv[1:])
