"""What the agent finds out about the job it runs in. Environment names: sbatch(1), srun(1)."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import socket
import struct
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from modeltainer.hpc.hostlist import expand
from modeltainer.hpc.snapshot import parse_time_s
from modeltainer.spec import LaunchSpec

_SIOCGIFADDR = 0x8915
"""ioctl that gives an interface's IPv4 address (netdevice(7))."""
LATE_S = 60.0
"""An agent that seems to have begun this long after its job: a slow prolog, or a wrong clock."""
ASK_S = 20.0
"""For Slurm to say how much is left."""


class NoSuchInterfaceError(RuntimeError):
    """The site's ``host_interface`` is not on this node."""


@dataclass(frozen=True)
class JobFacts:
    """This job, as its environment tells it."""

    job_id: str
    node: str
    local: bool
    """Not under Slurm: a bare machine."""
    devices: tuple[str, ...]
    """GPUs as handed out: indices or UUIDs."""
    ends_unix: float | None
    """By the controller's clock."""
    left_s: float | None = None
    """Of the walltime, when this was read."""


def job_facts(
    spec: LaunchSpec,
    environ: Mapping[str, str],
    now_unix: float,
    ask: Callable[[str], float | None] | None = None,
) -> JobFacts:
    """Read the job's environment; without Slurm the job is this process or submitit's.

    Args:
        now_unix: by this node's clock, which may differ from the controller's.
        ask: how much of a job's walltime is left in seconds, by Slurm itself.
    """
    job_id = environ.get("SLURM_JOB_ID")
    node = environ.get("SLURMD_NODENAME") or socket.gethostname()
    visible = environ.get("CUDA_VISIBLE_DEVICES") or environ.get("ROCR_VISIBLE_DEVICES") or ""
    devices = tuple(part for part in visible.split(",") if part and part != "NoDevFiles")
    if job_id is None:
        local_id = environ.get("SUBMITIT_LOCAL_JOB_ID") or str(os.getpid())
        return JobFacts(local_id, node, True, devices, None)
    start, end = _number(environ, "SLURM_JOB_START_TIME"), _number(environ, "SLURM_JOB_END_TIME")
    walltime_s = float(spec.placement.walltime_s) if spec.placement else None
    if end is None:  # before Slurm 22.05
        end = now_unix + walltime_s if walltime_s is not None else None
        return JobFacts(job_id, node, False, devices, end, walltime_s)
    whole_s = end - start if start is not None else walltime_s
    left_s = end - now_unix
    if whole_s is not None:
        # More than the whole is left by a clock that is behind; much less, by one that is ahead.
        if whole_s - left_s > LATE_S:
            told = (ask or _ask_slurm)(job_id)
            left_s = told if told is not None else left_s
        left_s = min(left_s, whole_s)
    return JobFacts(job_id, node, False, devices, end, left_s)


def _number(environ: Mapping[str, str], name: str) -> float | None:
    with contextlib.suppress(KeyError, ValueError):
        return float(environ[name])
    return None


def _ask_slurm(job_id: str) -> float | None:
    """Of the job's walltime; None when Slurm does not say."""
    argv = ["squeue", "--noheader", f"--jobs={job_id}", "--Format=TimeLeft:30"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(argv, capture_output=True, text=True, timeout=ASK_S, check=True)
        found = parse_time_s(done.stdout.strip())
        return None if found is None else float(found)
    return None


def addresses(spec: LaunchSpec, facts: JobFacts) -> tuple[str, str]:
    """The IPv4 address to bind, and the host to register.

    Raises:
        NoSuchInterfaceError: the wished interface is not here or has no IPv4 address.
    """
    interface = spec.site.host_interface
    if interface is not None:
        address = _interface_address(interface)
        return address, address
    if facts.local:
        return "127.0.0.1", "127.0.0.1"
    # Which of the node's addresses login can reach is not known here, so all of them.
    return "0.0.0.0", facts.node  # noqa: S104


def rank_of(nodes: int) -> int:
    """This agent's rank among so many nodes: Slurm's task number (srun(1))."""
    return int(os.environ.get("SLURM_PROCID", "0")) if nodes > 1 else 0


def own_address(spec: LaunchSpec, facts: JobFacts) -> str:
    """This node's IPv4 address on the way to the job's other nodes (the first that has one).

    Raises:
        NoSuchInterfaceError: the site's interface is not here, or no other node has an address.
    """
    if spec.site.host_interface is not None:
        return _interface_address(spec.site.host_interface)
    names = expand(os.environ.get("SLURM_JOB_NODELIST", ""))
    others = [name for name in names if name != facts.node]
    for name in others:
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe,
        ):
            probe.connect((name, 9))  # sends nothing: the kernel chooses the way
            address: str = probe.getsockname()[0]
            return address
    raise NoSuchInterfaceError(
        f"no other node of the job has an address: {', '.join(others) or 'there is none'}"
    )


def _interface_address(interface: str) -> str:
    request = array.array("B", struct.pack("256s", interface.encode()[:15]))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
        except OSError as error:
            raise NoSuchInterfaceError(
                f"this node has no interface {interface!r} with an IPv4 address"
            ) from error
    return socket.inet_ntoa(request.tobytes()[20:24])
