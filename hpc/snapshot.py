"""What the cluster has and what is free, from two Slurm commands, or by PySlurm where it matches.

``scontrol show node`` and ``show partition`` print ``Key=Value`` text in every version; their JSON
came with 23.02 only and changed since. ``--details`` adds ``GresUsed``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from modeltainer.hpc.commands import SlurmError, run, slurm_version
from modeltainer.hpc.gres import Gres, free, parse_gres
from modeltainer.hpc.hostlist import expand
from modeltainer.hpc.shards import SharedGpus, shared_gpus, without_shared

_UNUSABLE = frozenset(
    {
        "DOWN",
        "DRAIN",
        "DRAINED",
        "DRAINING",
        "ERROR",
        "FAIL",
        "FAILING",
        "FUTURE",
        "INVAL",
        "INVALID_REG",
        "MAINT",
        "MAINTENANCE",
        "NOT_RESPONDING",
        "POWERING_DOWN",
        "REBOOT",
        "REBOOT_REQUESTED",
        "REBOOT_ISSUED",
        "RESERVED",
        "UNKNOWN",
        "BLOCKED",
        "PERFCTRS",
    }
)


@dataclass(frozen=True)
class Node:
    """One node; memory in MiB."""

    name: str
    state: str
    """As scontrol prints it: a base state and flags, ``MIXED+DRAIN``."""
    cpus_total: int
    cpus_free: int
    memory_mib: int
    memory_free_mib: int
    """Not yet promised to a job."""
    gres: tuple[Gres, ...] = ()
    gres_used: tuple[Gres, ...] = ()
    features: tuple[str, ...] = ()
    partitions: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Jobs may start on it now, if it has room."""
        return not self.flags & _UNUSABLE

    @property
    def flags(self) -> frozenset[str]:
        """The state's parts without the marks that sinfo(1) puts behind them (``*~#!%$@^-``)."""
        parts = re.split(r"\+", self.state.upper())
        flags = {part.strip("*~#!%$@^- ") for part in parts}
        return frozenset(flags | ({"NOT_RESPONDING"} if "*" in self.state else set()))

    @property
    def gres_free(self) -> tuple[Gres, ...]:
        return without_shared(free(self.gres, self.gres_used), self.gres_used)

    @property
    def shared(self) -> tuple[SharedGpus, ...]:
        """Its GPUs that jobs may share."""
        return shared_gpus(self.gres, self.gres_used)


@dataclass(frozen=True)
class Partition:
    """One partition; times in seconds, None for no limit (or none stated)."""

    name: str
    default: bool = False
    max_time_s: int | None = None
    default_time_s: int | None = None
    up: bool = True
    nodes: tuple[str, ...] = ()
    allow_accounts: tuple[str, ...] | None = None
    """None: all."""
    deny_accounts: tuple[str, ...] = ()
    allow_qos: tuple[str, ...] | None = None
    closed: bool = False
    """Only root, or only jobs in a reservation, may use it (``RootOnly``, ``ReqResv``)."""
    priority_tier: int = 1
    preemptible: bool = False
    """Jobs here may be preempted (``PreemptMode`` is set)."""
    state: str = "UP"
    """``UP``, ``DOWN``, ``DRAIN`` or ``INACTIVE``."""
    max_cpus_per_node: int | None = None
    max_memory_per_node_mib: int | None = None


@dataclass(frozen=True)
class Snapshot:
    """The cluster at one moment."""

    nodes: tuple[Node, ...] = ()
    partitions: tuple[Partition, ...] = ()
    version: tuple[int, int] = (0, 0)
    _by_name: dict[str, Node] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._by_name.update({node.name: node for node in self.nodes})

    def partition(self, name: str) -> Partition | None:
        return next((one for one in self.partitions if one.name == name), None)

    def nodes_of(self, partition: Partition) -> tuple[Node, ...]:
        """The partition's nodes, in its order; those the node list does not show are left out."""
        return tuple(self._by_name[name] for name in partition.nodes if name in self._by_name)


def take_snapshot() -> Snapshot:
    """Ask Slurm for its nodes and partitions.

    Raises:
        SlurmError: no answer, or one that shows no partition.
    """
    version = slurm_version()
    nodes, partitions = _by_pyslurm(version) or _by_commands()
    if not partitions:
        raise SlurmError("Slurm shows no partition that you may use; ask the site for an account")
    return Snapshot(nodes, partitions, version)


def _by_commands() -> tuple[tuple[Node, ...], tuple[Partition, ...]]:
    nodes = parse_nodes(run(["scontrol", "show", "node", "--oneliner", "--details"]))
    return nodes, parse_partitions(run(["scontrol", "show", "partition", "--oneliner"]))


def _by_pyslurm(
    version: tuple[int, int],
) -> tuple[tuple[Node, ...], tuple[Partition, ...]] | None:
    """None where PySlurm is not there, not for this release, or fails: the commands always work."""
    from modeltainer.hpc import pyslurm_source

    pyslurm = pyslurm_source.matching(version)
    if pyslurm is None:
        return None
    try:
        return pyslurm_source.nodes(pyslurm), pyslurm_source.partitions(pyslurm)
    except Exception:  # whatever an extension of another release may raise
        return None


