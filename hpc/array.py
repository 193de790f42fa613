"""Many replicas as one job array, by one call of sbatch (sbatch(1), ``--array``).

Each task is a launch like any other: it has its own folder, secret and endpoint, and is drained and
cancelled by itself. The array has the name of its first launch.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from modeltainer.hpc.commands import SlurmError, run
from modeltainer.hpc.options import (
    Option,
    job_name,
    slurm_options,
    srun_arguments,
    submitit_folder,
    without_login_state,
)
from modeltainer.hpc.sbatch import template
from modeltainer.hpc.submit import (
    SBATCH_TIMEOUT_S,
    SubmissionError,
    cancel_lost,
    refusal,
    submission,
)
from modeltainer.registry.layout import Layout
from modeltainer.registry.records import Submission
from modeltainer.spec import LaunchSpec


def groups(specs: Sequence[LaunchSpec]) -> list[list[LaunchSpec]]:
    """Launches that may be tasks of one array: those that differ in nothing but their number."""
    found: list[list[LaunchSpec]] = []
    for spec in specs:
        if found and _alike(found[-1][0]) == _alike(spec):
            found[-1].append(spec)
        else:
            found.append([spec])
    return found


def _alike(spec: LaunchSpec) -> LaunchSpec:
    return replace(spec, launch_id="", replica=0, array=None)


def numbered(group: Sequence[LaunchSpec]) -> list[LaunchSpec]:
    """The same launches, as tasks of one array."""
    name = job_name(group[0].launch_id)
    return [replace(spec, array=(name, task)) for task, spec in enumerate(group)]


def render(specs: Sequence[LaunchSpec], layout: Layout) -> str:
    """The batch file; the launch folders are there when it runs."""
    options = [one for one in slurm_options(specs[0], "/dev/null") if one.name != "open-mode"]
    tasks = Option("array", f"0-{len(specs) - 1}", "A task for each replica.")
    return template("array.sbatch.j2").render(
        ids=[spec.launch_id for spec in specs],
        model=specs[0].model,
        options=[*options, tasks],
        root=shlex.quote(str(layout.launches)),
        prelude=specs[0].prelude,
        srun=shlex.join(srun_arguments(specs[0])),
        python=shlex.quote(sys.executable),
    )


def submit(specs: Sequence[LaunchSpec], layout: Layout) -> list[Submission]:
    """Submit launches whose folders are there and which are alike (:func:`groups`).

    Raises:
        SubmissionError: refused or no answer; no job is left.
        OSError: a launch folder cannot be written.
        KeyboardInterrupt: Ctrl-C; what was submitted is cancelled first.
    """
    first = specs[0]
    for spec in specs:
        submitit_folder(layout, spec.launch_id).mkdir(mode=0o700)
    file = submitit_folder(layout, first.launch_id) / "array.sbatch"
    file.write_text(render(specs, layout))
    submitted = time.time()
    try:
        environment = without_login_state(os.environ)
        said = run(["sbatch", "--parsable", str(file)], SBATCH_TIMEOUT_S, env=environment)
        array = said.strip().partition(";")[0]  # with --parsable: the id, and the cluster's name
        if not array.isdigit():
            raise SubmissionError("refused", f"sbatch has named no job: {said.strip()!r}")
    except BaseException as error:
        cancel_lost(first)
        if isinstance(error, SlurmError):
            raise refusal(error.stderr or str(error)) from error
        raise
    return [
        submission(spec, "slurm", f"{array}_{task}", submitted) for task, spec in enumerate(specs)
    ]
