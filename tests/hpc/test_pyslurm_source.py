"""PySlurm in the place of scontrol.

PySlurm builds only against Slurm 25.11, which Debian does not have: a stand-in with the attributes
of its classes (pyslurm/core/node.pyx and partition.pyx) takes its place.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from modeltainer.hpc import pyslurm_source, snapshot
from modeltainer.hpc.snapshot import parse_nodes, parse_partitions, take_snapshot

NODES = (
    "NodeName=g1 CPUAlloc=8 CPUEfctv=62 CPUTot=64 ActiveFeatures=a100,ib Gres=gpu:a100:2,"
    "gpu:a100_1g.10gb:4 RealMemory=256000 AllocMem=64000 MemSpecLimit=4000 State=MIXED "
    "Partitions=gpu,all AllocTRES=cpu=8,mem=62.50G,gres/gpu:a100=1\n"
)
PARTITIONS = (
    "PartitionName=gpu AllowAccounts=lab,ops AllowQos=ALL Default=YES DefaultTime=01:00:00 "
    "MaxTime=2-00:00:00 MaxCPUsPerNode=UNLIMITED MaxMemPerNode=UNLIMITED Nodes=g[1-2] "
    "PreemptMode=OFF PriorityTier=10 ReqResv=NO RootOnly=NO State=UP\n"
    "PartitionName=scavenger AllowAccounts=ALL AllowQos=ALL Default=NO DefaultTime=NONE "
    "MaxTime=UNLIMITED MaxCPUsPerNode=32 MaxMemPerNode=8000 Nodes=g1 PreemptMode=REQUEUE "
    "PriorityTier=1 ReqResv=NO RootOnly=YES State=DOWN\n"
)
NODE = SimpleNamespace(
    name="g1",
    state="MIXED",
    effective_cpus=62,
    total_cpus=64,
    allocated_cpus=8,
    real_memory=256000,
    memory_reserved_for_system=4000,
    allocated_memory=64000,
    configured_gres={"gpu:a100": 2, "gpu:a100_1g.10gb": 4},
    allocated_tres={"cpu": 8, "mem": "62.50G", "gres/gpu:a100": 1},
    active_features=["a100", "ib"],
    available_features=["a100", "ib", "old"],
    partitions=["gpu", "all"],
)
GPU = SimpleNamespace(
    name="gpu",
    is_default=True,
    max_time=2880,
    default_time=60,
    state="UP",
    nodes="g[1-2]",
    allowed_accounts=["lab", "ops"],
    denied_accounts=["ALL"],
    allowed_qos=["ALL"],
    is_root_only=False,
    requires_reservation=False,
    priority_tier=10,
    preempt_mode="OFF",
    max_cpus_per_node="UNLIMITED",
    max_memory_per_node="UNLIMITED",
)
SCAVENGER = SimpleNamespace(
    **{
        **vars(GPU),
        "name": "scavenger",
        "is_default": False,
        "max_time": "UNLIMITED",
        "default_time": None,
        "state": "DOWN",
        "nodes": "g1",
        "allowed_accounts": ["ALL"],
        "is_root_only": True,
        "priority_tier": 1,
        "preempt_mode": "REQUEUE",
        "max_cpus_per_node": 32,
        "max_memory_per_node": 8000,
    }
)


def stand_in(version: str = "25.11.2", nodes: Any = None) -> ModuleType:
    module = ModuleType("pyslurm")
    found = {"g1": NODE} if nodes is None else nodes
    both = {"gpu": GPU, "scavenger": SCAVENGER}
    module.__dict__.update(
        __version__=version,
        Nodes=SimpleNamespace(load=lambda: found),
        Partitions=SimpleNamespace(load=lambda: both),
    )
    return module


def test_it_tells_what_scontrol_tells() -> None:
    assert pyslurm_source.nodes(stand_in()) == parse_nodes(NODES)
    assert pyslurm_source.partitions(stand_in()) == parse_partitions(PARTITIONS)


@pytest.mark.parametrize(
    ("module", "slurm", "used"),
    [
        (stand_in(), (25, 11), True),
        (stand_in(), (26, 5), False),
        (stand_in("18.8.0"), (25, 11), False),
        (stand_in("strange"), (25, 11), False),
        (stand_in(nodes=SimpleNamespace()), (25, 11), False),  # it fails
        (None, (25, 11), False),
    ],
)
def test_it_is_used_only_where_it_matches_and_works(
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType | None,
    slurm: tuple[int, int],
    used: bool,
) -> None:
    asked: list[str] = []

    def run(argv: list[str]) -> str:
        asked.append(argv[2])
        return NODES if argv[2] == "node" else PARTITIONS

    monkeypatch.setattr(snapshot, "run", run)
    monkeypatch.setattr(snapshot, "slurm_version", lambda: slurm)
    monkeypatch.setitem(sys.modules, "pyslurm", module)
    found = take_snapshot()
    assert found.nodes == parse_nodes(NODES)
    assert found.partitions == parse_partitions(PARTITIONS)
    assert found.version == slurm
    assert asked == ([] if used else ["node", "partition"])
