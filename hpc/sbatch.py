"""The plain sbatch file of a launch, for people who want to read, keep or edit one.

It has the same options as the job that submitit would submit, and carries its spec along: no file
of ours is needed at ``sbatch`` time. The agent makes the launch folder and its secret on the node.
"""

from __future__ import annotations

import shlex
import sys
from importlib import resources

from modeltainer.hpc.options import slurm_options, srun_arguments
from modeltainer.spec import LaunchSpec, encode

OUTPUT = "%x.%j.log"
"""``<job name>.<job id>.log`` where sbatch is called: the launch folder is not there yet, and Slurm
fails a job whose output folder is missing."""


def render(spec: LaunchSpec, python: str = sys.executable) -> str:
    """The file's text; shellcheck finds nothing in it.

    Args:
        python: the interpreter that has modeltainer, at its path on the compute node.
    """
    from jinja2 import Environment, StrictUndefined

    # Shell, not HTML: escaping is shlex's, done here.
    environment = Environment(  # noqa: S701
        undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True
    )
    template = resources.files("modeltainer.hpc") / "templates" / "job.sbatch.j2"
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        spec=spec,
        options=slurm_options(spec, OUTPUT),
        prelude=spec.prelude,
        reasons=spec.placement.reasons if spec.placement else (),
        srun=shlex.join(srun_arguments(spec)),
        python=shlex.quote(python),
        document=encode(spec).decode().rstrip("\n"),
    )
