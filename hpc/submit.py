"""From a launch to a job, through submitit: on Slurm, or on this machine.

submitit writes the sbatch file, pickles the payload (the agent's entry and the launch folder's
path, nothing else) and runs sbatch. This module sees to it that sbatch cannot hang, that what it
refuses is told in words, and that Ctrl-C at any moment leaves no job behind.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from modeltainer.hpc.cancel import cancel_local, cancel_named
from modeltainer.hpc.commands import SlurmError, failure, last_words
from modeltainer.hpc.options import (
    Option,
    early_signal_s,
    job_name,
    slurm_options,
    srun_arguments,
    submitit_folder,
    walltime_min,
    without_login_state,
)
from modeltainer.registry.layout import Layout
from modeltainer.registry.records import Submission
from modeltainer.scheduler import start_ticks
from modeltainer.spec import LaunchSpec

if TYPE_CHECKING:
    from submitit import LocalExecutor, SlurmExecutor

SBATCH_TIMEOUT_S = 60
"""sbatch waits and tries again while a controller is busy; this is long enough for that."""


class SubmissionError(Exception):
    """The scheduler refused the job, or did not answer; no job was left behind.

    ``code`` is stable, ``message`` says what happened (Slurm's own words at the end), ``hint`` what
    to do.
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.code, self.message, self.hint = code, message, hint


_REFUSALS: tuple[tuple[str, str, str, str], ...] = (
    (
        r"invalid partition( name)? specified",
        "no-such-partition",
        "there is no such partition",
        "sinfo lists the partitions",
    ),
    (
        r"user'?s group not permitted|partition.*not permitted",
        "partition-not-allowed",
        "your group may not use this partition",
        "take another with --partition, or ask the site for access",
    ),
    (
        r"requested time limit is invalid|time limit.*(exceed|invalid)",
        "walltime-too-long",
        "the walltime is over the partition's or QOS's limit",
        "use a shorter --time; scontrol show partition shows MaxTime",
    ),
    (
        r"invalid account|account/partition combination|must specify (an )?account",
        "invalid-account",
        "the account is missing, unknown, or not allowed in this partition",
        "set resources.account, or the account of the partition in site.partitions; "
        "sacctmgr show assoc user=$USER lists yours",
    ),
    (
        r"invalid qos",
        "invalid-qos",
        "the QOS is unknown or not allowed for you in this partition",
        "set resources.qos, or leave it out",
    ),
    (
        r"violates accounting/qos policy|job submit limit|qos\w*limit|assoc\w*limit",
        "over-limit",
        "a limit of your account or QOS does not allow this job",
        "stop another job (mt-submit ls), ask for less, or use another account or QOS",
    ),
    (
        r"invalid generic resource|invalid gres|invalid trestype",
        "no-such-gpu-type",
        "no node offers the GPUs asked for under this name",
        "sinfo -o '%P %G' shows what each partition has",
    ),
    (
        r"invalid feature",
        "no-such-feature",
        "no node has the features asked for",
        "change resources.constraint; sinfo -o '%P %f' shows the features",
    ),
    (
        r"memory specification can ?not be satisfied|memory required by task is not available",
        "not-enough-memory",
        "no node has that much memory",
        "ask for less with resources.memory",
    ),
    (
        r"cpu count (per node )?can ?not be satisfied|more processors requested than permitted",
        "not-enough-cpus",
        "no node has that many CPUs",
        "ask for fewer with resources.cpus",
    ),
    (
        r"invalid node name|invalid hostname|node count specification invalid|"
        r"invalid number of nodes",
        "no-such-node",
        "the nodes asked for do not exist, or are more than one",
        "name one node in resources.nodelist (sinfo -N)",
    ),
    (
        r"requested node configuration is not available|"
        r"requested partition configuration not available",
        "not-available",
        "no node of the partition can ever give what is asked for",
        "ask for fewer GPUs, CPUs or less memory, or take another partition",
    ),
    (
        r"required partition not available|partition.*\b(down|inactive|drain)",
        "partition-down",
        "the partition takes no jobs now",
        "take another partition, or ask the site when it is back",
    ),
    (
        r"required node not available|nodes? .*(down|drained)",
        "node-down",
        "the node asked for is down, drained or reserved",
        "leave resources.nodelist out",
    ),
    (
        r"access/permission denied|permission denied",
        "not-allowed",
        "you may not submit this job",
        "ask the site whether your account is active",
    ),
    (
        r"temporarily unable to accept|queue.*full|max.*job.*count|"
        r"resource temporarily unavailable",
        "scheduler-busy",
        "Slurm takes no more jobs for the moment",
        "try again in a few minutes",
    ),
)


def refusal(stderr: str) -> SubmissionError:
    """sbatch's last words as an error with a code, in words."""
    said = last_words(stderr)
    said = re.sub(r"^Batch job submission failed: ", "", said)
    error = failure("sbatch", 1, stderr)
    if error.unreachable:
        return SubmissionError(
            "slurm-unavailable", str(error), "try again, or ask the site whether Slurm is down"
        )
    # The last line is Slurm's verdict; one before it may say more exactly what was wrong.
    for pattern, code, message, hint in _REFUSALS:
        if re.search(pattern, stderr, re.IGNORECASE):
            return SubmissionError(code, f"{message} (Slurm: {said})", hint)
    site = " ".join(last_words(line) for line in stderr.splitlines() if line.strip())
    return SubmissionError(
        "refused",
        f"Slurm refused the job: {site or 'it gave no reason'}",
        "these are the site's own words; its support can explain them",
    )


def submit(
    spec: LaunchSpec, layout: Layout, executor: Literal["slurm", "local"] = "slurm"
) -> Submission:
    """Submit a launch whose folder is there (:func:`modeltainer.registry.launches.create`).

    Raises:
        SubmissionError: refused or no answer; no job is left.
        OSError: the launch folder cannot be written.
        KeyboardInterrupt: Ctrl-C; what was submitted is cancelled first.
    """
    return _to_slurm(spec, layout) if executor == "slurm" else _to_local(spec, layout)


def slurm_executor(spec: LaunchSpec, layout: Layout) -> SlurmExecutor:
    """submitit's executor with this launch's options.

    Raises:
        SubmissionError: there is no srun here.
    """
    from submitit import SlurmExecutor

    class TimeLimitedExecutor(SlurmExecutor):
        """sbatch under coreutils' timeout; ``--foreground`` lets Ctrl-C reach it."""

        def _make_submission_command(self, submission_file_path: Path) -> list[str]:
            command: list[str] = super()._make_submission_command(submission_file_path)
            return ["timeout", "--foreground", "--kill-after=5", str(SBATCH_TIMEOUT_S), *command]

    folder = submitit_folder(layout, spec.launch_id)
    try:
        made: SlurmExecutor = TimeLimitedExecutor(folder, max_num_timeout=0, python=_python())
    except RuntimeError as error:
        raise SubmissionError("no-slurm", str(error), "submit from a login node") from error
    # submitit names the output itself; ours is the same path, and the rest of our list goes in
    # verbatim, so that no option can be lost between its names and Slurm's.
    options = {option.name: option for option in slurm_options(spec, str(folder / "%j_0_log.out"))}
    made.update_parameters(
        job_name=options.pop("job-name").value,
        nodes=options.pop("nodes").value,
        time=options.pop("time").value,
        signal_delay_s=early_signal_s(spec),
        setup=list(spec.prelude) or None,
        srun_args=srun_arguments(spec),
        stderr_to_stdout=True,
        wckey=None,  # submitit's default, "submitit", is refused where the site tracks wckeys
        additional_parameters={name: _verbatim(option) for name, option in options.items()},
    )
    return made


def _verbatim(option: Option) -> str | int | bool:
    return True if option.value is None else option.value


def _python() -> str:
    return shlex.quote(sys.executable)


def _to_slurm(spec: LaunchSpec, layout: Layout) -> Submission:
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    from modeltainer.jobs.agent import run

    executor = slurm_executor(spec, layout)
    submitted = time.time()
    try:
        with _sbatch_environment(), contextlib.redirect_stderr(io.StringIO()):
            job = executor.submit(run, str(layout.launch(spec.launch_id)))
            job_id = str(job.job_id)
    except FailedJobError as error:
        status = getattr(error.__cause__, "returncode", 1)
        if status in {124, 137}:  # timeout(1): the time was up; the job may have come through
            cancel_lost(spec)
            raise SubmissionError(
                "slurm-unavailable",
                f"sbatch gave no answer within {SBATCH_TIMEOUT_S} s",
                "try again, or ask the site whether Slurm is down",
            ) from error
        raise refusal(str(error)) from error
    except FailedSubmissionError as error:
        cancel_lost(spec)
        raise SubmissionError("refused", str(error).splitlines()[0]) from error
    except BaseException:
        # Ctrl-C between sbatch's request and its answer, or a full disk after it.
        cancel_lost(spec)
        raise
    return submission(spec, "slurm", job_id, submitted)


def cancel_lost(spec: LaunchSpec) -> None:
    """Cancel the job that may or may not exist; twice, since a request may still be on its way."""
    for pause_s in (0.0, 0.5):
        time.sleep(pause_s)
        with contextlib.suppress(SlurmError):
            cancel_named(job_name(spec.launch_id))


def _to_local(spec: LaunchSpec, layout: Layout) -> Submission:
    from modeltainer.jobs.agent import run

    submitted = time.time()
    executor = local_executor(spec, layout)
    log = submitit_folder(layout, spec.launch_id) / "controller.log"
    pid, ticks = None, None
    try:
        with _signals_blocked(), _streams_to(log):
            pid = int(executor.submit(run, str(layout.launch(spec.launch_id))).job_id)
            ticks = start_ticks(pid)
    except BaseException:
        if pid is not None:
            cancel_local(pid, ticks)
        raise
    return submission(spec, "local", str(pid), submitted, ticks)


def local_executor(spec: LaunchSpec, layout: Layout) -> LocalExecutor:
    """submitit's executor for this machine: the same path as on a cluster, without the queue."""
    from submitit import LocalExecutor

    lines = list(spec.prelude)
    devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    if devices and spec.resources.gpus:
        # submitit would number them from 0, whatever this shell was given (and UUIDs it cannot).
        mine = ",".join(devices.split(",")[: spec.resources.gpus])
        lines.append(f"export CUDA_VISIBLE_DEVICES={shlex.quote(mine)}")
    made = LocalExecutor(
        submitit_folder(layout, spec.launch_id), max_num_timeout=0, python=_detached(lines)
    )
    made.update_parameters(
        timeout_min=walltime_min(spec),  # submitit's default is 2 minutes
        signal_delay_s=early_signal_s(spec),
        gpus_per_node=spec.resources.gpus,
        stderr_to_stdout=True,
    )
    return made


def _detached(lines: list[str]) -> str:
    """The command for Python in a session of its own, where no terminal's signals come, after shell
    lines. setsid and bash replace themselves, so that submitit signals Python itself (its own
    ``setup`` runs under sh, which knows no ``module`` and would keep the signals)."""
    if not lines:
        return shlex.join(["setsid", sys.executable])
    script = "\n".join([*lines, 'exec "$0" "$@"'])
    return shlex.join(["setsid", "bash", "-c", script, sys.executable])


def submission(
    spec: LaunchSpec,
    executor: Literal["slurm", "local"],
    job_id: str,
    submitted: float,
    ticks: int | None = None,
) -> Submission:
    """The record of a launch that has become a job."""
    placement = spec.placement
    return Submission(
        launch_id=spec.launch_id,
        model=spec.model,
        replica=spec.replica,
        executor=executor,
        job_id=job_id,
        submitted_unix=submitted,
        partition=placement.partition if placement else spec.resources.partition,
        gres=spec.gres,
        host=os.uname().nodename if executor == "local" else None,
        local_start_ticks=ticks,
    )


@contextlib.contextmanager
def _sbatch_environment() -> Iterator[None]:
    """submitit runs sbatch in this process's environment; the job gets a copy of it."""
    before = dict(os.environ)
    after = without_login_state(before)
    try:
        for name in before.keys() - after.keys():
            del os.environ[name]
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Children started in here inherit the mask: Ctrl-C, Ctrl-Z and a closed terminal end or stop
    mt-submit, not submitit's controller. A Ctrl-C meanwhile comes when the mask is lifted."""
    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP, signal.SIGTSTP, signal.SIGQUIT}
    )
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _streams_to(log: Path) -> Iterator[None]:
    """Children started in here have no terminal and no pipe of ours: ``mt-submit … | jq`` would
    otherwise wait for the server's end."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(fd) for fd in (0, 1, 2)]
    null = os.open(os.devnull, os.O_RDONLY)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for fd, to in ((0, null), (1, out), (2, out)):
            os.dup2(to, fd)
        yield
    finally:
        for fd, old in zip((0, 1, 2), saved, strict=True):
            os.dup2(old, fd)
        for fd in (*saved, null, out):
            os.close(fd)
