"""The Slurm options of a launch: one list, for submitit's job and the plain sbatch file.

Facts are from sbatch(1) and srun(1). Left out on purpose: ``--export``. ``NONE`` and ``NIL`` would
keep the user's environment out of the job, but with it the PATH and LD_LIBRARY_PATH that a
module's Python needs to start, and the exported ``module`` function that a prelude calls; ``NONE``
also makes the node run a login shell for the user, which fails where that is slow. Instead
:func:`without_login_state` takes out of sbatch's environment what must not travel.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modeltainer.hpc.gres import parse_gres
from modeltainer.hpc.shards import NAME as SHARD
from modeltainer.registry.layout import Layout
from modeltainer.spec import LaunchSpec

EARLY_SIGNAL = "URG"
"""Slurm signals every process of a step, so the engine too, and SIGUSR1 and SIGUSR2 would end it
(signal(7), default actions); SIGURG does nothing to those that do not handle it."""


RANKS_WAIT_S = 60
"""From the end of one node's agent to that of the others, at most."""


@dataclass(frozen=True)
class Option:
    """One ``#SBATCH`` line."""

    name: str
    """Long name without dashes."""
    value: str | int | None
    """None for a switch without a value."""
    why: str
    """One line for people who read the rendered file."""

    @property
    def line(self) -> str:
        text = f"#SBATCH --{self.name}"
        return text if self.value is None else f"{text}={shlex.quote(str(self.value))}"


def job_name(launch_id: str) -> str:
    """Unique, so that a job whose submission was cut off can be found again."""
    return f"mt-{launch_id}"


def walltime_s(spec: LaunchSpec) -> int:
    """How long the job may run: the placement's word, else the wish."""
    return spec.placement.walltime_s if spec.placement else spec.resources.walltime_s


def walltime_min(spec: LaunchSpec) -> int:
    """Whole minutes, which is what Slurm counts in; rounded down to stay within limits."""
    return max(1, walltime_s(spec) // 60)


def time_min(spec: LaunchSpec) -> int | None:
    """To how many minutes Slurm may shorten it."""
    least_s = spec.resources.time_min_s
    return None if least_s is None else max(1, min(least_s, walltime_s(spec)) // 60)


def early_signal_s(spec: LaunchSpec) -> int:
    """When before the end SIGURG comes: never before half of the walltime is over, and within
    Slurm's range (0 to 65535). Slurm may send it up to 60 s early."""
    shortest_min = walltime_min(spec) if (least := time_min(spec)) is None else least
    return max(1, min(spec.early_signal_s, shortest_min * 30, 65535))


def submitit_folder(layout: Layout, launch_id: str) -> Path:
    """Where submitit keeps its files and the job's own output."""
    return layout.log(launch_id) / "submitit"


def slurm_options(spec: LaunchSpec, output: str) -> list[Option]:
    """The options, in the order in which they are shown.

    Args:
        output: path of the job's output; Slurm replaces ``%j``. Its folder must exist when the job
            starts, or the job fails without a word.
    """
    wanted, placement = spec.resources, spec.placement
    partition = placement.partition if placement else wanted.partition
    gres = placement.gres if placement else None
    memory = None if wanted.memory_mib is None else f"{wanted.memory_mib}M"
    options = [
        Option(
            "job-name", job_name(spec.launch_id), "Unique: squeue --name finds this very launch."
        ),
        Option("partition", partition, "The queue; sinfo lists them."),
        Option("account", wanted.account, "Who pays."),
        Option("qos", wanted.qos, "Which limits apply."),
        Option("nodes", wanted.nodes, "Nodes that serve one replica together,"),
        Option("ntasks-per-node", 1, "with one task on each: the agent, which starts the engine."),
        Option("cpus-per-task", wanted.cpus, "CPU cores of the agent and the engine together."),
        Option("mem", memory, "Host memory, not the GPU's."),
        Option("gres", gres, "GPUs, slices or shards, by the site's own names (sinfo -o %G)."),
        Option("constraint", wanted.constraint, "Only nodes with these features."),
        Option("nodelist", wanted.nodelist, "Only these nodes."),
        Option("exclude", wanted.exclude, "Not these nodes: they have fallen silent."),
        Option("time", walltime_min(spec), "Minutes until Slurm ends the job."),
        Option("time-min", time_min(spec), "As few may they become, if it can begin earlier so."),
        Option(
            "signal",
            f"{EARLY_SIGNAL}@{early_signal_s(spec)}",
            "So many seconds earlier the agent is told; who does not know SIGURG ignores it.",
        ),
        Option("open-mode", "append", "A log that is there is not overwritten."),
        Option("output", output, "What the job prints, standard error too."),
    ]
    given = [option for option in options if option.value is not None]
    # A requeued job would write over its first run's state under the same job id.
    switch = Option("no-requeue", None, "A lost job is launched anew, never run twice by Slurm.")
    return [*given, switch]


def srun_arguments(spec: LaunchSpec) -> list[str]:
    """Since 22.05 srun no longer takes ``--cpus-per-task`` over from sbatch (srun(1)): without it
    the agent and its engine would share one core. Output is appended to what the prelude wrote.

    A step that inherits shards with a type is refused ('Invalid generic resource', seen with
    22.05 to 26.05; so is one that names the type), but not one that asks for their number."""
    arguments = [f"--cpus-per-task={spec.resources.cpus}", "--open-mode=append"]
    arguments += [
        f"--gres={one.name}:{one.count}"
        for one in parse_gres(spec.placement.gres if spec.placement else None)
        if one.name == SHARD and one.type is not None
    ]
    if spec.resources.nodes > 1:
        # Agents see each other end, and say why; what does not end by itself, srun ends after this.
        arguments += [f"--wait={RANKS_WAIT_S}", "--kill-on-bad-exit=0"]
    return arguments


_LOGIN_STATE = re.compile(
    # Another job's variables (mt-submit inside salloc), and defaults that would override our
    # options: sbatch(1), INPUT ENVIRONMENT VARIABLES.
    r"(?:SLURM|SLURMD|SBATCH|SRUN|SALLOC|SPANK|SUBMITIT|PMI|PMIX|OMPI)_.*"
    # Places and sockets of the login node.
    r"|XDG_RUNTIME_DIR|XDG_SESSION_.*|DBUS_SESSION_BUS_ADDRESS|SSH_.*|DISPLAY|XAUTHORITY|TMUX.*|STY"
    # Credentials: secrets reach the engine through the launch folder, by reference.
    r"|(?:.*_)?(?:TOKEN|SECRET|SECRET_KEY|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|ACCESS_KEY_ID)"
)
_KEPT = frozenset({"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT"})
"""How Slurm's own commands find and trust their controller."""


def without_login_state(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment in which sbatch runs, and which Slurm copies into the job."""
    return {
        name: value
        for name, value in environment.items()
        if name in _KEPT or not _LOGIN_STATE.fullmatch(name)
    }
