"""Running Slurm's commands: with a time limit, in one language, and with errors in words.

A controller that hangs must not hang us, and 'no answer' must never be taken for 'no jobs':
everything that is not a clean answer is a :class:`SlurmError`.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache

DEFAULT_TIMEOUT_S = 20.0


class SlurmError(RuntimeError):
    """Slurm gave no answer, or refused. The text says so in words.

    ``stderr`` is what the command itself said (empty when it could not run); ``unreachable`` is
    True when nothing is known about the cluster's state: the command is missing, took too long, or
    could not reach its controller.
    """

    def __init__(self, message: str, *, stderr: str = "", unreachable: bool = False) -> None:
        super().__init__(message)
        self.stderr, self.unreachable = stderr, unreachable


_UNREACHABLE = re.compile(
    r"unable to contact slurm controller|socket timed out|connection refused|zero bytes were "
    r"transmitted|slurm_load_\w+ error: .*(contact|timed out|connect)|could not establish a "
    r"configuration source|unable to establish controller machine|"
    r"(communication|transmission|message) (connection )?(failure|error|timeout)|"
    r"slurm backup controller in standby mode",
    re.IGNORECASE,
)
_AUTHENTICATION = re.compile(
    r"munge|protocol authentication|authentication credential|auth(entication)? plugin",
    re.IGNORECASE,
)


def environment(source: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment Slurm's commands get: English messages, times as Unix seconds, and none of
    the user's own output formats or default options (squeue(1), sinfo(1), sbatch(1): ENVIRONMENT).
    """
    source = os.environ if source is None else source
    kept = {
        name: value
        for name, value in source.items()
        if not name.startswith(("SQUEUE_", "SINFO_", "SCANCEL_", "SBATCH_", "SCONTROL_"))
        and name not in {"LC_MESSAGES", "LANGUAGE", "SLURM_CLUSTERS", "SLURM_JSON", "SLURM_YAML"}
    }
    return {**kept, "LC_ALL": "C", "SLURM_TIME_FORMAT": "%s"}


def run(
    argv: Sequence[str],
    timeout_s: float = DEFAULT_TIMEOUT_S,
    *,
    messages: bool = False,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run one Slurm command and return what it printed.

    Args:
        messages: return its standard error instead, where ``sbatch --test-only`` answers.
        env: for sbatch, whose job inherits it; else :func:`environment`.

    Raises:
        SlurmError: the command is missing, took longer than ``timeout_s`` seconds, could not reach
            the controller, or ended with an error.
    """
    command = argv[0]
    try:
        done = subprocess.run(
            list(argv),
            env=environment() if env is None else env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError as error:
        raise SlurmError(
            f"the command {command} was not found: this is no Slurm login node, or Slurm's "
            "commands are not on PATH",
            unreachable=True,
        ) from error
    except OSError as error:
        raise SlurmError(
            f"the command {command} cannot run: {error.strerror or error}", unreachable=True
        ) from error
    except subprocess.TimeoutExpired as error:
        raise SlurmError(
            f"{command} gave no answer within {timeout_s:g} s: the Slurm controller is overloaded "
            "or does not answer",
            unreachable=True,
        ) from error
    stderr = done.stderr.decode(errors="replace").strip()
    if done.returncode:
        raise failure(command, done.returncode, stderr)
    return stderr if messages else done.stdout.decode(errors="replace")


def failure(command: str, status: int, stderr: str) -> SlurmError:
    """The error for a command that ended with ``status`` and said ``stderr``."""
    said = last_words(stderr)
    if _UNREACHABLE.search(stderr):
        return SlurmError(
            f"the Slurm controller does not answer ({command}: {said}); what is queued or running "
            "goes on",
            stderr=stderr,
            unreachable=True,
        )
    if _AUTHENTICATION.search(stderr):
        return SlurmError(
            f"Slurm does not accept our identity ({command}: {said}); is munge running here?",
            stderr=stderr,
            unreachable=True,
        )
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    return SlurmError(
        f"{command} {how}" + (f": {said}" if said else " and said nothing"), stderr=stderr
    )


def last_words(stderr: str) -> str:
    """The line of a Slurm command's messages that says why, without ``sbatch: error:``."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    if not lines:
        return ""
    telling = next((line for line in reversed(lines) if "error:" in line), lines[-1])
    return re.sub(r"^(?:\w+: )?(?:(?:fatal|error): )+", "", telling)


def parse_version(text: str) -> tuple[int, int]:
    """``(major, minor)`` from ``slurm 22.05.8`` or ``slurm-wlm 22.05.8``; (0, 0) when unclear."""
    found = re.search(r"\b(\d{2})\.(\d{1,2})\b", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


@cache
def slurm_version() -> tuple[int, int]:
    """Version of the Slurm commands here, such as ``(22, 5)``; asked once per process.

    Raises:
        SlurmError: ``sinfo`` is not there. (``--version`` needs no controller.)
    """
    return parse_version(run(["sinfo", "--version"]))
