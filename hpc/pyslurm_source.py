"""Nodes and partitions by PySlurm, which asks the controller without a process of Slurm's.

PySlurm is bound to one release of Slurm's library: it is used only where its release is that of the
commands. Attributes: PySlurm 25.11, ``pyslurm/core/node.pyx`` and ``partition.pyx``.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from modeltainer.hpc.gres import parse_gres
from modeltainer.hpc.hostlist import expand
from modeltainer.hpc.snapshot import Node, Partition


def matching(slurm: tuple[int, int]) -> ModuleType | None:
    """PySlurm, where it is installed, loads, and is made for this release of Slurm."""
    try:
        module = importlib.import_module("pyslurm")
        major, minor = str(module.__version__).split(".")[:2]
    except (ImportError, OSError, AttributeError, ValueError):
        return None  # an extension whose libslurm is gone fails as it likes
    return module if (int(major), int(minor)) == slurm else None


def nodes(pyslurm: ModuleType) -> tuple[Node, ...]:
    """Every node. Raises what PySlurm raises (``RPCError``)."""
    return tuple(_node(one) for one in pyslurm.Nodes.load().values())


def partitions(pyslurm: ModuleType) -> tuple[Partition, ...]:
    """Every partition. Raises what PySlurm raises (``RPCError``)."""
    return tuple(_partition(one) for one in pyslurm.Partitions.load().values())


def _node(one: Any) -> Node:
    memory = _number(one.real_memory)
    memory -= min(memory, _number(one.memory_reserved_for_system))
    cpus = _number(one.effective_cpus) or _number(one.total_cpus)
    used: Mapping[str, Any] = one.allocated_tres or {}
    return Node(
        name=one.name,
        state=one.state,
        cpus_total=cpus,
        cpus_free=max(0, cpus - _number(one.allocated_cpus)),
        memory_mib=memory,
        memory_free_mib=max(0, memory - _number(one.allocated_memory)),
        gres=parse_gres(_joined(one.configured_gres or {}, ":")),
        gres_used=parse_gres(
            _joined({name: n for name, n in used.items() if name.startswith("gres/")}, "=")
        ),
        features=tuple(one.active_features or one.available_features or ()),
        partitions=tuple(one.partitions or ()),
    )


def _partition(one: Any) -> Partition:
    state = str(one.state).upper()
    mode = str(one.preempt_mode or "OFF").upper().split(",")[0]
    return Partition(
        name=one.name,
        default=bool(one.is_default),
        max_time_s=_seconds(one.max_time),
        default_time_s=_seconds(one.default_time),
        up=state == "UP",
        nodes=expand(one.nodes or ""),
        allow_accounts=_listed(one.allowed_accounts),
        deny_accounts=_listed(one.denied_accounts) or (),
        allow_qos=_listed(one.allowed_qos),
        closed=bool(one.is_root_only or one.requires_reservation),
        priority_tier=_number(one.priority_tier, 1),
        preemptible=mode not in {"OFF", "GANG"},
        state=state,
        max_cpus_per_node=_limit(one.max_cpus_per_node),
        max_memory_per_node_mib=_limit(one.max_memory_per_node),
    )


def _joined(counts: Mapping[str, Any], between: str) -> str:
    plain = ((name, n["count"] if isinstance(n, dict) else n) for name, n in counts.items())
    return ",".join(f"{name}{between}{n}" for name, n in plain)


def _number(value: object, otherwise: int = 0) -> int:
    return value if isinstance(value, int) else otherwise


def _limit(value: object) -> int | None:
    """PySlurm says ``UNLIMITED``, or None where nothing is set."""
    return value if isinstance(value, int) else None


def _seconds(minutes: object) -> int | None:
    return minutes * 60 if isinstance(minutes, int) else None


def _listed(names: Iterable[str] | None) -> tuple[str, ...] | None:
    """None: all."""
    found = tuple(names or ())
    return None if not found or found == ("ALL",) else found
