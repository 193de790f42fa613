"""``mt-submit bench --on-cluster``: the same measurement as a Slurm job, next to the engine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from modeltainer.cli.failures import Failure
from modeltainer.cli.text import note

_OURS = {"--on-cluster", "--direct", "--partition", "--time", "--output"}
"""Options that are the job's, or set for it."""


def submit(
    model: str,
    config: Path,
    folder: Path,
    options: Sequence[str],
    *,
    partition: str | None,
    walltime_s: int,
) -> None:
    """Submit the bench; its results will be in ``folder``, the job's output beside it.

    Args:
        options: of ``bench run`` in the job, as :func:`job_options` gives them.

    Raises:
        Failure: the folder has a run already, or cannot be written.
        SubmissionError: Slurm refused it.
        SlurmError: Slurm does not answer.
    """
    from modeltainer.hpc.commands import SlurmError, run
    from modeltainer.hpc.sbatch import template
    from modeltainer.hpc.submit import refusal

    folder = folder.absolute()
    if folder.exists():
        raise Failure(f"{folder} is there already", "give another --output")
    script, log = folder.with_name(folder.name + ".sbatch"), folder.with_name(folder.name + ".log")
    text = template("bench.sbatch.j2").render(python=sys.executable, config=config)
    try:
        script.write_text(text)
    except OSError as error:
        raise Failure(f"{script}: {error.strerror or error}", "give another --output") from error
    argv = ["sbatch", "--parsable", f"--output={log}", f"--time={max(1, walltime_s // 60)}"]
    argv += [f"--partition={partition}"] if partition else []
    options = [*options, "--direct", "--output", str(folder)]
    try:
        job_id = run([*argv, str(script), model, *options]).strip().partition(";")[0]
    except SlurmError as error:
        script.unlink(missing_ok=True)
        if error.unreachable:
            raise
        raise refusal(error.stderr) from error
    note(f"submitted as job {job_id}; its output grows in {log}")
    note(f"the results will be in {folder}")
    click.echo(job_id)


def job_options(words: Sequence[str], command: click.Command) -> list[str]:
    """The options as they were typed after ``bench``, without the model and the job's own.

    Args:
        command: ``bench run``, which knows which of its options take a value.
    """
    valued = {
        name
        for one in command.params
        if isinstance(one, click.Option) and not one.is_flag
        for name in one.opts
    }
    rest = list(words)
    kept: list[str] = []
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            continue  # bench, run, the model
        name, equals, _ = word.partition("=")
        taken = [word, rest.pop(0)] if name in valued and not equals and rest else [word]
        if name not in _OURS:
            kept += taken
    return kept


def check(options: dict[str, object]) -> None:
    """Refuse what a job cannot take along.

    Raises:
        click.UsageError: another server is named, or its key is.
    """
    for name in ("url", "key", "against_url", "against_key"):
        if options[name]:
            spelt = name.replace("_", "-")
            raise click.UsageError(
                f"--on-cluster asks engines of your own, by the registry: leave --{spelt} out "
                "(a key would stand in the job's script)"
            )
    if options["as_json"]:
        raise click.UsageError("--on-cluster answers later: summary.json will be in the folder")
