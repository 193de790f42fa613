"""What the agent finds out about the job it runs in. Environment names: sbatch(1), srun(1)."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from modeltainer.hpc.hostlist import expand
from modeltainer.spec import LaunchSpec

_SIOCGIFADDR = 0x8915
"""ioctl that gives an interface's IPv4 address (netdevice(7))."""
LATE_S = 60.0
"""An agent that seems to have begun this long after its job: a slow prolog, or a wrong clock."""


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
    now_unix: float = 0.0
    """When this was read; as the next, by the controller's clock."""

    @property
    def left_s(self) -> float | None:
        """Of the walltime, when this was read; None without one."""
        return None if self.ends_unix is None else self.ends_unix - self.now_unix


def slurm_job_id(environ: Mapping[str, str]) -> str | None:
    """This job as squeue names it: a task of an array is ``123_4`` there, though it has an id of
    its own (sbatch(1), ``SLURM_ARRAY_JOB_ID``). None outside of Slurm."""
    array, task = environ.get("SLURM_ARRAY_JOB_ID"), environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else environ.get("SLURM_JOB_ID")


def job_facts(spec: LaunchSpec, environ: Mapping[str, str], now_unix: float) -> JobFacts:
    """Read the job's environment; without Slurm the job is this process or submitit's.

    Args:
        now_unix: by this node's clock. Where that does not fit the job's times, which are the
            controller's, the job is taken to have begun just now: squeue would reckon with this
            clock, too. After a slow prolog that is too late; Slurm's early signal corrects it.
    """
    job_id = slurm_job_id(environ)
    node = environ.get("SLURMD_NODENAME") or socket.gethostname()
    visible = environ.get("CUDA_VISIBLE_DEVICES") or environ.get("ROCR_VISIBLE_DEVICES") or ""
    devices = tuple(part for part in visible.split(",") if part and part != "NoDevFiles")
    if job_id is None:
        local_id = environ.get("SUBMITIT_LOCAL_JOB_ID") or str(os.getpid())
        return JobFacts(local_id, node, True, devices, None, now_unix)
    start, end = _number(environ, "SLURM_JOB_START_TIME"), _number(environ, "SLURM_JOB_END_TIME")
    if end is None:  # before Slurm 22.05
        end = now_unix + spec.placement.walltime_s if spec.placement else None
    elif start is not None and not start <= now_unix <= start + LATE_S:
        now_unix = start
    return JobFacts(job_id, node, False, devices, end, now_unix)


def _number(environ: Mapping[str, str], name: str) -> float | None:
    with contextlib.suppress(KeyError, ValueError):
        return float(environ[name])
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