_KEY = re.compile(r"(?:^|\s)([A-Za-z][\w:/.-]*)=")


def parse_record(line: str) -> dict[str, str]:
    """One ``--oneliner`` record as a dictionary.

    Values may hold spaces (``OS=Linux 6.1 #1 SMP``, ``Reason=not responding [root@…]``): a value
    ends where the next ``Key=`` begins. The first mention of a key counts, so that free text at the
    end of a node's record (``Reason=``, ``Comment=``) cannot overwrite a field.
    """
    found = list(_KEY.finditer(line))
    record: dict[str, str] = {}
    for at, match in enumerate(found):
        end = found[at + 1].start() if at + 1 < len(found) else len(line)
        record.setdefault(match[1], line[match.end() : end].strip())
    return record


def parse_nodes(text: str) -> tuple[Node, ...]:
    """Read ``scontrol show node --oneliner --details``; lines of another shape are left out."""
    return tuple(
        node
        for line in text.splitlines()
        if line.startswith("NodeName=") and (node := _node(parse_record(line))) is not None
    )


def parse_partitions(text: str) -> tuple[Partition, ...]:
    """Read ``scontrol show partition --oneliner``; lines of another shape are left out."""
    return tuple(
        _partition(parse_record(line))
        for line in text.splitlines()
        if re.match(r"PartitionName=\S", line)
    )


def _node(record: dict[str, str]) -> Node | None:
    name = record.get("NodeName", "")
    if not name:
        return None
    cpus = _number(record.get("CPUEfctv") or record.get("CPUTot"))
    memory = _number(record.get("RealMemory"))
    # MemSpecLimit is kept back for the system and never given to jobs.
    memory -= min(memory, _number(record.get("MemSpecLimit")))
    return Node(
        name=name,
        state=record.get("State", "UNKNOWN").split(" ")[0],
        cpus_total=cpus,
        cpus_free=max(0, cpus - _number(record.get("CPUAlloc"))),
        memory_mib=memory,
        memory_free_mib=max(0, memory - _number(record.get("AllocMem"))),
        gres=parse_gres(record.get("Gres")),
        gres_used=parse_gres(record.get("GresUsed") or _gres_of(record.get("AllocTRES"))),
        features=_words(record.get("ActiveFeatures") or record.get("AvailableFeatures")),
        partitions=_words(record.get("Partitions")),
    )


def _gres_of(tres: str | None) -> str:
    return ",".join(part for part in (tres or "").split(",") if part.startswith("gres/"))


def _partition(record: dict[str, str]) -> Partition:
    state = record.get("State", "UP").upper()
    return Partition(
        name=record["PartitionName"],
        default=record.get("Default", "NO").upper() == "YES",
        max_time_s=parse_time_s(record.get("MaxTime")),
        default_time_s=parse_time_s(record.get("DefaultTime")),
        up=state == "UP",
        nodes=expand(record.get("Nodes", "")),
        allow_accounts=_allowed(record.get("AllowAccounts")),
        deny_accounts=_words(record.get("DenyAccounts")),
        allow_qos=_allowed(record.get("AllowQos")),
        closed="YES" in {record.get(name, "NO").upper() for name in ("RootOnly", "ReqResv")},
        priority_tier=_number(record.get("PriorityTier"), 1),
        preemptible=record.get("PreemptMode", "OFF").upper().split(",")[0] not in {"OFF", "GANG"},
        state=state,
        max_cpus_per_node=_limit(record.get("MaxCPUsPerNode")),
        max_memory_per_node_mib=_limit(record.get("MaxMemPerNode")),
    )


def parse_time_s(text: str | None) -> int | None:
    """A time span of Slurm's in seconds: ``D-HH:MM:SS``, ``D-HH``, ``HH:MM:SS``, ``MM:SS``,
    ``MM``; None for ``UNLIMITED``, ``INFINITE``, ``NONE``, ``(null)``, nothing, or nonsense."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", (text or "").strip())
    if not found:
        return None
    days, *parts = (None if part is None else int(part) for part in found.groups())
    given = [part for part in parts if part is not None]
    if days is not None:  # D-HH[:MM[:SS]]
        hours, minutes, seconds = [*given, 0, 0][:3]
    elif len(given) == 3:
        hours, minutes, seconds = given
    else:  # MM[:SS]
        hours, (minutes, seconds) = 0, [*given, 0][:2]
    return (days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds


def _number(text: str | None, otherwise: int = 0) -> int:
    found = re.match(r"\d+", text or "")
    return int(found[0]) if found else otherwise


def _limit(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None


def _words(text: str | None) -> tuple[str, ...]:
    if text is None or text in {"", "(null)", "N/A"}:
        return ()
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _allowed(text: str | None) -> tuple[str, ...] | None:
    words: Iterable[str] = _words(text)
    listed = tuple(words)
    return None if not listed or listed == ("ALL",) else listed
