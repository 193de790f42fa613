"""From any exception to one message, one hint and one exit code; never a traceback."""

from __future__ import annotations

import click

from modeltainer.cli import exit_codes
from modeltainer.cli.text import coded


class Failure(Exception):  # noqa: N818 -- as in launch failure, gateway failure
    """A command could not do its work: what happened, what to do, and the exit code.

    ``code`` names the cause, where it has a name that does not change between versions:
    docs/troubleshooting.md has a section on each.
    """

    def __init__(
        self,
        message: str,
        hint: str = "",
        exit_code: int = exit_codes.FAILURE,
        *,
        code: str = "",
    ) -> None:
        super().__init__(message)
        self.message, self.hint, self.exit_code, self.code = message, hint, exit_code, code

    def show(self) -> None:
        """Write ``error: … [code]`` and ``hint: …`` to standard error; many lines start on their
        own."""
        between = "\n" if "\n" in self.message else " "
        told = coded(self.message, self.code)
        click.echo(click.style("error:", fg="red", bold=True) + between + told, err=True)
        if self.hint:
            click.echo(click.style("hint:", bold=True) + " " + self.hint, err=True)


class Interrupted(Failure):
    """Ctrl-C: what was left, and how to end it."""

    def __init__(self, message: str = "interrupted", hint: str = "") -> None:
        super().__init__(message, hint, exit_codes.INTERRUPTED)

    def show(self) -> None:
        """Write it to standard error; it is no error, since the user asked for it."""
        click.echo(f"\n{self.message}", err=True)
        if self.hint:
            click.echo(self.hint, err=True)


def explain(error: Exception) -> Failure:
    """The failure that tells of this exception."""
    # By now the command has imported what it needs; these cost nothing more.
    from modeltainer.apptainer.image import ImageError
    from modeltainer.config.problems import ConfigError
    from modeltainer.config.resolve import CannotLaunchError
    from modeltainer.hpc.commands import SlurmError
    from modeltainer.service import LaunchError, WaitTimeoutError

    if isinstance(error, ConfigError):
        in_a_field = any(problem.field for problem in error.problems)
        hint = "mend it, then check it with: mt-submit validate" if in_a_field else ""
        return Failure(str(error), hint, exit_codes.CONFIG)
    if isinstance(error, LaunchError):
        return Failure(error.message, error.hint, _launch_exit_code(error), code=error.code)
    if isinstance(error, CannotLaunchError):
        message, _, hint = str(error).rpartition("; ")
        return Failure(message or hint, hint if message else "", exit_codes.CONFIG)
    if isinstance(error, WaitTimeoutError):
        hint = "they go on: mt-submit ls shows them, mt-submit stop ends them"
        return Failure(str(error), hint, exit_codes.TIMEOUT)
    if isinstance(error, ImageError):
        return Failure(error.message, error.hint, code=error.code)
    if isinstance(error, SlurmError):
        code = "slurm-unavailable" if error.unreachable else ""
        return Failure(str(error), "try again, or ask the site", exit_codes.REFUSED, code=code)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return Failure(f"{where}{error.strerror or error}")
    return Failure(
        f"{type(error).__name__}: {error}",
        "this is a fault of mt-submit: run it again with --verbose and report what it prints",
    )


def _launch_exit_code(error: Exception) -> int:
    from modeltainer.hpc.commands import SlurmError
    from modeltainer.hpc.placement import PlacementError
    from modeltainer.hpc.submit import SubmissionError

    if getattr(error, "code", "") in {"no-such-model", "no-such-launch"}:
        return exit_codes.NO_MATCH
    if isinstance(error.__cause__, PlacementError) or getattr(error, "code", "") == "does-not-fit":
        return exit_codes.CANNOT_PLACE
    if isinstance(error.__cause__, (SubmissionError, SlurmError)):
        return exit_codes.REFUSED
    return exit_codes.FAILURE
