"""The plain sbatch file of a launch, for people who want to read, keep or edit one.

It has the same options as the job that submitit would submit, and carries its spec along: no file
of ours is needed at ``sbatch`` time. The agent makes the launch folder and its secret on the node.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from modeltainer.hpc.options import slurm_options, srun_arguments
from modeltainer.spec import LaunchSpec, encode

if TYPE_CHECKING:
    from jinja2 import Template


@dataclass(frozen=True)
class SecretReference:
    """One secret of the engine by reference: a variable of the shell that submits, or a file."""

    name: str
    variable: str | None = None
    file: str | None = None

    @property
    def option(self) -> str:
        """As ``python -m modeltainer.jobs`` takes it."""
        kind, value = ("env", self.variable) if self.file is None else ("file", self.file)
        return f"--secret-{kind} {shlex.quote(f'{self.name}={value}')}"


def template(name: str) -> Template:
    """One of ``scripts/slurm``'s templates."""
    from jinja2 import Environment, StrictUndefined

    # Shell, not HTML: escaping is shlex's, done by who renders.
    environment = Environment(  # noqa: S701
        undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True
    )
    file = resources.files("modeltainer.hpc") / "templates" / name
    return environment.from_string(file.read_text(encoding="utf-8"))


OUTPUT = "%x.%j.log"
"""``<job name>.<job id>.log`` where sbatch is called: the launch folder is not there yet, and Slurm
fails a job whose output folder is missing."""


def render(
    spec: LaunchSpec, python: str = sys.executable, secrets: Sequence[SecretReference] = ()
) -> str:
    """The file's text; shellcheck finds nothing in it.

    Args:
        python: the interpreter that has modeltainer, at its path on the compute node.
        secrets: where the agent is to find the engine's secrets; never their values.
    """
    return template("job.sbatch.j2").render(
        spec=spec,
        options=slurm_options(spec, OUTPUT),
        prelude=spec.prelude,
        reasons=spec.placement.reasons if spec.placement else (),
        srun=shlex.join(srun_arguments(spec)),
        python=shlex.quote(python),
        variables=[one.variable for one in secrets if one.variable],
        secret_options="".join(f" {one.option}" for one in secrets),
        document=encode(spec).decode().rstrip("\n"),
    )
