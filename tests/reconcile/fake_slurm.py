#!/usr/bin/env python3
"""A fake of Slurm's commands: jobs are files, nothing runs, and a word in a file makes a command
kill whoever called it, before or after it has done its work.

Called as ``sbatch``, ``squeue``, …, by links in one folder. Beside the links lie ``jobs/``,
``calls`` (a line for each call), ``kill`` (``<command> <before|after> <pid>``) and the recorded
``nodes.txt`` and ``partitions.txt``.
"""

import contextlib
import os
import re
import signal
import sys
from pathlib import Path

HERE = Path(sys.argv[0]).parent
COMMAND = Path(sys.argv[0]).name
JOBS = HERE / "jobs"


def kill(moment: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        command, when, pid = (HERE / "kill").read_text().split()
        if (command, when) == (COMMAND, moment):
            (HERE / "kill").unlink()
            os.kill(int(pid), signal.SIGKILL)


def sbatch(arguments: list[str]) -> None:
    if "--test-only" in arguments:
        return
    found = re.search(r"--job-name=(\S+)", Path(arguments[-1]).read_text())
    assert found
    number = 100 + len(list(JOBS.iterdir()))
    (JOBS / str(number)).write_text(f"PENDING {found[1]}")
    print(f"Submitted batch job {number}")


def squeue(_: list[str]) -> None:
    for job in sorted(JOBS.iterdir()):
        state, name = job.read_text().split()
        fields = [job.name, job.name, state, "None", "", "N/A", "N/A", "1795496651", "cpu", name]
        print("\x1f".join(fields))


def scancel(arguments: list[str]) -> None:
    if any(one.startswith("--signal") for one in arguments):
        return
    names = {one[7:] for one in arguments if one.startswith("--name=")}
    for job in JOBS.iterdir():
        _, name = job.read_text().split()
        if job.name in arguments or name in names:
            job.write_text(f"CANCELLED {name}")


def scontrol(arguments: list[str]) -> None:
    print((HERE / ("nodes.txt" if "node" in arguments else "partitions.txt")).read_text())


def sinfo(_: list[str]) -> None:
    print("slurm-wlm 24.11.5")


def main() -> None:
    with (HERE / "calls").open("a") as calls:
        calls.write(f"{COMMAND}\n")
    kill("before")
    commands = {"sbatch": sbatch, "squeue": squeue, "scancel": scancel}
    commands |= {"scontrol": scontrol, "sinfo": sinfo, "srun": sinfo}
    commands[COMMAND](sys.argv[1:])
    sys.stdout.flush()
    kill("after")


main()
